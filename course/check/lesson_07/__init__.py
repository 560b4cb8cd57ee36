"""Exercises of lesson 07, one file each: what must hold, and what people get wrong."""

from course.check.lesson_07.bandwidth import BANDWIDTH
from course.check.lesson_07.predict import LATENCY
from course.check.lesson_07.sm_load import LOAD

EXERCISES = (LOAD, LATENCY, BANDWIDTH)
