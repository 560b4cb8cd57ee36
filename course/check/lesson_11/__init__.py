"""Exercises of lesson 11, one file each: what must hold, and what people get wrong."""

from course.check.lesson_11.find_rounding import ROUNDING
from course.check.lesson_11.tolerance import TOLERANCE
from course.check.lesson_11.window import WINDOW

EXERCISES = (ROUNDING, TOLERANCE, WINDOW)
