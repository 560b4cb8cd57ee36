"""Exercises of lesson 05, one file each: what must hold, and what people get wrong."""

from course.check.lesson_05.scale_and_shift import SCALE_SHIFT
from course.check.lesson_05.strides import STRIDES
from course.check.lesson_05.wide_softmax import WIDE_SOFTMAX

EXERCISES = (SCALE_SHIFT, WIDE_SOFTMAX, STRIDES)
