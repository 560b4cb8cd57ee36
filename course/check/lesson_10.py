"""Exercises of lesson 10, one module each: what must hold, and what people get wrong."""

from course.check.lesson_10_rule import RULE
from course.check.lesson_10_sizes import SIZES
from course.check.lesson_10_waves import WAVES

EXERCISES = (WAVES, RULE, SIZES)
