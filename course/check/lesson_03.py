"""Exercises of lesson 03, one module each: what must hold, and what people get wrong."""

from course.check.lesson_03_merge import MERGE
from course.check.lesson_03_merge_all import MERGE_ALL
from course.check.lesson_03_one_pass import ONE_PASS

EXERCISES = (ONE_PASS, MERGE, MERGE_ALL)
