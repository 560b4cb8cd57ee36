"""Exercise 10.1: how long stage 1 takes, in waves. Its properties and the mistakes people make."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Generator

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen

SECTION = "1 · The U by hand"
Result = tuple[float, float]


def truth(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    """Return (ticks, busy) as the lesson counts them."""
    chunk = math.ceil(blocks / num_splits)
    with_keys = programs * math.ceil(blocks / chunk)
    ticks = math.ceil(with_keys / slots) * chunk
    return ticks, programs * blocks / (slots * ticks)


def ask(answer: Callable, programs: int, blocks: int, num_splits: int, slots: int) -> Seen:
    """Ask for one launch."""
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


def _empty_splits(answer: Callable, rng: Generator) -> list[Seen]:
    programs = integer(rng, 2, 5)
    # 8 blocks in 5 splits are chunks of 2: the fifth split is empty, and so it is with 7
    return [ask(answer, programs, 8, S, 4 * programs) for S in (5, 7)]


def _more_splits_than_blocks(answer: Callable, rng: Generator) -> Seen:
    blocks = integer(rng, 1, 5)
    return ask(answer, integer(rng, 1, 4), blocks, blocks * integer(rng, 2, 4), blocks * 4)


def _divmod_way(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    """Another right answer: deal the programs out, wave by wave."""
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


def _tail_forgotten(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    chunk = math.ceil(blocks / num_splits)
    ticks = max(1, programs * math.ceil(blocks / chunk) // slots) * chunk
    return ticks, programs * blocks / (slots * ticks)


def _chunk_down(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    chunk = max(1, blocks // num_splits)
    with_keys = programs * min(num_splits, math.ceil(blocks / chunk))
    ticks = math.ceil(with_keys / slots) * chunk
    return ticks, programs * blocks / (slots * ticks)


def _whole_row(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    chunk = math.ceil(blocks / num_splits)
    ticks = math.ceil(programs * math.ceil(blocks / chunk) / slots) * blocks
    return ticks, programs * blocks / (slots * ticks)


def _slots_taken(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    chunk = math.ceil(blocks / num_splits)
    with_keys = programs * math.ceil(blocks / chunk)
    rounds = math.ceil(with_keys / slots)
    return rounds * chunk, with_keys / (slots * rounds)


def _percent(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    ticks, busy = truth(programs, blocks, num_splits, slots)
    return ticks, 100 * busy


def _one_program(programs: int, blocks: int, num_splits: int, slots: int) -> Result:
    return truth(1, blocks, num_splits, slots)


WAVES = Exercise(
    id="10.1",
    name="slot time",
    title="Waves by hand",
    section=SECTION,
    solution_name="slot_time",
    properties=(
        Property("by hand", "1 program, 8 blocks, 4 slots: S = 1, 2 and 4", _by_hand),
        Property("one wave", "room for all, chunks that come out even", _one_wave),
        Property("a tail", "a last wave that is not full", _tail),
        Property("a short chunk", "the last split has fewer blocks", _short_chunk),
        Property("empty splits", "8 blocks in 5 and in 7 splits", _empty_splits),
        Property(
            "more splits than blocks", "at most one a block has work", _more_splits_than_blocks
        ),
    ),
    mistakes=(
        Mistake(
            "empty splits counted",
            "Splits **without a block** are counted as if they took a slot. Chunks are rounded up, "
            "so the first few splits may use all blocks up.",
            _empty_counted,
        ),
        Mistake(
            "waves not rounded",
            "The number of waves is **not rounded up**: a wave that is a quarter full takes as "
            "long as a full one.",
            _waves_not_rounded,
        ),
        Mistake(
            "tail forgotten",
            "The number of waves is rounded **down**: programs that do not fill a wave run too, "
            "in a wave of their own.",
            _tail_forgotten,
        ),
        Mistake(
            "chunk rounded down",
            "The blocks of a split are rounded **down**, and the last ones belong to nobody. Equal "
            "shares are rounded up.",
            _chunk_down,
        ),
        Mistake(
            "whole row",
            "A wave is taken to last as long as **all blocks of a row**. It lasts a chunk: that is "
            "what splitting is for.",
            _whole_row,
        ),
        Mistake(
            "slots taken",
            "busy is the share of slots that are **taken** (the wave efficiency). Asked for is the "
            "share in which a block is read: a program whose chunk is short waits as well.",
            _slots_taken,
        ),
        Mistake(
            "per cent",
            "busy is given **in per cent**; it should be a number from 0 to 1.",
            _percent,
        ),
        Mistake(
            "one program",
            "`programs` is left out: this is what comes out for **a single** KV head of a single "
            "row.",
            _one_program,
        ),
    ),
    alternative=_divmod_way,
)
