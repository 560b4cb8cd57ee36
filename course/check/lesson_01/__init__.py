"""Exercises of lesson 01, one file each: what must hold, and what people get wrong."""

from course.check.lesson_01.attention_cost import ATTENTION_COST
from course.check.lesson_01.causal_mask import CAUSAL_MASK
from course.check.lesson_01.grouped_attention import GROUPED_ATTENTION
from course.check.lesson_01.safe_softmax import SAFE_SOFTMAX

EXERCISES = (SAFE_SOFTMAX, CAUSAL_MASK, GROUPED_ATTENTION, ATTENTION_COST)
