"""Exercises of lesson 05, one module each: what must hold, and what people get wrong."""

from course.check.lesson_05_scale_shift import SCALE_SHIFT
from course.check.lesson_05_softmax import WIDE_SOFTMAX
from course.check.lesson_05_strides import STRIDES

EXERCISES = (SCALE_SHIFT, WIDE_SOFTMAX, STRIDES)
