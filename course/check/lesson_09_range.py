"""Exercise 9.1: which keys a program gets. Its properties and the mistakes people make."""

from collections.abc import Callable

import torch
from torch import Generator

from course.check.spec import Exercise, Mistake, Property, Seen

SECTION = "2 · Which keys: the row's own length, in whole blocks"


def cdiv(a: int, b: int) -> int:
    """Return ⌈a / b⌉."""
    return -(-a // b)


def truth(length: int, split: int, num_splits: int, BLOCK_N: int) -> tuple[int, int]:
    """Return (start, stop) as the kernel has it."""
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


def number(rng: Generator, low: int, high: int) -> int:
    """Return a random int from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=rng))


def _by_hand(answer: Callable, rng: Generator) -> list[Seen]:
    return ask(answer, 130, 4, 16)


def _even(answer: Callable, rng: Generator) -> list[Seen]:
    splits = number(rng, 2, 4)
    return ask(answer, 16 * splits * number(rng, 1, 3), splits, 16)


def _ragged(answer: Callable, rng: Generator) -> list[Seen]:
    """A row that ends inside a block, its blocks no multiple of the splits."""
    splits, block_n = number(rng, 3, 5), 2 ** number(rng, 4, 6)
    blocks = splits * number(rng, 2, 4) + 1
    return ask(answer, block_n * blocks + number(rng, 1, block_n - 1), splits, block_n)


def _each_key_once(answer: Callable, rng: Generator) -> Seen:
    length, splits = number(rng, 100, 400), number(rng, 2, 9)
    keys = []
    for s in range(splits):
        start, stop = answer(length, s, splits, 32)
        keys += range(int(start), int(stop))
    met = [keys.count(j) for j in (0, length // 2, length - 1)]
    given = f"length = {length}, num_splits = {splits}, BLOCK_N = 32"
    names = ("keys in all splits together", "how often keys 0, length // 2 and length - 1")
    return Seen((len(keys), met), (length, [1, 1, 1]), given, names=names)


def _short(answer: Callable, rng: Generator) -> list[Seen]:
    return ask(answer, number(rng, 17, 40), 8, 16)


def _nothing(answer: Callable, rng: Generator) -> list[Seen]:
    return ask(answer, 0, number(rng, 1, 3), 16)


def _divmod_way(length: int, split: int, num_splits: int, BLOCK_N: int) -> tuple[int, int]:
    """Another right answer: count blocks first, and turn them into keys at the end."""
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


RANGE = Exercise(
    id="9.1",
    name="key range",
    title="Which keys are mine",
    section=SECTION,
    solution_name="key_range",
    properties=(
        Property("by hand", "130 keys, blocks of 16, four splits", _by_hand),
        Property("comes out even", "as many blocks for each split", _even),
        Property("ragged", "the row ends inside a block", _ragged),
        Property("each key once", "all splits together are the row", _each_key_once),
        Property("short row", "fewer blocks than splits", _short),
        Property("no keys", "a row of length 0", _nothing),
    ),
    mistakes=(
        Mistake(
            "equal keys",
            "The row is cut in equal numbers of **keys**. That is right in lesson 08; here splits "
            "are made of whole blocks, so that only the last one has a ragged end.",
            _equal_keys,
        ),
        Mistake(
            "blocks rounded down",
            "The blocks of a split are rounded **down**: what is left over at the end of the row "
            "belongs to nobody.",
            _blocks_down,
        ),
        Mistake(
            "ragged block lost",
            "The number of blocks is rounded **down**, so a last block that is not full is not "
            "counted, and its keys may be nobody's.",
            _ragged_block_lost,
        ),
        Mistake(
            "stop not clamped",
            "stop runs **past the end of the row**: behind `length` lies somebody's rubbish.",
            _stop_unclamped,
        ),
        Mistake(
            "start not clamped",
            "start runs **past the end of the row**. An empty split is (length, length): start "
            "and stop should both be pulled back.",
            _start_unclamped,
        ),
        Mistake(
            "in blocks",
            "start and stop are counted in **blocks**; the kernel wants positions of keys.",
            _in_blocks,
        ),
    ),
    alternative=_divmod_way,
)
