"""Exercise 10.1: how long stage 1 takes, in waves. Its properties and the mistakes people make."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

from torch import Generator

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen

SECTION = "3 · FlashAttention-2's rule"
Result = tuple[float, float]


def truth(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    """Return (ticks, busy) as the lesson counts them."""
    chunk = math.ceil(blocks / num_splits)
    with_keys = programs * math.ceil(blocks / chunk)
    ticks = math.ceil(with_keys / slots) * chunk
    return ticks, programs * blocks / (slots * ticks)


def ask(answer: Callable, programs: int, blocks: int, num_splits: int, slots: int) -> Seen:
    """Ask about one launch."""
    call = (programs, blocks, num_splits, slots)
    names = ("ticks", "busy")
    return Seen.of(answer, call, wanted=truth(*call), names=names, atol=1e-9, rtol=1e-9)


def _by_hand(answer: Callable, rng: Generator) -> list[Seen]:
    return [ask(answer, 1, 8, S, 4) for S in (1, 2, 4)]


def _one_wave(answer: Callable, rng: Generator) -> Seen:
    S = 2 ** integer(rng, 1, 3)
    return ask(answer, integer(rng, 1, 6), S * integer(rng, 2, 20), S, 64)


def _tail(answer: Callable, rng: Generator) -> Seen:
    """Whole chunks, and a last wave that is not full."""
    slots, S = integer(rng, 5, 40), 2
    programs = slots * integer(rng, 1, 3) + integer(rng, 1, 2)
    return ask(answer, programs, S * integer(rng, 3, 9), S, slots)


def _short_chunk(answer: Callable, rng: Generator) -> Seen:
    """The last split of every program is shorter, and none is empty."""
    S = integer(rng, 3, 6)
    return ask(answer, integer(rng, 1, 9), S * integer(rng, S, 12) - 1, S, 70)


def _short_in_waves(answer: Callable, rng: Generator) -> list[Seen]:
    """Short chunks and several waves: a wave lasts a full chunk, even if some finish earlier.

    The second call has one program more than slots, and the one left has a single block.
    """
    S, programs = integer(rng, 3, 5), integer(rng, 2, 6)
    chunk = integer(rng, 2, S)
    call = (programs, (S - 1) * chunk + 1, S, programs * S - 1)
    return [ask(answer, 1, 5, 3, 2), ask(answer, *call), ask(answer, 2, 5, 3, 2)]


def _empty_splits(answer: Callable, rng: Generator) -> list[Seen]:
    programs = integer(rng, 2, 5)
    # 8 blocks in 5 splits make chunks of 2: the fifth split is empty; with 7, so are two more
    return [ask(answer, programs, 8, S, 4 * programs) for S in (5, 7)]


def _more_splits_than_blocks(answer: Callable, rng: Generator) -> Seen:
    blocks = integer(rng, 1, 5)
    return ask(answer, integer(rng, 1, 4), blocks, blocks * integer(rng, 2, 4), blocks * 4)


def _divmod_way(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    """Another correct answer: deal the programs out, wave by wave."""
    chunk = -(-blocks // num_splits)
    waiting, ticks = programs * len(range(0, blocks, chunk)), 0
    while waiting > 0:
        waiting -= slots
        ticks += chunk
    return ticks, (programs * blocks) / (ticks * slots)


def _empty_counted(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    chunk = math.ceil(blocks / num_splits)
    ticks = math.ceil(programs * num_splits / slots) * chunk
    return ticks, programs * blocks / (slots * ticks)


def _waves_not_rounded(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    chunk = math.ceil(blocks / num_splits)
    ticks = programs * math.ceil(blocks / chunk) / slots * chunk
    return ticks, programs * blocks / (slots * ticks)


def _sizes(programs: int, blocks: int, num_splits: int) -> list[int]:
    """Return the blocks of every program that has some."""
    chunk = math.ceil(blocks / num_splits)
    return [min(chunk, blocks - start) for start in range(0, blocks, chunk)] * programs


def _busy(programs: int, blocks: int, slots: int, ticks: float) -> Result:
    return ticks, programs * blocks / (slots * ticks)


def _next_when_free(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    free = [0] * slots
    for size in _sizes(programs, blocks, num_splits):
        heapq.heappush(free, heapq.heappop(free) + size)
    return _busy(programs, blocks, slots, max(free))


def _longest_left(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    sizes = sorted(_sizes(programs, blocks, num_splits), reverse=True)
    return _busy(programs, blocks, slots, sum(sizes[::slots]))


def _one_pool(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    chunk = math.ceil(blocks / num_splits)
    waves = math.ceil(math.ceil(programs * blocks / chunk) / slots)
    return _busy(programs, blocks, slots, waves * chunk)


def _chunk_not_rounded(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    chunk = blocks / num_splits
    running = programs * math.ceil(blocks / chunk)
    return _busy(programs, blocks, slots, math.ceil(running / slots) * chunk)


def _chunk_down(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    chunk = blocks // num_splits
    running = programs * math.ceil(blocks / chunk)
    return _busy(programs, blocks, slots, math.ceil(running / slots) * chunk)


def _number_of_waves(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    chunk = math.ceil(blocks / num_splits)
    waves = math.ceil(programs * math.ceil(blocks / chunk) / slots)
    return _busy(programs, blocks, slots, waves)


def _slots_taken(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    chunk = math.ceil(blocks / num_splits)
    with_keys = programs * math.ceil(blocks / chunk)
    rounds = math.ceil(with_keys / slots)
    return rounds * chunk, with_keys / (slots * rounds)


def _busy_of_one(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    ticks, busy = truth(programs, blocks, num_splits, slots)
    return ticks, busy / programs


WAVES = Exercise(
    id="10.1",
    name="slot time",
    title="Waves by hand",
    section=SECTION,
    solution_name="slot_time",
    properties=(
        Property("by hand", "1 program, 8 blocks, 4 slots: S = 1, 2 and 4", _by_hand),
        Property("one wave", "room for all, and chunks of equal size", _one_wave),
        Property("a tail", "a last wave that is not full", _tail),
        Property("a short chunk", "the last split has fewer blocks", _short_chunk),
        Property("short, in waves", "a short chunk, and several waves", _short_in_waves),
        Property("empty splits", "8 blocks in 5 and in 7 splits", _empty_splits),
        Property(
            "more splits than blocks",
            "at most one split per block has work",
            _more_splits_than_blocks,
        ),
    ),
    mistakes=(
        Mistake(
            "next when free",
            "Here **the next program starts as soon as a slot is free**, as in `schedule` of "
            "section 1. This exercise asks for waves: a wave starts only when the one before is "
            "completely done.",
            _next_when_free,
        ),
        Mistake(
            "longest program left",
            "Here a wave lasts as long as **the longest program left in it**. The exercise asks "
            "for the time of a full chunk, even for a wave of short ones.",
            _longest_left,
        ),
        Mistake(
            "one pool",
            "The blocks of all programs are thrown **into one pool** and cut into chunks there. A "
            "split belongs to one program: each program has its own short chunk.",
            _one_pool,
        ),
        Mistake(
            "empty splits counted",
            "Splits **without a block** are counted as if they took a slot. Chunks are rounded "
            "up, so the first few splits may use up all the blocks.",
            _empty_counted,
        ),
        Mistake(
            "waves not rounded",
            "The number of waves is **not rounded up**: a wave that is a quarter full takes as "
            "long as a full one.",
            _waves_not_rounded,
        ),
        Mistake(
            "chunk not rounded",
            "The number of blocks per split is **not rounded up**. There is no half block: 8 "
            "blocks in 5 splits make chunks of 2.",
            _chunk_not_rounded,
        ),
        Mistake(
            "chunk rounded down",
            "The number of blocks per split is rounded **down**. S such chunks may then not reach "
            "the end, and with more splits than blocks a chunk is 0.",
            _chunk_down,
        ),
        Mistake(
            "number of waves",
            "ticks is the **number of waves**. A wave lasts as many ticks as a chunk has blocks.",
            _number_of_waves,
        ),
        Mistake(
            "busy of one program",
            "busy counts the blocks of **a single program**, but those of all `programs` are read.",
            _busy_of_one,
        ),
        Mistake(
            "slots taken",
            "busy is the share of slots that are **taken** (the wave efficiency). The exercise "
            "asks for the share in which a block is read: a program whose chunk is short also "
            "waits.",
            _slots_taken,
        ),
    ),
    alternative=_divmod_way,
)
