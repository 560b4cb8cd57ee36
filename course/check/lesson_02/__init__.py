"""Exercises of lesson 02, one file each: what must hold, and what people get wrong."""

from course.check.lesson_02.append import APPEND
from course.check.lesson_02.decode_limit import INTENSITY
from course.check.lesson_02.kv_plan import USERS

EXERCISES = (APPEND, INTENSITY, USERS)
"""In the order of the lesson: the cache, the roofline, the memory."""
