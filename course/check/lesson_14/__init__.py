"""Exercises of lesson 14, one file each: what must hold, and what people get wrong."""

from course.check.lesson_14.accept import ACCEPT
from course.check.lesson_14.best_draft import BEST_DRAFT
from course.check.lesson_14.tree_mask import TREE_MASK

EXERCISES = (ACCEPT, TREE_MASK, BEST_DRAFT)
