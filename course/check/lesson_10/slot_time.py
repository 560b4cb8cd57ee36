"""Exercise 10.1: how long stage 1 takes, in waves."""

import heapq
import math

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip


@right
def slot_time(programs, blocks, num_splits, slots):
    chunk = math.ceil(blocks / num_splits)
    running = programs * math.ceil(blocks / chunk)  # empty splits left out
    ticks = math.ceil(running / slots) * chunk
    return ticks, programs * blocks / (slots * ticks)


@also_right
def dealt_out(programs, blocks, num_splits, slots):
    """Wave by wave."""
    chunk = -(-blocks // num_splits)
    waiting, ticks = programs * len(range(0, blocks, chunk)), 0
    while waiting > 0:
        waiting -= slots
        ticks += chunk
    return ticks, (programs * blocks) / (ticks * slots)


def ask(answer, *launch):
    """launch: programs, blocks, num_splits, slots."""
    near = {"atol": 1e-9, "rtol": 1e-9}
    return Seen.of(answer, launch, wanted=slot_time(*launch), names=("ticks", "busy"), **near)


@holds("1 program, 8 blocks, 4 slots: S = 1, 2 and 4")
def by_hand(answer, rng):
    return [ask(answer, 1, 8, S, 4) for S in (1, 2, 4)]


@holds("room for all, and chunks of equal size")
def one_wave(answer, rng):
    S = 2 ** integer(rng, 1, 3)
    return ask(answer, integer(rng, 1, 6), S * integer(rng, 2, 20), S, 64)


@holds("a last wave that is not full")
def a_tail(answer, rng):
    """Whole chunks."""
    slots, S = integer(rng, 5, 40), 2
    programs = slots * integer(rng, 1, 3) + integer(rng, 1, 2)
    return ask(answer, programs, S * integer(rng, 3, 9), S, slots)


@holds("the last split has fewer blocks")
def a_short_chunk(answer, rng):
    """That of every program; and none is empty."""
    S = integer(rng, 3, 6)
    return ask(answer, integer(rng, 1, 9), S * integer(rng, S, 12) - 1, S, 70)


@holds("a short chunk, and several waves", name="short, in waves")
def short_in_waves(answer, rng):
    """A wave lasts a full chunk, even if some programs finish earlier.

    The second call has one program more than slots, and the one left has a single block.
    """
    S, programs = integer(rng, 3, 5), integer(rng, 2, 6)
    chunk = integer(rng, 2, S)
    call = (programs, (S - 1) * chunk + 1, S, programs * S - 1)
    return [ask(answer, 1, 5, 3, 2), ask(answer, *call), ask(answer, 2, 5, 3, 2)]


@holds("8 blocks in 5 and in 7 splits, 9 in 4")
def empty_splits(answer, rng):
    programs = integer(rng, 2, 5)
    # 8 blocks in 5 splits make chunks of 2: the fifth split is empty; with 7, so are two more;
    # 9 in 4 make chunks of 3, though 2 is nearer
    return [ask(answer, programs, n, S, 4 * programs) for n, S in ((8, 5), (8, 7), (9, 4))]


@holds("at most one split per block has work")
def more_splits_than_blocks(answer, rng):
    blocks = integer(rng, 1, 5)
    return ask(answer, integer(rng, 1, 4), blocks, blocks * integer(rng, 2, 4), blocks * 4)


def sizes(programs, blocks, chunk):
    """Return the blocks of every program that has some."""
    return [min(chunk, blocks - start) for start in range(0, blocks, chunk)] * programs


@mistake(
    "Here **the next program starts as soon as a slot is free**, as in `schedule` of "
    "section 1. This exercise asks for waves: a wave starts only when the one before is "
    "completely done."
)
def next_when_free(programs, blocks, num_splits, slots):
    free = [0] * slots
    for size in sizes(programs, blocks, math.ceil(blocks / num_splits)):
        heapq.heapreplace(free, free[0] + size)
    return max(free), programs * blocks / (slots * max(free))


slip(
    "longest program left",
    "Here a wave lasts as long as **the longest program left in it**. The exercise asks "
    "for the time of a full chunk, even for a wave of short ones.",
    (
        "math.ceil(running / slots) * chunk",
        "sum(sorted(sizes(programs, blocks, chunk), reverse=True)[::slots])",
    ),
)
slip(
    "one pool",
    "The blocks of all programs are thrown **into one pool** and cut into chunks there. A "
    "split belongs to one program: each program has its own short chunk.",
    ("programs * math.ceil(blocks / chunk)", "math.ceil(programs * blocks / chunk)"),
)
slip(
    "empty splits counted",
    "Splits **without a block** are counted as if they took a slot. Chunks are rounded "
    "up, so the first few splits may use up all the blocks.",
    ("math.ceil(blocks / chunk)", "num_splits"),
)
slip(
    "at most one per block",
    "Splits are capped at **one per block**, but some of the others may be empty as well: 8 blocks "
    "in 5 splits make chunks of 2, and the fifth split gets none.",
    ("math.ceil(blocks / chunk)", "min(num_splits, blocks)"),
)
slip(
    "short split left out",
    "The **short last split is not counted**: it has fewer blocks than a chunk, but it has some, "
    "and takes a slot.",
    ("math.ceil(blocks / chunk)", "max(1, blocks // chunk)"),
)
slip(
    "one wave",
    "All programs are taken to run **at once**. There are only `slots` of them at a time: the rest "
    "wait for the next wave.",
    ("math.ceil(running / slots) * chunk", "chunk"),
)
slip(
    "last wave left out",
    "The number of waves is rounded **down**: the last wave, not full, is left out.",
    ("math.ceil(running / slots)", "max(1, running // slots)"),
)
slip(
    "one wave too many",
    "Where the programs just fill their waves, there is **one wave too many**: rounding up is not "
    "the same as rounding down and adding 1.",
    ("math.ceil(running / slots)", "(running // slots + 1)"),
)
slip(
    "chunk one too large",
    "Where the blocks divide evenly, a chunk is **one block too large**: rounding up is not the "
    "same as rounding down and adding 1.",
    ("math.ceil(blocks / num_splits)", "(blocks // num_splits + 1)"),
)
slip(
    "chunk to the nearest",
    "The number of blocks per split is rounded to the **nearest** whole number. Rounded down, S "
    "chunks don't reach the last block.",
    ("math.ceil(blocks / num_splits)", "max(1, int(blocks / num_splits + 0.5))"),
)
slip(
    "results swapped",
    "The two results are **swapped**: ticks come first, then busy.",
    (
        "return ticks, programs * blocks / (slots * ticks)",
        "return programs * blocks / (slots * ticks), ticks",
    ),
)
slip(
    "in percent",
    "busy is in **percent**: a share goes from 0 to 1.",
    ("programs * blocks / (", "100 * programs * blocks / ("),
)
slip(
    "waves not rounded",
    "The number of waves is **not rounded up**: a wave that is a quarter full takes as "
    "long as a full one.",
    ("math.ceil(running / slots)", "running / slots"),
)
slip(
    "chunk not rounded",
    "The number of blocks per split is **not rounded up**. There is no half block: 8 "
    "blocks in 5 splits make chunks of 2.",
    ("math.ceil(blocks / num_splits)", "blocks / num_splits"),
)
slip(
    "chunk rounded down",
    "The number of blocks per split is rounded **down**. S such chunks may then not reach "
    "the end, and with more splits than blocks a chunk is 0.",
    ("math.ceil(blocks / num_splits)", "blocks // num_splits"),
)
slip(
    "number of waves",
    "ticks is the **number of waves**. A wave lasts as many ticks as a chunk has blocks.",
    ("math.ceil(running / slots) * chunk", "math.ceil(running / slots)"),
)
slip(
    "busy of one program",
    "busy counts the blocks of **a single program**, but those of all `programs` are read.",
    ("programs * blocks / (", "blocks / ("),
)
slip(
    "slots taken",
    "busy is the share of slots that are **taken** (the wave efficiency). The exercise "
    "asks for the share in which a block is read: a program whose chunk is short also "
    "waits.",
    ("programs * blocks / (", "running * chunk / ("),
)

WAVES = Exercise.of(
    __name__, "10.1 slot time", title="Waves by hand", section="3 · FlashAttention-2's rule"
)
