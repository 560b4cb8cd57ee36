"""Exercises of lesson 17, one module each: what must hold, and what people get wrong."""

from course.check.lesson_17_design import DESIGN
from course.check.lesson_17_flaw import FLAW
from course.check.lesson_17_shape import SHAPE

EXERCISES = (FLAW, DESIGN, SHAPE)
