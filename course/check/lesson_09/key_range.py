"""Exercise 9.1: which keys a program gets."""

from collections import Counter
from numbers import Integral

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from kernels.runtime import INTERPRETED  # noqa: F401 — before triton: it decides the mode

# isort: split
import triton


@right
def key_range(length, split, num_splits, BLOCK_N):
    chunk = triton.cdiv(triton.cdiv(length, BLOCK_N), num_splits) * BLOCK_N
    start = min(split * chunk, length)
    return start, min(start + chunk, length)


@also_right
def counting_blocks(length, split, num_splits, BLOCK_N):
    """Count blocks first, and convert them to keys at the end."""
    blocks = (length + BLOCK_N - 1) // BLOCK_N
    each = (blocks + num_splits - 1) // num_splits
    first, last = each * split, each * (split + 1)
    if first >= blocks:
        return length, length
    return first * BLOCK_N, length if last >= blocks else last * BLOCK_N


def seen(answer, length, splits, block_n):
    """Ask for every split of one row."""
    asked = [(length, split, splits, block_n) for split in range(splits)]
    names = "start", "stop"
    return [Seen.of(answer, args, wanted=key_range(*args), names=names) for args in asked]


@holds("whole numbers: range() takes no others")
def ints(answer, rng):
    length, splits = integer(rng, 40, 90), integer(rng, 2, 4)
    found = answer(length, splits - 1, splits, 16)
    found = found if isinstance(found, (tuple, list)) else [found]
    kinds = ["int" if isinstance(x, Integral) else type(x).__name__ for x in found]
    given = f"length = {length}, split = {splits - 1}, num_splits = {splits}: the types"
    return Seen(", ".join(kinds), "int, int", given)


@holds("130 keys, blocks of 16, four splits")
def by_hand(answer, rng):
    return seen(answer, 130, 4, 16)


@holds("every split gets the same number of blocks")
def comes_out_even(answer, rng):
    splits = integer(rng, 2, 4)
    return seen(answer, 16 * splits * integer(rng, 1, 3), splits, 16)


@holds("the row ends inside a block")
def ragged(answer, rng):
    """Its blocks are not a multiple of the splits either."""
    splits, block_n = integer(rng, 3, 5), 2 ** integer(rng, 4, 6)
    blocks = splits * integer(rng, 2, 4) + 1
    return seen(answer, block_n * blocks + integer(rng, 1, block_n - 1), splits, block_n)


@holds("any block size from 1 on, and a row too long for fp32")
def any_block(answer, rng):
    cases = (integer(rng, 50, 99), 3), (integer(rng, 50, 99), 1), (2**24 + 1, 1), (2**25 + 7, 6)
    return [one for length, block_n in cases for one in seen(answer, length, 3, block_n)]


@holds("together the splits make up the row")
def each_key_once(answer, rng):
    length, splits = integer(rng, 100, 400), integer(rng, 2, 9)
    keys = []
    for s in range(splits):
        start, stop = answer(length, s, splits, 32)
        keys += range(int(start), int(stop))
    given = f"length = {length}, num_splits = {splits}, BLOCK_N = 32"
    return Seen(told(keys, length), "every key belongs to one split", given)


def told(keys, length):
    """Say which keys of 0 … length - 1 the splits miss, which they repeat and which they invent."""
    times = Counter(keys)
    kinds = {
        "belong to no split": [j for j in range(length) if not times[j]],
        "belong to several splits": [j for j in range(length) if times[j] > 1],
        "are not in the row": sorted(j for j in times if not 0 <= j < length),
    }
    found = [f"keys {runs(js)} {what}" for what, js in kinds.items() if js]
    return ", ".join(found) or "every key belongs to one split"


def runs(numbers):
    """Write the first run of neighbours as "320 … 342", and how many numbers follow it.

    >>> runs([3, 4, 5, 9])
    '3 … 5 (and 1 more)'
    """
    first = [j for i, j in enumerate(numbers) if j == numbers[0] + i]
    rest = f" (and {len(numbers) - len(first)} more)" if len(first) < len(numbers) else ""
    return f"{first[0]} … {first[-1]}{rest}"


@holds("fewer blocks than splits")
def short_row(answer, rng):
    return seen(answer, integer(rng, 17, 40), 8, 16)


@holds("a row of length 0")
def no_keys(answer, rng):
    return seen(answer, 0, integer(rng, 1, 3), 16)


slip(
    "equal keys",
    "The row is cut into equal numbers of **keys**. That is right in lesson 08; here "
    "splits are made of whole blocks, so only the last one has a ragged end.",
    ("triton.cdiv(length, BLOCK_N), num_splits) * BLOCK_N", "length, num_splits)"),
)
slip(
    "blocks rounded down",
    "The number of blocks per split is rounded **down**: what is left over at the end of "
    "the row belongs to no split.",
    ("triton.cdiv(triton", "(triton"),
    (", num_splits)", " // num_splits)"),
)
slip(
    "ragged block lost",
    "The number of blocks is rounded **down**, so a last block that is not full is not "
    "counted, and its keys may belong to no split.",
    ("triton.cdiv(length, BLOCK_N)", "length // BLOCK_N"),
)
slip(
    "stop not clamped",
    "stop runs **past the end of the row**: from `length` on, the cells hold rubbish.",
    ("min(start + chunk, length)", "start + chunk"),
)
slip(
    "start not clamped",
    "start runs **past the end of the row**. An empty split is (length, length): clamp "
    "both start and stop.",
    ("min(split * chunk, length)", "split * chunk"),
)
slip(
    "floats",
    "start and stop are **floats**. They are positions of keys, and `range` takes none but ints: "
    "divide with `//`, or round up with `triton.cdiv`.",
    (
        "return start, min(start + chunk, length)",
        "return float(start), min(start + chunk, length) / 1",
    ),
)
slip(
    "neither clamped",
    "Both start and stop run **past the end of the row**. Pull back to `length` what is larger: an "
    "empty split is (length, length).",
    ("min(split * chunk, length)", "split * chunk"),
    ("min(start + chunk, length)", "start + chunk"),
)
slip(
    "a block too many",
    "Rounding up by **+ 1** is wrong where the division comes out even: then there is a block too "
    "many.",
    ("triton.cdiv(length, BLOCK_N)", "(length // BLOCK_N + 1)"),
)
slip(
    "chunk too large",
    "The blocks per split are rounded up by **+ 1**. Where the blocks can be divided evenly, each "
    "split takes one too many, and the last ones go short.",
    (
        "triton.cdiv(triton.cdiv(length, BLOCK_N), num_splits)",
        "(triton.cdiv(length, BLOCK_N) // num_splits + 1)",
    ),
)
slip(
    "in blocks, not clamped",
    "start and stop are counted in **blocks**, and a split without blocks lies past the end. The "
    "kernel needs key positions, at most `length`.",
    (" * BLOCK_N", ""),
)
slip(
    "a count for stop",
    "The second number is **how many keys** the split has. It should be where the split ends: "
    "start plus that.",
    (
        "return start, min(start + chunk, length)",
        "return start, min(start + chunk, length) - start",
    ),
)
slip(
    "balanced",
    "The blocks are spread as **evenly** as they can be. Here every split takes equally many, "
    "rounded up, and the last ones what is left.",
    (
        "start = min(split * chunk, length)",
        "n = triton.cdiv(length, BLOCK_N)\n"
        "    start = min(split * n // num_splits * BLOCK_N, length)\n"
        "    chunk = (split + 1) * n // num_splits * BLOCK_N - start",
    ),
)
slip(
    "the last to the end",
    "The **last split always gets `length` as its stop, or runs on to it**. With fewer blocks than "
    "splits its stop is right, but others must be pulled back too.",
    ("min(start + chunk, length)", "length if split == num_splits - 1 else start + chunk"),
)
slip(
    "in blocks",
    "start and stop are counted in **blocks**; the kernel needs key positions.",
    ("return start,", "return triton.cdiv(start, BLOCK_N),"),
    ("min(start + chunk, length)", "triton.cdiv(min(start + chunk, length), BLOCK_N)"),
)
slip(
    "inclusive stop",
    "stop is the **last key** of the split. It should be the first key after it, as in "
    "`range(start, stop)`.",
    ("min(start + chunk, length)", "min(start + chunk, length) - 1"),
)
slip(
    "rest to the last",
    "The number of blocks per split is rounded down, and the **last split takes all the "
    "rest**: the others wait for it. Round up, and the last splits get less.",
    ("triton.cdiv(triton", "(triton"),
    (", num_splits)", " // num_splits)"),
    ("min(start + chunk, length)", "length if split == num_splits - 1 else start + chunk"),
)
slip(
    "empty at zero",
    "An empty split is **(length, length)**, not (0, 0): the ranges follow one another, "
    "up to the row's end.",
    (
        "return start, min(start + chunk, length)",
        "stop = min(start + chunk, length)\n    return (start, stop) if start < stop else (0, 0)",
    ),
)

RANGE = Exercise.of(
    __name__,
    "9.1 key range",
    title="Which keys are mine",
    section="2 · Which keys: the row's own length, in whole blocks",
)
