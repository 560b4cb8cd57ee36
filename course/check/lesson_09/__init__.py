"""Exercises of lesson 09, one file each: what must hold, and what people get wrong."""

from course.check.lesson_09.combine_kernel import COMBINE
from course.check.lesson_09.issue_share import ISSUE_SHARE
from course.check.lesson_09.key_range import RANGE
from course.check.lesson_09.mended import BUG
from course.check.lesson_09.pack import PACK
from course.check.lesson_09.split_kernel import SPLIT_KERNEL

EXERCISES = (RANGE, COMBINE, PACK, BUG, SPLIT_KERNEL, ISSUE_SHARE)
