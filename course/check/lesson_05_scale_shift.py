"""Exercise 5.1: scale, shift and sum a vector of any length."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator

from course.check import lesson_05_scale_shift_answers as answers
from course.check.draw import integer
from course.check.guards import guarded, poisoned
from course.check.spec import Exercise, Mistake, Property, Seen
from kernels.runtime import device

# isort: split
import triton

ONE = "1 · One program, one block"
EPS = torch.finfo(torch.float32).eps


def _seen(
    answer: Callable, rng: Generator, n: int, block: int, launched: int | None = None
) -> Seen:
    """Launch the kernel on n random numbers; x and both outputs lie inside NaN.

    launched: programs, if not one per block; what the others would write must stay NaN.
    """
    scale, shift = (torch.rand(2, generator=rng) + 0.5).tolist()
    drawn = torch.randn(n, generator=rng)
    programs = triton.cdiv(n, block)
    x = guarded(drawn.to(device()), "x")
    y = poisoned((n,), name="y", device=device())
    sums = poisoned((programs,), name="sums", device=device())
    answer[(launched or programs,)](x.tensor, y.tensor, sums.tensor, n, scale, shift, BLOCK=block)
    wanted = scale * drawn.double() + shift
    wanted_sums = torch.stack([part.sum() for part in wanted.split(block)])
    largest = wanted.abs().max().item()
    wanted[(launched or programs) * block :] = wanted_sums[launched or programs :] = torch.nan
    return Seen(
        (y.tensor, sums.tensor),
        (wanted.float(), wanted_sums.float()),
        f"n = {n}, BLOCK = {block}, {launched or programs} programs, "
        f"scale = {scale:.2f}, shift = {shift:.2f}",
        names=("y", "sums"),
        guards=(x, y, sums),
        atol=EPS * (block + 2) * largest,  # BLOCK additions, and two roundings per y
        rtol=0.0,
    )


def _one_block(answer, rng):
    return _seen(answer, rng, n=16, block=16)


def _many_blocks(answer, rng):
    return _seen(answer, rng, n=64, block=16)


def _a_tail(answer, rng):
    return _seen(answer, rng, n=integer(rng, 34, 46), block=16)


def _short(answer, rng):
    return _seen(answer, rng, n=integer(rng, 1, 6), block=8)


def _one_too_many(answer, rng):
    return _seen(answer, rng, n=33, block=32)


def _smaller_grid(answer, rng):
    return _seen(answer, rng, n=60, block=16, launched=2)


SCALE_SHIFT = Exercise(
    id="5.1",
    name="scale and shift",
    title="Scale, shift and sum",
    section="2 · What the mask cuts off",
    solution_name="scale_shift_kernel",
    properties=(
        Property("one block", "n is BLOCK: one program, nothing to cut off", _one_block, ONE),
        Property("many blocks", "every program has its own block", _many_blocks, ONE),
        Property("a tail", "n is not a multiple of BLOCK", _a_tail),
        Property("shorter than a block", "n is less than BLOCK", _short),
        Property("one element more", "the last program has only one element", _one_too_many),
        Property("a smaller grid", "blocks without a program stay untouched", _smaller_grid, ONE),
    ),
    mistakes=(
        Mistake(
            "the first block only",
            "Every program works on the **first block**: the offsets don't depend on the "
            "program's number.",
            answers.first_block,
            see=ONE,
        ),
        Mistake(
            "blocks overlap",
            "Each program starts **one element** after the one before, not one block: multiply the "
            "program's number by BLOCK.",
            answers.overlapping,
            see=ONE,
        ),
        Mistake(
            "load not masked",
            "The load **reads past the end** of x: it has no mask, or one that lets through one "
            "element too many (the last valid offset is n - 1). Whatever lies there, here NaN, "
            "goes into the sum.",
            answers.load_not_masked,
        ),
        Mistake(
            "store not masked",
            "The **store has no mask**: the last program overwrites whatever lies after y.",
            answers.store_not_masked,
        ),
        Mistake(
            "masked lanes are counted",
            "y is right, but the sum of the last program is too large by a few times shift: lanes "
            "loaded as 0 are **no longer 0 after the shift**, and they are counted.",
            answers.lanes_counted,
        ),
        Mistake(
            "sums in one place",
            "All programs store their sum in **the same place**; each has its own place in `sums`.",
            answers.one_place,
            see=ONE,
        ),
        Mistake(
            "no mask at all",
            "There is **no mask** anywhere: the last program reads past the end of x, writes past "
            "the end of y, and its sum counts elements that don't exist.",
            answers.no_mask,
        ),
        Mistake(
            "x is summed",
            "y is right, but **x** is summed: `sums` takes the sum of y.",
            answers.x_summed,
        ),
        Mistake(
            "shifted first",
            "The shift is added **before** the multiplication: compute scale · x first, then "
            "add the shift.",
            answers.shifted_first,
            see=ONE,
        ),
        Mistake(
            "sums not stored",
            "y is right, and `sums` is NaN throughout: either it is **never stored**, or something "
            "is added to what was there (`tl.atomic_add`). Outputs start as NaN: store into them.",
            answers.sums_not_stored,
            see=ONE,
        ),
        Mistake(
            "sum in every lane's place",
            "The sum is stored at `sums_ptr + offs`, **one place per element**. There is one sum "
            "per program, so its place is the program's number.",
            answers.sum_in_every_lane,
            see=ONE,
        ),
        Mistake(
            "every block by every program",
            "Each program **loops over all blocks**. A program handles one block, its own; the "
            "grid takes care of the others.",
            answers.all_blocks,
            see=ONE,
        ),
        Mistake(
            "pointer indexed",
            "A pointer can't be **indexed** like a tensor: it is an address. Use "
            "`tl.load` on `x_ptr + offs`.",
            answers.indexed,
            see=ONE,
        ),
        Mistake(
            "no triton.jit",
            "This is a plain Python function: the line **`@triton.jit`** above its `def` is "
            "missing, so it can't be launched on a grid.",
            answers.plain_function,
            see=ONE,
        ),
    ),
    alternative=answers.from_the_end,
    needs=("triton",),
    trials=2,
)
