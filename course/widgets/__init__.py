"""Things to play with in a lesson: sliders for figures that the lesson also shows without them.

A widget needs a running kernel. Next to each one, the lesson shows a static figure of the same
numbers, for those who read it on the web. One module per widget; `explorer` is what they share.
"""

from course.widgets.draft_tree import draft_tree
from course.widgets.kv_memory import kv_memory
from course.widgets.many_gpus import many_gpus
from course.widgets.roofline import roofline
from course.widgets.serving_timeline import serving_timeline
from course.widgets.sm_timeline import sm_timeline
from course.widgets.split_curve import split_curve
from course.widgets.stepper import stepper

__all__ = [
    "draft_tree",
    "kv_memory",
    "many_gpus",
    "roofline",
    "serving_timeline",
    "sm_timeline",
    "split_curve",
    "stepper",
]
