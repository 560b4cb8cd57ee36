"""Exercises of lesson 04, one file each: what must hold, and what people get wrong."""

from course.check.lesson_04.dv_and_ds import DV_AND_DS
from course.check.lesson_04.skipped_tiles import SKIPPED
from course.check.lesson_04.tile_loop import TILE_LOOP

EXERCISES = (TILE_LOOP, SKIPPED, DV_AND_DS)
