"""Exercise 9.1: which keys a program gets. Its properties and the mistakes people make."""

from collections import Counter
from collections.abc import Callable

from torch import Generator

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen

SECTION = "2 · Which keys: the row's own length, in whole blocks"


def cdiv(a: int, b: int) -> int:
    """Return ⌈a / b⌉."""
    return -(-a // b)


def truth(length: int, split: int, num_splits: int, BLOCK_N: int) -> tuple[int, int]:
    """Return (start, stop) as the kernel computes them."""
    chunk = cdiv(cdiv(length, BLOCK_N), num_splits) * BLOCK_N
    start = min(split * chunk, length)
    return start, min(start + chunk, length)


def ask(answer: Callable, length: int, splits: int, block_n: int) -> list[Seen]:
    """Ask for every split of one row."""
    return [
        Seen.of(
            answer,
            (length, s, splits, block_n),
            wanted=truth(length, s, splits, block_n),
            names=("start", "stop"),
        )
        for s in range(splits)
    ]


def _by_hand(answer: Callable, rng: Generator) -> list[Seen]:
    return ask(answer, 130, 4, 16)


def _even(answer: Callable, rng: Generator) -> list[Seen]:
    splits = integer(rng, 2, 4)
    return ask(answer, 16 * splits * integer(rng, 1, 3), splits, 16)


def _ragged(answer: Callable, rng: Generator) -> list[Seen]:
    """A row that ends inside a block; its blocks are not a multiple of the splits."""
    splits, block_n = integer(rng, 3, 5), 2 ** integer(rng, 4, 6)
    blocks = splits * integer(rng, 2, 4) + 1
    return ask(answer, block_n * blocks + integer(rng, 1, block_n - 1), splits, block_n)


def _each_key_once(answer: Callable, rng: Generator) -> Seen:
    length, splits = integer(rng, 100, 400), integer(rng, 2, 9)
    keys = []
    for s in range(splits):
        start, stop = answer(length, s, splits, 32)
        keys += range(int(start), int(stop))
    given = f"length = {length}, num_splits = {splits}, BLOCK_N = 32"
    return Seen(_told(keys, length), "every key belongs to one split", given)


def _told(keys: list[int], length: int) -> str:
    """Say which keys of 0 … length - 1 the splits miss, which they repeat and which they invent."""
    times = Counter(keys)
    kinds = {
        "belong to no split": [j for j in range(length) if not times[j]],
        "belong to several splits": [j for j in range(length) if times[j] > 1],
        "are not in the row": sorted(j for j in times if not 0 <= j < length),
    }
    told = [f"keys {_runs(js)} {what}" for what, js in kinds.items() if js]
    return ", ".join(told) or "every key belongs to one split"


def _runs(numbers: list[int]) -> str:
    """Write the first run of neighbours as "320 … 342", and how many numbers follow it.

    >>> _runs([3, 4, 5, 9])
    '3 … 5 (and 1 more)'
    """
    first = [j for i, j in enumerate(numbers) if j == numbers[0] + i]
    rest = f" (and {len(numbers) - len(first)} more)" if len(first) < len(numbers) else ""
    return f"{first[0]} … {first[-1]}{rest}"


def _short(answer: Callable, rng: Generator) -> list[Seen]:
    return ask(answer, integer(rng, 17, 40), 8, 16)


def _nothing(answer: Callable, rng: Generator) -> list[Seen]:
    return ask(answer, 0, integer(rng, 1, 3), 16)


def _divmod_way(length: int, split: int, num_splits: int, BLOCK_N: int) -> tuple[int, int]:
    """Another correct answer: count blocks first, and convert them to keys at the end."""
    blocks = (length + BLOCK_N - 1) // BLOCK_N
    each = (blocks + num_splits - 1) // num_splits
    first, last = each * split, each * (split + 1)
    if first >= blocks:
        return length, length
    return first * BLOCK_N, length if last >= blocks else last * BLOCK_N


def _equal_keys(length: int, split: int, num_splits: int, BLOCK_N: int) -> tuple[int, int]:
    chunk = cdiv(length, num_splits)
    start = min(split * chunk, length)
    return start, min(start + chunk, length)


def _chunk(blocks: int, each: int, split: int, length: int, block_n: int) -> tuple[int, int]:
    start = min(split * each * block_n, length)
    return start, min(start + each * block_n, length)


def _blocks_down(length: int, split: int, num_splits: int, BLOCK_N: int) -> tuple[int, int]:
    blocks = cdiv(length, BLOCK_N)
    return _chunk(blocks, blocks // num_splits, split, length, BLOCK_N)


def _ragged_block_lost(length: int, split: int, num_splits: int, BLOCK_N: int) -> tuple[int, int]:
    blocks = length // BLOCK_N
    return _chunk(blocks, cdiv(blocks, num_splits), split, length, BLOCK_N)


def _stop_unclamped(length: int, split: int, num_splits: int, BLOCK_N: int) -> tuple[int, int]:
    chunk = cdiv(cdiv(length, BLOCK_N), num_splits) * BLOCK_N
    return min(split * chunk, length), min(split * chunk, length) + chunk


def _start_unclamped(length: int, split: int, num_splits: int, BLOCK_N: int) -> tuple[int, int]:
    chunk = cdiv(cdiv(length, BLOCK_N), num_splits) * BLOCK_N
    return split * chunk, min((split + 1) * chunk, length)


def _in_blocks(length: int, split: int, num_splits: int, BLOCK_N: int) -> tuple[int, int]:
    start, stop = truth(length, split, num_splits, BLOCK_N)
    return cdiv(start, BLOCK_N), cdiv(stop, BLOCK_N)


def _inclusive_stop(length: int, split: int, num_splits: int, BLOCK_N: int) -> tuple[int, int]:
    start, stop = truth(length, split, num_splits, BLOCK_N)
    return start, stop - 1


def _rest_to_the_last(length: int, split: int, num_splits: int, BLOCK_N: int) -> tuple[int, int]:
    chunk = cdiv(length, BLOCK_N) // num_splits * BLOCK_N
    return split * chunk, length if split == num_splits - 1 else (split + 1) * chunk


def _empty_at_zero(length: int, split: int, num_splits: int, BLOCK_N: int) -> tuple[int, int]:
    start, stop = truth(length, split, num_splits, BLOCK_N)
    return (start, stop) if start < stop else (0, 0)


RANGE = Exercise(
    id="9.1",
    name="key range",
    title="Which keys are mine",
    section=SECTION,
    solution_name="key_range",
    properties=(
        Property("by hand", "130 keys, blocks of 16, four splits", _by_hand),
        Property("comes out even", "every split gets the same number of blocks", _even),
        Property("ragged", "the row ends inside a block", _ragged),
        Property("each key once", "together the splits make up the row", _each_key_once),
        Property("short row", "fewer blocks than splits", _short),
        Property("no keys", "a row of length 0", _nothing),
    ),
    mistakes=(
        Mistake(
            "equal keys",
            "The row is cut into equal numbers of **keys**. That is right in lesson 08; here "
            "splits are made of whole blocks, so only the last one has a ragged end.",
            _equal_keys,
        ),
        Mistake(
            "blocks rounded down",
            "The number of blocks per split is rounded **down**: what is left over at the end of "
            "the row belongs to no split.",
            _blocks_down,
        ),
        Mistake(
            "ragged block lost",
            "The number of blocks is rounded **down**, so a last block that is not full is not "
            "counted, and its keys may belong to no split.",
            _ragged_block_lost,
        ),
        Mistake(
            "stop not clamped",
            "stop runs **past the end of the row**: from `length` on, the cells hold rubbish.",
            _stop_unclamped,
        ),
        Mistake(
            "start not clamped",
            "start runs **past the end of the row**. An empty split is (length, length): clamp "
            "both start and stop.",
            _start_unclamped,
        ),
        Mistake(
            "in blocks",
            "start and stop are counted in **blocks**; the kernel needs key positions.",
            _in_blocks,
        ),
        Mistake(
            "inclusive stop",
            "stop is the **last key** of the split. It should be the first key after it, as in "
            "`range(start, stop)`.",
            _inclusive_stop,
        ),
        Mistake(
            "rest to the last",
            "The number of blocks per split is rounded down, and the **last split takes all the "
            "rest**: the others wait for it. Round up, and the last splits get less.",
            _rest_to_the_last,
        ),
        Mistake(
            "empty at zero",
            "An empty split is **(length, length)**, not (0, 0): the ranges follow one another, "
            "up to the row's end.",
            _empty_at_zero,
        ),
    ),
    alternative=_divmod_way,
)
