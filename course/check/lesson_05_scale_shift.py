"""Exercise 5.1: scale, shift and sum a vector of any length."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator

from course.check.guards import guarded, poisoned
from course.check.spec import Exercise, Mistake, Property, Seen
from kernels.runtime import device

# isort: split
import triton
import triton.language as tl

EPS = torch.finfo(torch.float32).eps


def _seen(answer: Callable, rng: Generator, n: int, block: int) -> Seen:
    """Launch the kernel on n random numbers; both outputs lie in NaN, and so does x."""
    scale, shift = (torch.rand(2, generator=rng) + 0.5).tolist()
    drawn = torch.randn(n, generator=rng)
    programs = triton.cdiv(n, block)
    x = guarded(drawn.to(device()), "x")
    y = poisoned((n,), name="y", device=device())
    sums = poisoned((programs,), name="sums", device=device())
    answer[(programs,)](x.tensor, y.tensor, sums.tensor, n, scale, shift, BLOCK=block)
    wanted = scale * drawn.double() + shift
    wanted_sums = torch.stack([part.sum() for part in wanted.split(block)])
    return Seen(
        (y.tensor, sums.tensor),
        (wanted.float(), wanted_sums.float()),
        f"n = {n}, BLOCK = {block}, scale = {scale:.2f}, shift = {shift:.2f}",
        names=("y", "sums"),
        guards=(x, y, sums),
        atol=EPS * (block + 2) * wanted.abs().max().item(),  # block additions, two roundings each y
        rtol=0.0,
    )


def _between(rng: Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=rng))


def _one_block(answer, rng):
    return _seen(answer, rng, n=16, block=16)


def _many_blocks(answer, rng):
    return _seen(answer, rng, n=64, block=16)


def _a_tail(answer, rng):
    return _seen(answer, rng, n=_between(rng, 34, 46), block=16)


def _short(answer, rng):
    return _seen(answer, rng, n=_between(rng, 1, 6), block=8)


def _one_too_many(answer, rng):
    return _seen(answer, rng, n=33, block=32)


@triton.jit
def _from_the_end(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Another right answer: counts what is left, masks x and shift before the sum."""
    pid = tl.program_id(0)
    inside = tl.arange(0, BLOCK) < n - pid * BLOCK
    x = tl.load(x_ptr + pid * BLOCK + tl.arange(0, BLOCK), mask=inside, other=0.0)
    y = x * scale + tl.where(inside, shift, 0.0)
    tl.store(y_ptr + pid * BLOCK + tl.arange(0, BLOCK), y, mask=inside)
    tl.store(sums_ptr + pid, tl.sum(y, 0))


@triton.jit
def _first_block(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    mask = offs < n
    y = scale * tl.load(x_ptr + offs, mask=mask, other=0.0) + shift
    tl.store(y_ptr + offs, y, mask=mask)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(tl.where(mask, y, 0.0), 0))


@triton.jit
def _overlapping(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    offs = tl.program_id(0) + tl.arange(0, BLOCK)
    mask = offs < n
    y = scale * tl.load(x_ptr + offs, mask=mask, other=0.0) + shift
    tl.store(y_ptr + offs, y, mask=mask)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(tl.where(mask, y, 0.0), 0))


@triton.jit
def _load_not_masked(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = scale * tl.load(x_ptr + offs) + shift
    tl.store(y_ptr + offs, y, mask=offs < n)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(y, 0))


@triton.jit
def _store_not_masked(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = scale * tl.load(x_ptr + offs, mask=offs < n, other=0.0) + shift
    tl.store(y_ptr + offs, y)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(tl.where(offs < n, y, 0.0), 0))


@triton.jit
def _lanes_counted(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = scale * tl.load(x_ptr + offs, mask=offs < n, other=0.0) + shift
    tl.store(y_ptr + offs, y, mask=offs < n)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(y, 0))


@triton.jit
def _one_place(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = scale * tl.load(x_ptr + offs, mask=offs < n, other=0.0) + shift
    tl.store(y_ptr + offs, y, mask=offs < n)
    tl.store(sums_ptr, tl.sum(tl.where(offs < n, y, 0.0), 0))


SCALE_SHIFT = Exercise(
    id="5.1",
    name="scale and shift",
    title="Scale, shift and sum",
    section="2 · What the mask cuts off",
    solution_name="scale_shift_kernel",
    properties=(
        Property("one block", "n is BLOCK: one program, nothing to cut off", _one_block),
        Property("many blocks", "every program takes a block of its own", _many_blocks),
        Property("a tail", "n is no multiple of BLOCK", _a_tail),
        Property("shorter than a block", "n below BLOCK", _short),
        Property("one element more", "the last program has one element only", _one_too_many),
    ),
    mistakes=(
        Mistake(
            "the first block only",
            "Every program works on the **first block**: the offsets don't depend on the number "
            "of the program.",
            _first_block,
            see="1 · One program, one block",
        ),
        Mistake(
            "blocks overlap",
            "Each program starts **one element** after the one before, not one block: the "
            "program's number has to be multiplied.",
            _overlapping,
            see="1 · One program, one block",
        ),
        Mistake(
            "load not masked",
            "The load **reads behind the end** of x: it has no mask, or one that lets an element "
            "too many pass (the last valid offset is n - 1). What lies there, here NaN, goes into "
            "the sum.",
            _load_not_masked,
        ),
        Mistake(
            "store not masked",
            "The **store has no mask**: the last program writes over whatever lies behind y.",
            _store_not_masked,
        ),
        Mistake(
            "masked lanes are counted",
            "y is right, but the sum of the last program is too large by a few times shift: lanes "
            "that were loaded as 0 are **no longer 0 after the shift**, and are counted.",
            _lanes_counted,
        ),
        Mistake(
            "sums in one place",
            "All programs store their sum in **the same place**; each has one of its own in sums.",
            _one_place,
            see="1 · One program, one block",
        ),
    ),
    alternative=_from_the_end,
    needs=("triton",),
    trials=2,
)
