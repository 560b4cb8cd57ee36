"""Checks of the exercises: fresh inputs, named properties, and mistakes recognised by name.

    from course.check import check
    check("3.2 merge", merge)

prints a report, and raises `CheckFailed` if a property does not hold. A folder per lesson
(`lesson_03/`), with one file per exercise, says what must hold and what people get wrong; `spec`
is the frame that they are written in, `judge` decides, `report` tells the learner.
"""

from course.check.judge import CheckFailed, check, judge
from course.check.seen import NotVerified, Seen
from course.check.spec import Exercise, Mistake, Property

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
