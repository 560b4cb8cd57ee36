"""Exercises of lesson 09, one module each: what must hold, and what people get wrong."""

from course.check.lesson_09_bug import BUG
from course.check.lesson_09_combine import COMBINE
from course.check.lesson_09_pack import PACK
from course.check.lesson_09_range import RANGE

EXERCISES = (RANGE, COMBINE, PACK, BUG)
