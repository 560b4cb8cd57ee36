"""Exercises of lesson 06, one module each: what must hold, and what people get wrong."""

from course.check.lesson_06_causal import CAUSAL
from course.check.lesson_06_heads import HEADS
from course.check.lesson_06_tile import TILE

EXERCISES = (TILE, CAUSAL, HEADS)
