"""Exercises of lesson 10, one file each: what must hold, and what people get wrong."""

from course.check.lesson_10.fixed_size import SIZES
from course.check.lesson_10.slot_time import WAVES
from course.check.lesson_10.split_rule import RULE

EXERCISES = (WAVES, RULE, SIZES)
