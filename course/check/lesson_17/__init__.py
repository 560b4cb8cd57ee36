"""Exercises of lesson 17, one file each: what must hold, and what people get wrong."""

from course.check.lesson_17.benchmark import DESIGN
from course.check.lesson_17.classify import SHAPE
from course.check.lesson_17.find_flaw import FLAW

EXERCISES = (FLAW, DESIGN, SHAPE)
