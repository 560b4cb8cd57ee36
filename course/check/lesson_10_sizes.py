"""Exercise 10.3: splits of a fixed size for a ragged batch, and the mistakes people make."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Generator

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen

SECTION = "7 · A fixed number, or a fixed size"
Bounds = list[list[tuple[int, int]]]


def _cut(length: int, size: int, count: int) -> list[tuple[int, int]]:
    """Return `count` splits of `size` keys, clamped to the row's end."""
    return [(min(s * size, length), min((s + 1) * size, length)) for s in range(count)]


def truth(lengths: list[int], size: int) -> Bounds:
    """Return a list per row, each with as many splits as the longest row needs."""
    count = max(1, math.ceil(max(lengths) / size))
    return [_cut(length, size, count) for length in lengths]


def ask(answer: Callable, lengths: list[int], size: int) -> Seen:
    """Ask about one batch; rows and pairs may be tuples or lists."""
    given = f"lengths = {lengths}, size = {size}"
    try:
        got = answer(list(lengths), size)
    except Exception as error:
        error.add_note(given)
        raise
    return Seen(_plain(got), _plain(truth(lengths, size)), given)


def _plain(bounds: object) -> object:
    """Write rows as text, one part per row: what the learner sees is what is compared."""
    try:
        rows = [[(int(start), int(stop)) for start, stop in row] for row in bounds]
    except (TypeError, ValueError):
        return f"not a list of (start, stop) per row: {bounds!r}"[:80]
    return tuple(", ".join(f"{start}–{stop}" for start, stop in row) or "no split" for row in rows)


def _by_hand(answer: Callable, rng: Generator) -> Seen:
    return ask(answer, [5, 2, 0], 2)


def _one_row(answer: Callable, rng: Generator) -> Seen:
    return ask(answer, [integer(rng, 50, 200)], 32)


def _whole_splits(answer: Callable, rng: Generator) -> Seen:
    size = 16 * integer(rng, 1, 4)
    return ask(answer, [size * integer(rng, 1, 2), size * 4, size * integer(rng, 1, 3)], size)


def _ragged(answer: Callable, rng: Generator) -> Seen:
    lengths = torch.randint(1, 400, (5,), generator=rng).tolist()
    return ask(answer, [integer(rng, 1, 30), *lengths, 401], 64)


def _no_keys(answer: Callable, rng: Generator) -> list[Seen]:
    return [ask(answer, [0] * integer(rng, 1, 3), 8), ask(answer, [0, integer(rng, 9, 30)], 8)]


def _company(answer: Callable, rng: Generator) -> Seen:
    """What a row reads must not depend on the others: only empty splits may be added."""
    length, other, size = integer(rng, 100, 300), integer(rng, 301, 900), 64
    alone, beside = (answer(list(lengths), size)[0] for lengths in ([length], [length, other]))
    keys = [_with_keys(row) for row in (beside, alone)]
    return Seen(*keys, f"row 0 of {length} keys: first beside a row of {other}, then alone")


def _with_keys(row: object) -> str:
    return ", ".join(f"{start}–{stop}" for start, stop in row if start < stop)


def _torch_way(lengths: list[int], size: int) -> Bounds:
    """Another correct answer: all borders at once, clamped."""
    longest = max(max(lengths), 1)
    borders = torch.arange(0, longest + size, size)
    ends = torch.tensor(lengths)[:, None].clamp_max(borders.expand(len(lengths), -1))
    return [list(pairwise(row)) for row in ends.tolist()]


def _equal_parts(lengths: list[int], size: int) -> Bounds:
    count = max(1, math.ceil(max(lengths) / size))
    return [_cut(length, math.ceil(length / count), count) for length in lengths]


def _own_number(lengths: list[int], size: int) -> Bounds:
    return [_cut(length, size, max(1, math.ceil(length / size))) for length in lengths]


def _rounded_down(lengths: list[int], size: int) -> Bounds:
    count = max(1, max(lengths) // size)
    return [_cut(length, size, count) for length in lengths]


def _one_too_many(lengths: list[int], size: int) -> Bounds:
    count = max(lengths) // size + 1
    return [_cut(length, size, count) for length in lengths]


def _no_split(lengths: list[int], size: int) -> Bounds:
    count = math.ceil(max(lengths) / size)
    return [_cut(length, size, count) for length in lengths]


def _start_stays(lengths: list[int], size: int) -> Bounds:
    return [
        [(s * size, stop) for s, (_, stop) in enumerate(row)]
        for row in truth(lengths, size)
    ]  # fmt: skip


def _not_clamped(lengths: list[int], size: int) -> Bounds:
    return [[(s * size, (s + 1) * size) for s, _ in enumerate(row)] for row in truth(lengths, size)]


def _stop_included(lengths: list[int], size: int) -> Bounds:
    return [[(start, stop - 1) for start, stop in row] for row in truth(lengths, size)]


def _transposed(lengths: list[int], size: int) -> Bounds:
    return [list(splits) for splits in zip(*truth(lengths, size), strict=True)]


SIZES = Exercise(
    id="10.3",
    name="fixed size",
    title="Splits of a fixed size",
    section=SECTION,
    solution_name="fixed_size_bounds",
    properties=(
        Property("by hand", "lengths 5, 2 and 0, splits of 2 keys", _by_hand),
        Property("one row", "a batch of one", _one_row),
        Property("whole splits", "lengths that are multiples of the size", _whole_splits),
        Property("ragged", "a batch of many different lengths", _ragged),
        Property("no keys", "rows of length 0 get a split, too", _no_keys),
        Property("any company", "a row is cut as if it were alone", _company),
    ),
    mistakes=(
        Mistake(
            "equal parts",
            "Each row is cut into **equal parts** of its own: the same number of splits, but not "
            "the same size. A row's cuts then move when a longer one joins the batch.",
            _equal_parts,
        ),
        Mistake(
            "own number",
            "Each row has **its own number** of splits. One grid is launched for the whole batch: "
            "rows that need fewer get empty splits.",
            _own_number,
        ),
        Mistake(
            "rounded down",
            "The number of splits is rounded **down**: the keys after the last whole split belong "
            "to no split.",
            _rounded_down,
        ),
        Mistake(
            "one too many",
            "Where the longest row is a multiple of the size, there is **one split too many**, "
            "empty in every row: rounding up is not the same as rounding down and adding 1.",
            _one_too_many,
        ),
        Mistake(
            "no split at all",
            "A batch in which **no row has any keys** gets no split, so nothing writes its (0, "
            "−∞). There should be one split.",
            _no_split,
        ),
        Mistake(
            "start not pulled back",
            "start runs **past the end of the row**. An empty split is (length, length).",
            _start_stays,
        ),
        Mistake(
            "nothing pulled back",
            "**Both ends run past the row**: from `length` on, the cells hold rubbish. Clamp "
            "start and stop to it.",
            _not_clamped,
        ),
        Mistake(
            "stop included",
            "stop is the **last key** of a split. As in a Python slice, it should be the first "
            "key after it.",
            _stop_included,
        ),
        Mistake(
            "transposed",
            "There is a list for **each split**, containing the rows. It should be the other way "
            "round: a list for each row.",
            _transposed,
        ),
    ),
    alternative=_torch_way,
)
