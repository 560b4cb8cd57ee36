"""The kinds of plain results: a whole number is not a float, and neither is a tensor."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from course.check.seen import Seen


def kind(x: Any) -> str:
    """Return "int", "float" or a type's name; of several values, "int and str".

    NumPy's numbers count as Python's.
    """
    if isinstance(x, (tuple, list)):
        return " and ".join(map(kind, x))
    if isinstance(x, bool) or not isinstance(x, Real):
        return type(x).__name__
    return "int" if isinstance(x, Integral) else "float"


def kinds_seen(answer: Any, args: tuple, wanted: str) -> Seen:
    """Ask which kinds of values an answer returns; wanted: as `kind` says it."""
    several = "the types of the results" if " and " in wanted else "the type of the result"
    return Seen(kind(answer(*args)), wanted, several)
