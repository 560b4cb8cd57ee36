"""Exercises of lesson 15, one file each: what must hold, and what people get wrong."""

from course.check.lesson_15.schedule import SCHEDULE

EXERCISES = (SCHEDULE,)
