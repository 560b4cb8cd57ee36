"""Exercises of lesson 03, one file each: what must hold, and what people get wrong."""

from course.check.lesson_03.merge import MERGE
from course.check.lesson_03.merge_all import MERGE_ALL
from course.check.lesson_03.one_pass import ONE_PASS

EXERCISES = (ONE_PASS, MERGE, MERGE_ALL)
