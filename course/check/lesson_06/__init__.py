"""Exercises of lesson 06, one file each: what must hold, and what people get wrong."""

from course.check.lesson_06.causal import CAUSAL
from course.check.lesson_06.forward import FORWARD
from course.check.lesson_06.heads import HEADS
from course.check.lesson_06.one_tile import TILE

EXERCISES = (TILE, CAUSAL, HEADS, FORWARD)
