"""Exercises of lesson 00, one file each: what must hold, and what people get wrong."""

from course.check.lesson_00.cache_bytes import CACHE_BYTES
from course.check.lesson_00.decode_step import DECODE_STEP

EXERCISES = (DECODE_STEP, CACHE_BYTES)
"""Two warm-ups."""
