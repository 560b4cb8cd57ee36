"""Exercises of lesson 08, one file each: what must hold, and what people get wrong."""

from course.check.lesson_08.combine import COMBINE
from course.check.lesson_08.partial import PARTIAL
from course.check.lesson_08.workspace import WORKSPACE

EXERCISES = (PARTIAL, COMBINE, WORKSPACE)
