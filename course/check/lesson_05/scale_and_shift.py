"""Exercise 5.1: scale, shift and sum a vector of any length."""

import torch

from course.check.draw import integer
from course.check.guards import guarded, poisoned
from course.check.kernel_inputs import EPS
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from kernels.runtime import device

# isort: split
import triton
import triton.language as tl

ONE = "1 · One program, one block"


@right
@triton.jit
def scale_shift_kernel(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    offs = pid * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    y = scale * tl.load(x_ptr + offs, mask=mask, other=0.0) + shift
    tl.store(y_ptr + offs, y, mask=mask)
    tl.store(sums_ptr + pid, tl.sum(tl.where(mask, y, 0.0), 0))


@also_right
@triton.jit
def from_the_end(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Counts what is left, masks x and shift before the sum."""
    pid = tl.program_id(0)
    inside = tl.arange(0, BLOCK) < n - pid * BLOCK
    x = tl.load(x_ptr + pid * BLOCK + tl.arange(0, BLOCK), mask=inside, other=0.0)
    y = x * scale + tl.where(inside, shift, 0.0)
    tl.store(y_ptr + pid * BLOCK + tl.arange(0, BLOCK), y, mask=inside)
    tl.store(sums_ptr + pid, tl.sum(y, 0))


def seen(answer, rng, n, block, launched=None, factor=1.0):
    """Launch the kernel on n random numbers; x and both outputs lie inside NaN.

    launched: programs, if not one per block; what the others would write must stay NaN.
    factor: of the scale, which is drawn between 0.5 and 1.5.
    """
    scale, shift = (torch.rand(2, generator=rng) + 0.5).tolist()
    scale *= factor
    drawn = torch.randn(n, generator=rng)
    drawn[integer(rng, 0, n - 1)] = 0.0  # an element like any other, not a masked lane
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


@holds("n is BLOCK: one program, nothing to cut off", see=ONE)
def one_block(answer, rng):
    return seen(answer, rng, n=16, block=16)


@holds("every program has its own block", see=ONE)
def many_blocks(answer, rng):
    return seen(answer, rng, n=64, block=16)


@holds("n is not a multiple of BLOCK")
def a_tail(answer, rng):
    return seen(answer, rng, n=integer(rng, 34, 46), block=16)


@holds("n is less than BLOCK; the scale may be 0")
def shorter_than_a_block(answer, rng):
    return [seen(answer, rng, n=integer(rng, 1, 6), block=8, factor=x) for x in (1.0, 0.0)]


@holds("the last program has only one element")
def one_element_more(answer, rng):
    return seen(answer, rng, n=33, block=32)


@holds("blocks without a program stay untouched", see=ONE)
def a_smaller_grid(answer, rng):
    return seen(answer, rng, n=60, block=16, launched=2)


slip(
    "the first block only",
    "Every program works on the **first block**: the offsets don't depend on the program's number.",
    ("pid * BLOCK + ", ""),
    see=ONE,
)
slip(
    "blocks overlap",
    "Each program starts **one element** after the one before, not one block: multiply the "
    "program's number by BLOCK.",
    ("pid * BLOCK", "pid"),
    see=ONE,
)
slip(
    "load not masked",
    "The load **reads past the end** of x: it has no mask, or one that lets through one "
    "element too many (the last valid offset is n - 1). Whatever lies there, here NaN, "
    "goes into the sum.",
    (", mask=mask, other=0.0", ""),
    ("tl.where(mask, y, 0.0)", "y"),
)
slip(
    "store not masked",
    "The **store has no mask**: the last program overwrites whatever lies after y.",
    ("y, mask=mask", "y"),
)
slip(
    "masked lanes are counted",
    "y is right, but the sum of the last program is too large by a few times shift: lanes "
    "loaded as 0 are **no longer 0 after the shift**, and they are counted.",
    ("tl.where(mask, y, 0.0)", "y"),
)
slip(
    "undone by other",
    "Masked lanes are loaded as **-shift / scale**, which the shift turns into 0. But scale may be "
    "0, and then this divides by 0. Load anything, and make y 0 there before it is summed.",
    ("other=0.0", "other=-shift / scale"),
    ("tl.where(mask, y, 0.0)", "y"),
)
slip(
    "sums in one place",
    "All programs store their sum in **the same place**; each has its own place in `sums`.",
    ("sums_ptr + pid", "sums_ptr"),
    see=ONE,
)
slip(
    "no mask at all",
    "The mask is missing, or lets **too much** through (the last valid offset is n - 1): the last "
    "program reads past the end of x, writes past the end of y, and its sum counts what is there.",
    (", mask=mask, other=0.0", ""),
    ("y, mask=mask", "y"),
    ("tl.where(mask, y, 0.0)", "y"),
)
slip(
    "x is summed",
    "y is right, but **x** is summed: `sums` takes the sum of y.",
    ("tl.where(mask, y, 0.0)", "tl.load(x_ptr + offs, mask=mask, other=0.0)"),
)
slip(
    "shifted first",
    "The shift is added **before** the multiplication: compute scale · x first, then "
    "add the shift.",
    (
        "tl.load(x_ptr + offs, mask=mask, other=0.0) + shift",
        "(tl.load(x_ptr + offs, mask=mask, other=0.0) + shift)",
    ),
    see=ONE,
)
slip(
    "sums not stored",
    "y is right, and `sums` is NaN throughout: either it is **never stored**, or something "
    "is added to what was there (`tl.atomic_add`). Outputs start as NaN: store into them.",
    ("    tl.store(sums_ptr + pid, tl.sum(tl.where(mask, y, 0.0), 0))\n", ""),
    see=ONE,
)
slip(
    "sum in every lane's place",
    "The sum is stored at `sums_ptr + offs`, **one place per element**. There is one sum "
    "per program, so its place is the program's number.",
    ("sums_ptr + pid", "sums_ptr + offs"),
    ("y, 0.0), 0)", "y, 0.0), 0), mask=mask"),
    see=ONE,
)
slip(
    "every block by every program",
    "Each program **loops over all blocks**. A program handles one block, its own; the "
    "grid takes care of the others.",
    ("\n    ", "\n        "),
    ("    pid = tl.program_id(0)", "for pid in range(0, (n + BLOCK - 1) // BLOCK):"),
    see=ONE,
)
slip(
    "mask of the block",
    "The mask compares the **place in the block** with n, not the place in x: it cuts nothing "
    "off unless n is less than a block.",
    ("mask = offs < n", "mask = tl.arange(0, BLOCK) < n"),
)
slip(
    "last element left out",
    "The mask cuts off **the last element**: offsets count from 0, so the last one is n - 1, and "
    "it is below n.",
    ("offs < n", "offs < n - 1"),
)
slip(
    "clamped, not masked",
    "Offsets past the end are moved **back to the last element**, so the last block counts "
    "it several times. Lanes without an element must be masked.",
    ("tl.arange(0, BLOCK)\n", "tl.arange(0, BLOCK)\n    offs = tl.minimum(offs, n - 1)\n"),
)
slip(
    "shift not in the sum",
    "y is right, but the sum is that of **scale · x**: the shift belongs to each y, and so to the "
    "sum once per element.",
    ("tl.where(mask, y, 0.0)", "tl.where(mask, y - shift, 0.0)"),
)
slip(
    "zeros left out",
    "The sum leaves out lanes in which **x is 0**, but an element may be 0, too. What tells lanes "
    "without an element is the mask.",
    ("tl.where(mask, y, 0.0)", "tl.where(y != shift, y, 0.0)"),
)
slip(
    "all sums by one program",
    "**A single program** computes all the sums. Programs run side by side: each stores the sum of "
    "its own block.",
    (
        "tl.store(sums_ptr + pid, tl.sum(tl.where(mask, y, 0.0), 0))",
        "if pid == tl.num_programs(0) - 1:\n"
        "        for pid in range(0, tl.num_programs(0)):\n"
        "            offs = pid * BLOCK + tl.arange(0, BLOCK)\n"
        "            x = tl.load(x_ptr + offs, mask=offs < n, other=0.0)\n"
        "            y = tl.where(offs < n, scale * x + shift, 0.0)\n"
        "            tl.store(sums_ptr + pid, tl.sum(y, 0))",
    ),
    see=ONE,
)
slip(
    "interleaved",
    "Program p takes every element p + i · programs: the **elements of a block are adjacent**, "
    "from p · BLOCK on.",
    ("pid * BLOCK + tl.arange(0, BLOCK)", "pid + tl.arange(0, BLOCK) * tl.num_programs(0)"),
    see=ONE,
)
slip(
    "scale and shift swapped",
    "scale and shift are **swapped**: x is multiplied by scale.",
    ("scale * tl.load", "shift * tl.load"),
    ("other=0.0) + shift", "other=0.0) + scale"),
    see=ONE,
)
slip(
    "a fixed block",
    "The block has **a fixed size**, whatever BLOCK is: the check launches with several, and the "
    "grid has one program per BLOCK elements.",
    ("pid * BLOCK + tl.arange(0, BLOCK)", "pid * 16 + tl.arange(0, 16)"),
    see=ONE,
)
slip(
    "pointer indexed",
    "A pointer can't be **indexed** like a tensor: it is an address. Use "
    "`tl.load` on `x_ptr + offs`.",
    ("tl.load(x_ptr + offs, mask=mask, other=0.0)", "x_ptr[offs]"),
    see=ONE,
)
slip(
    "no triton.jit",
    "This is a plain Python function: the line **`@triton.jit`** above its `def` is "
    "missing, so it can't be launched on a grid.",
    ("@triton.jit\n", ""),
    see=ONE,
)

SCALE_SHIFT = Exercise.of(
    __name__,
    "5.1 scale and shift",
    title="Scale, shift and sum",
    section="2 · What the mask cuts off",
    needs=("triton",),
    trials=2,
)
