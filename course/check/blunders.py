"""Blunders possible in any answer, reported if no mistake of the exercise fits: order and units."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from course.check.seen import Seen

FACTORS = {
    **{10.0**k: f"{10**k:,}" for k in (2, 3, 6, 9, 12)},
    **{2.0**k: f"2^{k}" for k in (10, 20, 30)},
    60.0: "60",
    1.024: "1.024 (1,024 and 1,000)",
    2.0**20 / 1e6: "1.05 (MiB and MB)",
    2.0**30 / 1e9: "1.07 (GiB and GB)",
}
MOST_VALUES = 4


def blunder(failing: Sequence[Seen]) -> str:
    """Return a sentence about what all failing observations have in common, or "".

    It recognises several plain values returned in another order, and numbers that are all too
    large, or all too small, by the same factor, if that factor is one between units.
    """
    pairs = [(_values(seen.got), _values(seen.wanted)) for seen in failing]
    if not pairs or any(not got or not wanted or len(got) != len(wanted) for got, wanted in pairs):
        return ""
    return _order(pairs) or _units(pairs)


def _values(x: Any) -> tuple:
    """Return an answer's plain values; () if there is anything else in it."""
    values = tuple(x) if isinstance(x, (tuple, list)) else (x,)
    plain = all(isinstance(value, (int, float, str)) for value in values)
    return values if plain and len(values) <= MOST_VALUES else ()


def _order(pairs: list[tuple[tuple, tuple]]) -> str:
    length = len(pairs[0][0])
    if length < 2 or any(len(got) != length for got, _ in pairs):
        return ""
    for places in itertools.permutations(range(length)):
        if places != tuple(range(length)) and all(
            not _close(got, wanted) and _close(got, [wanted[place] for place in places])
            for got, wanted in pairs
        ):
            return "The values are right, but they come in another **order**: see what is returned."
    return ""


def _units(pairs: list[tuple[tuple, tuple]]) -> str:
    ratios = []
    for got, wanted in pairs:
        for x, y in zip(got, wanted, strict=True):
            if _equal(x, y):
                continue
            if not (_is_number(x) and _is_number(y) and y and x):
                return ""
            ratios.append(x / y)
    if not ratios or any(not math.isclose(r, ratios[0], rel_tol=1e-3) for r in ratios):
        return ""
    size, far = (ratios[0], "large") if ratios[0] > 1 else (1 / ratios[0], "small")
    for factor, name in FACTORS.items():
        if math.isclose(size, factor, rel_tol=1e-3):
            return (
                f"Wherever it is wrong, it is too {far} by a factor of {name}: check the **units**."
            )
    return ""


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _equal(x: Any, y: Any) -> bool:
    if _is_number(x) and _is_number(y):
        return math.isclose(x, y, rel_tol=1e-4, abs_tol=1e-12)
    return type(x) is type(y) and x == y


def _close(got: Sequence, wanted: Sequence) -> bool:
    return all(map(_equal, got, wanted))
