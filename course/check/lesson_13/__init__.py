"""Exercises of lesson 13, one file each: what must hold, and what people get wrong."""

from course.check.lesson_13.choose import CHOOSE
from course.check.lesson_13.fold import FOLD
from course.check.lesson_13.quantize import QUANTIZE
from course.check.lesson_13.quantized_kernel import QUANTIZED_KERNEL

EXERCISES = (QUANTIZE, FOLD, QUANTIZED_KERNEL, CHOOSE)
