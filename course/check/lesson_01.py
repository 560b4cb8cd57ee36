"""Exercises of lesson 01, one module each: what must hold, and what people get wrong."""

from course.check.lesson_01_cost import ATTENTION_COST
from course.check.lesson_01_gqa import GROUPED_ATTENTION
from course.check.lesson_01_mask import CAUSAL_MASK
from course.check.lesson_01_softmax import SAFE_SOFTMAX

EXERCISES = (SAFE_SOFTMAX, CAUSAL_MASK, GROUPED_ATTENTION, ATTENTION_COST)
