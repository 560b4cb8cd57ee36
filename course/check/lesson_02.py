"""Exercises of lesson 02, one module each: what must hold, and what people get wrong."""

from course.check.lesson_02_append import APPEND
from course.check.lesson_02_intensity import INTENSITY
from course.check.lesson_02_users import USERS

EXERCISES = (APPEND, INTENSITY, USERS)
"""In the order of the lesson: the cache, the roofline, the memory."""
