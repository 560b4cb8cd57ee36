"""Things to play with in a lesson: sliders in front of figures that the lesson also has in print.

A widget needs a running kernel. Beside each one the lesson shows a static figure of the same
numbers, for those who read it on the web. One module per widget; `explorer` is what they share.
"""

from course.widgets.stepper import stepper

__all__ = ["stepper"]
