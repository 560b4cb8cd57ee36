"""All pairs of levels of any two factors, in few cases: a covering list, made greedily.

The full cross of a kernel's features has millions of cases; most bugs need two features to meet.
"""

import random
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

Row = dict[str, Any]


def pairs_of(row: Row) -> set[tuple]:
    """Return the pairs of (factor, level) that a case covers; levels are told apart by repr."""
    return set(combinations([(name, repr(level)) for name, level in row.items()], 2))


def covering(
    factors: Mapping[str, Sequence[Any]], candidates: int = 20, seed: int = 0
) -> list[Row]:
    """Return cases in which all pairs of levels of any two factors occur; always the same cases.

    Each case begins with a pair that is still missing; every further factor takes the level that
    covers most of what is missing. The best of some random candidates is kept.
    """
    draw, names = random.Random(seed), list(factors)
    missing = {
        pair
        for a, b in combinations(names, 2)
        for x, y in product(factors[a], factors[b])
        for pair in pairs_of({a: x, b: y})
    }
    rows: list[Row] = []
    while missing:
        first = min(missing)
        built = [_build(factors, names, first, missing, draw) for _ in range(candidates)]
        rows.append(max(built, key=lambda row: len(pairs_of(row) & missing)))
        missing -= pairs_of(rows[-1])
    return rows


def _build(
    factors: Mapping[str, Sequence[Any]], names: list[str], pair: tuple, missing: set, draw: Any
) -> Row:
    """One candidate that covers `pair`."""
    level = {name: {repr(x): x for x in factors[name]} for name in names}
    chosen = {name: level[name][text] for name, text in pair}
    for name in draw.sample(names, len(names)):
        if name not in chosen:
            levels = draw.sample(list(factors[name]), len(factors[name]))
            chosen[name] = max(levels, key=lambda x: _gain(names, chosen, name, x, missing))
    return {name: chosen[name] for name in names}


def _gain(names: list[str], chosen: Row, name: str, level: Any, missing: set) -> int:
    """How many missing pairs a level adds to what is chosen already."""
    ours, gain = (name, repr(level)), 0
    for other, its in chosen.items():
        theirs = (other, repr(its))
        first = names.index(other) < names.index(name)
        gain += ((theirs, ours) if first else (ours, theirs)) in missing
    return gain
