"""A balanced plan for a ragged batch: lay the rows end to end, cut the line into equal chunks.

A fixed number of splits cuts a row of 100,000 keys and a row of 1,000 keys into equally many
pieces: one piece is a hundred times as long as the other, and the batch waits for the longest. A
plan instead fixes the *size* of a chunk: the work of the whole batch, divided by the number of
workers.

    9, 2, 2 and 1 blocks    0 0 0 0 0 0 0 0 0 1 1 2 2 3      14 blocks, 4 workers
    chunks of ⌈14 / 4⌉      0 0 0 0│0 0 0 0│0 1 1 2│2 3      a chunk also ends where a row does

    items in start order    0000 0000 │ 11 │ 0 2 2 3         full chunks, then the longest pieces

    worker 0   0 0 0 0
    worker 1   0 0 0 0                  All are done after 4 blocks. The ideal is 14 / 4 = 3.5;
    worker 2   1 1 2                    uncut, row 0 alone takes 9.
    worker 3   0 2 3

A worker that is free takes the next item on the list. From the way the line was cut we know that
nobody needs to work longer than a chunk; the simple rule of long items first comes close to that.
A worker is late by at most one item, and towards the end of the list the items are short.

Source: Graham 1969, "Bounds on multiprocessing timing anomalies": m workers with any list take at
most 2 - 1/m times as long as with the best, and 4/3 - 1/(3m) with a sorted list.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

CLASSES = 8
"""Items are sorted by length, in eighths of a chunk, or of the longest row if that is shorter."""


class Item(NamedTuple):
    """One piece of work: keys start … stop - 1 of a row; its result is partial number `slot`."""

    row: int
    start: int
    stop: int
    slot: int


def keys_to_visit(
    length: int, *, block_n: int = 1, Lq: int = 1, leftpad: int = 0, window: int | None = None
) -> tuple[int, int]:
    """Return the range (first_key, stop) of one row's keys that any of its Lq queries can see.

    The first query is at place length - Lq and sees `window` keys before itself (None: all).
    first_key is rounded down to a whole block of block_n keys, so that blocks stay aligned. A row
    without keys gives an empty range.

    >>> keys_to_visit(1000, block_n=64, window=100)
    (896, 1000)

    The query at 999 sees keys from 899 on; that key is in the block that begins at 896.
    """
    if leftpad >= length:
        return 0, 0
    first_key = max(leftpad, 0 if window is None else length - Lq - window)
    return first_key // block_n * block_n, length


def decode_plan(
    lengths: Sequence[int],
    *,
    programs: int,
    block_n: int = 1,
    Lq: int = 1,
    cache_leftpad: Sequence[int] | None = None,
    window: int | None = None,
) -> tuple[list[Item], list[int]]:
    """Cut the keys of a ragged batch into chunks of the same size.

    Args:
        lengths: the number of valid keys of each of B rows; 0 is allowed.
        programs: how many chunks to cut the whole batch into, at least 1. A chunk is also cut
            where a row ends, so there are at most programs + B items.
        block_n: keys per block; a chunk consists of whole blocks.
        Lq: queries per row. cache_leftpad: how many keys of each row to leave out on the left.
        window: how many keys before itself a query sees, or None for all of them.

    Returns:
        (items, first_slot). items are in the order in which they should start. The partial results
        of row b are in slots first_slot[b] … first_slot[b + 1] - 1, in the order of their keys.

    Raises:
        ValueError: programs, block_n or Lq below 1, a negative number, or a cache_leftpad
            that is not one number per row.

    >>> items, first_slot = decode_plan([9, 2, 2, 1], programs=4)
    >>> [(item.row, item.start, item.stop) for item in items]
    [(0, 0, 4), (0, 4, 8), (1, 0, 2), (0, 8, 9), (2, 0, 1), (2, 1, 2), (3, 0, 1)]
    >>> first_slot
    [0, 3, 4, 6, 7]

    The example at the top of this module. Row 0 has three partial results, row 2 has two.
    """
    pads = [0] * len(lengths) if cache_leftpad is None else list(cache_leftpad)
    _check(lengths, pads, programs=programs, block_n=block_n, Lq=Lq, window=window)
    ranges = [
        keys_to_visit(length, block_n=block_n, Lq=Lq, leftpad=pad, window=window)
        for length, pad in zip(lengths, pads, strict=True)
    ]
    blocks = [-(-(stop - start) // block_n) for start, stop in ranges]
    chunk = max(1, -(-sum(blocks) // programs))  # in blocks

    items, first_slot, line = [], [0], 0  # line: blocks of all rows so far
    for row, (start, stop) in enumerate(ranges):
        while start < stop:
            room = chunk - line % chunk  # up to the next cut
            end = min(start + room * block_n, stop)
            items.append(Item(row, start, end, slot=len(items)))
            line += -(-(end - start) // block_n)
            start = end
        first_slot.append(len(items))

    sizes = [-(-(item.stop - item.start) // block_n) for item in items]
    longest = min(chunk, max(blocks, default=0))

    def rank(item: Item) -> tuple[bool, int]:
        """Full chunks, then by eighths; the sort is stable: within a rank, rows stay in order."""
        size = sizes[item.slot]
        return size < chunk, -CLASSES * size // longest  # that is -⌈8 size / longest⌉

    return sorted(items, key=rank), first_slot


def makespan(work: Sequence[float], workers: int) -> float:
    """Return when the last of `workers` is done, if each takes the next item once it is free.

    work: how long each item takes, in the order of the list. The result has the same unit.

    >>> makespan([4, 4, 2, 2, 1, 1], workers=4)
    4
    >>> makespan([1, 1, 2, 2, 4, 4], workers=4)
    5

    The same work, but now everyone waits for the long items, which start last.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1; got {workers}")
    free_at = [0] * workers
    for duration in work:
        heapq.heapreplace(free_at, free_at[0] + duration)
    return max(free_at)


def _check(lengths: Sequence[int], pads: Sequence[int], **numbers: int | None) -> None:
    """Raise ValueError for arguments that no plan can be made from."""
    for name in ("programs", "block_n", "Lq"):
        if numbers[name] < 1:
            raise ValueError(f"{name} must be at least 1; got {numbers[name]}")
    if len(pads) != len(lengths):
        raise ValueError(
            f"cache_leftpad must have one number per row; got {len(pads)} for {len(lengths)} rows"
        )
    if min([*lengths, *pads, numbers["window"] or 0], default=0) < 0:
        raise ValueError(
            "lengths, cache_leftpad and window must not be negative; got "
            f"{list(lengths)}, {list(pads)} and {numbers['window']}"
        )
