"""Exercise 10.3: splits of a fixed size for a ragged batch."""

import math
import operator
from itertools import pairwise

import torch

from course.check.draw import integer
from course.check.observe import ChangedInput
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip


@right
def fixed_size_bounds(lengths, size):
    count = max(1, math.ceil(max(lengths) / size))
    return [
        [(min(s * size, length), min((s + 1) * size, length)) for s in range(count)]
        for length in lengths
    ]


@also_right
def all_borders_at_once(lengths, size):
    longest = max(max(lengths), 1)
    borders = torch.arange(0, longest + size, size)
    ends = torch.tensor(lengths)[:, None].clamp_max(borders.expand(len(lengths), -1))
    return [list(pairwise(row)) for row in ends.tolist()]


def whole(key):
    """Return an int of any library as Python's; a float is shown as it is: no number of a key."""
    return operator.index(key) if hasattr(key, "__index__") else key


def in_words(bounds):
    """Write rows as text, one part per row: what the learner sees is what is compared."""
    try:
        rows = [[(whole(start), whole(stop)) for start, stop in row] for row in bounds]
    except (TypeError, ValueError):
        return f"not a list of (start, stop) per row: {bounds!r}"[:80]
    return tuple(", ".join(f"{start}–{stop}" for start, stop in row) or "no split" for row in rows)


def ask(answer, lengths, size):
    """Ask about one batch; rows and pairs may be tuples or lists."""
    given = f"lengths = {lengths}, size = {size}"
    wanted = in_words(fixed_size_bounds(lengths, size))
    batch = list(lengths)

    def asked(batch, size):
        bounds = in_words(answer(batch, size))
        if batch != lengths:
            raise ChangedInput("lengths")
        return bounds

    return Seen.of(asked, (batch, size), wanted=wanted, given=given)


@holds("lengths 5, 2 and 0, splits of 2 keys")
def by_hand(answer, rng):
    return ask(answer, [5, 2, 0], 2)


@holds("a batch of one")
def one_row(answer, rng):
    return ask(answer, [integer(rng, 50, 200)], 32)


@holds("more than a hundred, and one of a single key")
def many_splits(answer, rng):
    """The first row is not the longest, and the last one is the shortest."""
    lengths = [integer(rng, 9, 30), 8 * integer(rng, 130, 140) + 1, 1]
    return [ask(answer, lengths, 8), ask(answer, [3, 1], 1), ask(answer, [2, 3, 0], 7)]


@holds("lengths that are multiples of the size")
def whole_splits(answer, rng):
    size = 16 * integer(rng, 1, 4)
    return ask(answer, [size * integer(rng, 1, 2), size * 4, size * integer(rng, 1, 3)], size)


@holds("a batch of many different lengths")
def ragged(answer, rng):
    lengths = torch.randint(1, 400, (5,), generator=rng).tolist()
    return ask(answer, [integer(rng, 1, 30), *lengths, 401], 64)


@holds("rows of length 0 get a split, too")
def no_keys(answer, rng):
    return [ask(answer, [0] * integer(rng, 1, 3), 8), ask(answer, [0, integer(rng, 9, 30)], 8)]


@holds("a row is cut as if it were alone")
def any_company(answer, rng):
    """What a row reads must not depend on the others: only empty splits may be added."""
    length, other, size = integer(rng, 100, 300), integer(rng, 301, 900), 64
    alone, beside = (answer(list(lengths), size)[0] for lengths in ([length], [length, other]))
    keys = [", ".join(f"{i}–{j}" for i, j in row if i < j) for row in (beside, alone)]
    return Seen(*keys, f"row 0 of {length} keys: first beside a row of {other}, then alone")


slip(
    "equal parts",
    "Each row is cut into **equal parts** of its own: the same number of splits, but not "
    "the same size. A row's cuts then move when a longer one joins the batch.",
    ("* size, length)", "* math.ceil(length / count), length)"),
)
slip(
    "own number",
    "Each row has **its own number** of splits. One grid is launched for the whole batch: "
    "rows that need fewer get empty splits.",
    ("range(count)", "range(max(1, math.ceil(length / size)))"),
)
slip(
    "rounded down",
    "The number of splits is rounded **down**: the keys after the last whole split belong "
    "to no split.",
    ("math.ceil(max(lengths) / size)", "max(lengths) // size"),
)
slip(
    "one too many",
    "Where the longest row is a multiple of the size, there is **one split too many**, "
    "empty in every row: rounding up is not the same as rounding down and adding 1.",
    ("max(1, math.ceil(max(lengths) / size))", "max(lengths) // size + 1"),
)
slip(
    "number of the first row",
    "The **first row** decides how many splits there are. It should be the longest, wherever it "
    "stands.",
    ("max(lengths)", "lengths[0]"),
)
slip(
    "number of the shortest row",
    "The **shortest row** decides how many splits there are: the last keys of longer ones "
    "then belong to none.",
    ("max(lengths)", "min(lengths)"),
)
slip(
    "rounded to the nearest",
    "The number of splits is rounded to the **nearest** whole number: where that is down, the last "
    "keys belong to no split.",
    ("math.ceil(max(lengths) / size)", "round(max(lengths) / size)"),
)
slip(
    "stop not pulled back",
    "stop runs **past the end of the row**: there the cells hold rubbish. Pull both ends back to "
    "the row's length.",
    ("min((s + 1) * size, length)", "(s + 1) * size"),
)
slip(
    "empty at 0",
    "Splits without keys are **(0, 0)**: pulled back to the end of the row, both ends are its "
    "length.",
    (
        "(min(s * size, length), min((s + 1) * size, length))",
        "(s * size, min((s + 1) * size, length)) if s * size < length else (0, 0)",
    ),
)
slip(
    "rows without keys left out",
    "A row **without keys is left out**. Somebody must write its (0, −∞): it has as many splits as "
    "every other row, all of them empty.",
    ("for length in lengths\n", "for length in lengths if length\n"),
)
slip(
    "rows sorted",
    "The rows come out **sorted** by length: the caller counts on their order.",
    ("for length in lengths\n", "for length in sorted(lengths)\n"),
)
slip(
    "lengths for stops",
    "The second number of a pair is **how many keys** the split has. It should be the first key "
    "after them.",
    ("min((s + 1) * size, length))", "max(0, min(size, length - s * size)))"),
)
slip(
    "no split at all",
    "A batch in which **no row has any keys** gets no split, so nothing writes its (0, "
    "−∞). There should be one split.",
    ("max(1, math.ceil(max(lengths) / size))", "math.ceil(max(lengths) / size)"),
)
slip(
    "start not pulled back",
    "start runs **past the end of the row**. An empty split is (length, length).",
    ("min(s * size, length)", "s * size"),
)
slip(
    "nothing pulled back",
    "**Both ends run past the row**: from `length` on, the cells hold rubbish. Clamp "
    "start and stop to it.",
    ("min(s * size, length), min((s + 1) * size, length)", "s * size, (s + 1) * size"),
)
slip(
    "stop included",
    "stop is the **last key** of a split. As in a Python slice, it should be the first "
    "key after it.",
    ("min((s + 1) * size, length)", "min((s + 1) * size, length) - 1"),
)
slip(
    "transposed",
    "There is a list for **each split**, containing the rows. It should be the other way "
    "round: a list for each row.",
    ("for s in range(count)]", "for length in lengths]"),
    ("for length in lengths\n", "for s in range(count)\n"),
)

SIZES = Exercise.of(
    __name__,
    "10.3 fixed size",
    title="Splits of a fixed size",
    section="7 · A fixed number, or a fixed size",
)
