"""Exercises of lesson 04, one module each: what holds, and what people get wrong."""

from course.check.lesson_04_backward import DV_AND_DS
from course.check.lesson_04_skipped import SKIPPED
from course.check.lesson_04_tiles import TILE_LOOP

EXERCISES = (TILE_LOOP, SKIPPED, DV_AND_DS)
