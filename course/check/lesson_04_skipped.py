"""Exercise 4.2: count the tiles that a causal mask makes unnecessary."""

from __future__ import annotations

import math
from collections.abc import Callable

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen
from reference.attention import causal_mask


def _by_the_mask(Lq: int, Lk: int, bm: int, bn: int) -> int:
    """The definition: tiles of the whole mask in which nothing is visible."""
    tiles = [part for rows in causal_mask(Lq, Lk).split(bm) for part in rows.split(bn, dim=1)]
    return sum(not part.any() for part in tiles)


def _count(answer: Callable, Lq: int, Lk: int, bm: int, bn: int) -> Seen:
    return Seen.of(answer, (Lq, Lk, bm, bn), wanted=_by_the_mask(Lq, Lk, bm, bn))


def _by_hand(answer, rng):
    return [_count(answer, 6, 6, 2, 2), _count(answer, 4, 6, 2, 2), _count(answer, 6, 4, 2, 2)]


def _square(answer, rng):
    b = integer(rng, 2, 5)
    L = b * integer(rng, 4, 8)
    return _count(answer, L, L, b, b)


def _unequal_tiles(answer, rng):
    bm = integer(rng, 2, 3)
    bn = bm * integer(rng, 2, 3)
    L = bm * bn * 2
    return [_count(answer, L, L, bm, bn), _count(answer, L, L, bn, bm)]


def _more_keys(answer, rng):
    bm, bn = integer(rng, 2, 4), integer(rng, 2, 4)
    Lq = bm * integer(rng, 3, 5) + 1
    return _count(answer, Lq, Lq + bn * integer(rng, 1, 4) + 1, bm, bn)


def _more_queries(answer, rng):
    bm, bn = integer(rng, 2, 4), integer(rng, 2, 4)
    Lk = bn * integer(rng, 2, 4) + 1
    return _count(answer, Lk + 3 * max(bm, bn) + 1, Lk, bm, bn)


def _one_query(answer, rng):
    return _count(answer, 1, integer(rng, 20, 60), integer(rng, 1, 64), 8)


def _any_sizes(answer, rng):
    sizes = [[integer(rng, 1, 40), integer(rng, 1, 40)] for _ in range(8)]
    return [_count(answer, *pair, integer(rng, 1, 9), integer(rng, 1, 9)) for pair in sizes]


def _with_fault(wrong: str) -> Callable:
    """The count with one fault in it."""

    def answer(Lq, Lk, block_m, block_n):
        if wrong == "tile sizes swapped":
            block_m, block_n = block_n, block_m
        rounded = math.floor if wrong == "tails dropped" else math.ceil
        tiles, total = rounded(Lk / block_n), 0
        offset = 0 if wrong.startswith("top-left") else Lk - Lq
        if wrong == "distance":
            offset = abs(offset)
        for i in range(rounded(Lq / block_m)):
            first = i * block_m + offset
            end = (
                (i + 1) * block_m if wrong == "short tile as a whole one" else _end(i, block_m, Lq)
            )
            last = end - 1 + offset
            seen = {"the first query decides": first + 1, "not itself": last}.get(wrong, last + 1)
            stop = seen // block_n if wrong == "rounded down" else math.ceil(seen / block_n)
            if wrong == "masked tiles counted":
                stop = max(first + 1, 0) // block_n
            if wrong != "not clamped":
                stop = max(stop, 0)
            if wrong not in UNLIMITED:
                stop = min(stop, tiles)
            total += stop if wrong == "visited tiles" else tiles - stop
        return total

    return answer


UNLIMITED = ("not clamped", "top-left, past the end", "distance", "short tile as a whole one")


def _end(i: int, block: int, length: int) -> int:
    return min((i + 1) * block, length)


def _cells(Lq, Lk, block_m, block_n):
    return int((~causal_mask(Lq, Lk)).sum())


def _tile_by_tile(Lq, Lk, block_m, block_n):
    """Another right answer: ask every tile whether its last query reaches its first key."""
    return sum(
        j > min(i + block_m, Lq) - 1 + Lk - Lq
        for i in range(0, Lq, block_m)
        for j in range(0, Lk, block_n)
    )


def _mistake(name: str, says: str) -> Mistake:
    return Mistake(name, says, _with_fault(name))


SKIPPED = Exercise(
    id="4.2",
    name="skipped tiles",
    title="Count the tiles that need no work",
    section="5 · Tiles that need no work",
    solution_name="skipped_tiles",
    properties=(
        Property("by hand", "the three examples in the table", _by_hand),
        Property("square", "Lq = Lk, whole square tiles", _square),
        Property("unequal tiles", "block_m and block_n differ", _unequal_tiles),
        Property("more keys", "Lk > Lq: the queries are the newest tokens", _more_keys),
        Property("more queries", "Lq > Lk: the first queries see no key at all", _more_queries),
        Property("one query", "it sees every key, so nothing is skipped", _one_query),
        Property("any sizes", "lengths from 1 to 40, tiles from 1 to 9", _any_sizes),
    ),
    mistakes=(
        _mistake(
            "top-left",
            "The mask is aligned **top-left**: query i is taken to be at position i. It is at i + "
            "Lk - Lq, since the last query sees the last key.",
        ),
        _mistake(
            "top-left, past the end",
            "The mask is aligned **top-left**: the offset Lk - Lq is missing. Query i is at "
            "position i + Lk - Lq. (Where Lq > Lk, some queries then even see more keys than "
            "there are.)",
        ),
        _mistake(
            "distance",
            "The offset is taken as **|Lk - Lq|**. It is Lk - Lq, with its sign: with more "
            "queries than keys, the first queries are at negative positions.",
        ),
        _mistake(
            "short tile as a whole one",
            "The **short last query tile** is treated as a full one, but its last query is Lq - "
            "1. Queries that don't exist then see keys that don't exist.",
        ),
        _mistake(
            "visited tiles",
            "These are the tiles that are **visited**. The exercise asks for the others, the "
            "skipped ones.",
        ),
        Mistake(
            "cells counted",
            "This counts the **single entries** of the mask that are hidden, not the tiles in "
            "which every entry is hidden.",
            _cells,
        ),
        _mistake(
            "the first query decides",
            "A tile counts as skipped when its **first** query sees none of its keys. But the "
            "last query of the tile sees furthest, so it decides.",
        ),
        _mistake(
            "masked tiles counted",
            "Tiles on the mask's edge are counted too: those of which **some** query sees a part. "
            "They are masked, not skipped; count only tiles in which no query sees any key.",
        ),
        _mistake(
            "not itself",
            "Off by one at the diagonal: a query sees the key **at its own position** too, so a "
            "query at position t sees t + 1 keys.",
        ),
        _mistake(
            "rounded down",
            "The number of tiles that a query tile visits is **rounded down**: a tile that it "
            "sees only in part must be visited as well.",
        ),
        _mistake(
            "tails dropped",
            "The short tiles at the **ends** are left out: there are Lq / block_m by Lk / block_n "
            "tiles, both rounded up.",
        ),
        _mistake(
            "not clamped",
            "A query tile before the first key gets a **negative** number of tiles to visit. It "
            "visits none, so it skips all the tiles there are, and no more.",
        ),
        _mistake(
            "tile sizes swapped",
            "block_m and block_n are **swapped**: block_m counts queries (rows), block_n counts "
            "keys (columns).",
        ),
    ),
    alternative=_tile_by_tile,
)
