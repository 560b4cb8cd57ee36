"""Checks of the exercises: fresh inputs, named properties, and mistakes recognised by name.

    from course.check import check
    check("3.2 merge", merge)

prints a report, and raises `CheckFailed` if a property does not hold. One file of specs per
lesson (`lesson_03.py`, its exercises in `lesson_03_*.py`) says what must hold and what people get
wrong; `judge` decides, `report` tells the learner.
"""

from course.check.judge import CheckFailed, check, judge
from course.check.spec import Exercise, Mistake, NotVerified, Property, Seen

__all__ = [
    "CheckFailed",
    "Exercise",
    "Mistake",
    "NotVerified",
    "Property",
    "Seen",
    "check",
    "judge",
]
