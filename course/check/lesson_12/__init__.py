"""Exercises of lesson 12, one file each: what must hold, and what people get wrong."""

from course.check.lesson_12.gather import GATHER
from course.check.lesson_12.paged_kernel import PAGED_KERNEL
from course.check.lesson_12.pages import PAGES

EXERCISES = (GATHER, PAGES, PAGED_KERNEL)
