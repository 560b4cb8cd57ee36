"""Exercise 5.1's other right answer, and what people get wrong."""

from __future__ import annotations

from kernels.runtime import INTERPRETED  # noqa: F401 — before triton: it decides the mode

# isort: split
import triton
import triton.language as tl


@triton.jit
def from_the_end(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Another right answer: counts what is left, masks x and shift before the sum."""
    pid = tl.program_id(0)
    inside = tl.arange(0, BLOCK) < n - pid * BLOCK
    x = tl.load(x_ptr + pid * BLOCK + tl.arange(0, BLOCK), mask=inside, other=0.0)
    y = x * scale + tl.where(inside, shift, 0.0)
    tl.store(y_ptr + pid * BLOCK + tl.arange(0, BLOCK), y, mask=inside)
    tl.store(sums_ptr + pid, tl.sum(y, 0))


@triton.jit
def first_block(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """The offsets ignore the program's number."""
    offs = tl.arange(0, BLOCK)
    mask = offs < n
    y = scale * tl.load(x_ptr + offs, mask=mask, other=0.0) + shift
    tl.store(y_ptr + offs, y, mask=mask)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(tl.where(mask, y, 0.0), 0))


@triton.jit
def overlapping(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Programs start one element apart."""
    offs = tl.program_id(0) + tl.arange(0, BLOCK)
    mask = offs < n
    y = scale * tl.load(x_ptr + offs, mask=mask, other=0.0) + shift
    tl.store(y_ptr + offs, y, mask=mask)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(tl.where(mask, y, 0.0), 0))


@triton.jit
def load_not_masked(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Reads past the end of x."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = scale * tl.load(x_ptr + offs) + shift
    tl.store(y_ptr + offs, y, mask=offs < n)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(y, 0))


@triton.jit
def store_not_masked(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Writes past the end of y."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = scale * tl.load(x_ptr + offs, mask=offs < n, other=0.0) + shift
    tl.store(y_ptr + offs, y)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(tl.where(offs < n, y, 0.0), 0))


@triton.jit
def lanes_counted(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Sums lanes that hold only the shift."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = scale * tl.load(x_ptr + offs, mask=offs < n, other=0.0) + shift
    tl.store(y_ptr + offs, y, mask=offs < n)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(y, 0))


@triton.jit
def one_place(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Every sum goes to the first place."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = scale * tl.load(x_ptr + offs, mask=offs < n, other=0.0) + shift
    tl.store(y_ptr + offs, y, mask=offs < n)
    tl.store(sums_ptr, tl.sum(tl.where(offs < n, y, 0.0), 0))


@triton.jit
def no_mask(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Neither load nor store is masked."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = scale * tl.load(x_ptr + offs) + shift
    tl.store(y_ptr + offs, y)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(y, 0))


@triton.jit
def x_summed(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Sums x instead of y."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < n, other=0.0)
    tl.store(y_ptr + offs, scale * x + shift, mask=offs < n)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(x, 0))


@triton.jit
def shifted_first(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Computes scale · (x + shift)."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = scale * (tl.load(x_ptr + offs, mask=offs < n, other=0.0) + shift)
    tl.store(y_ptr + offs, y, mask=offs < n)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(tl.where(offs < n, y, 0.0), 0))


@triton.jit
def sums_not_stored(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Nothing is stored to sums."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = scale * tl.load(x_ptr + offs, mask=offs < n, other=0.0) + shift
    tl.store(y_ptr + offs, y, mask=offs < n)


@triton.jit
def sum_in_every_lane(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Stores the sum at sums_ptr + offs."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = scale * tl.load(x_ptr + offs, mask=offs < n, other=0.0) + shift
    tl.store(y_ptr + offs, y, mask=offs < n)
    tl.store(sums_ptr + offs, tl.sum(tl.where(offs < n, y, 0.0), 0), mask=offs < n)


@triton.jit
def all_blocks(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """A loop over the blocks in every program."""
    for pid in range(0, (n + BLOCK - 1) // BLOCK):
        offs = pid * BLOCK + tl.arange(0, BLOCK)
        y = scale * tl.load(x_ptr + offs, mask=offs < n, other=0.0) + shift
        tl.store(y_ptr + offs, y, mask=offs < n)
        tl.store(sums_ptr + pid, tl.sum(tl.where(offs < n, y, 0.0), 0))


@triton.jit
def indexed(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Indexes a pointer: x_ptr[offs]."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = scale * x_ptr[offs] + shift
    tl.store(y_ptr + offs, y, mask=offs < n)


def plain_function(x_ptr, y_ptr, sums_ptr, n, scale, shift, BLOCK: tl.constexpr):
    """Lacks @triton.jit, and stores no sums."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = scale * tl.load(x_ptr + offs, mask=offs < n, other=0.0) + shift
    tl.store(y_ptr + offs, y, mask=offs < n)
