"""Exercise 5.3: a kernel with one wrong stride, to be found and fixed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator

from course.check.guards import Guarded, guarded, poisoned
from course.check.spec import Exercise, Mistake, Property, Seen
from kernels.runtime import device

# isort: split
import triton
import triton.language as tl

BLOCK_M, BLOCK_N = 8, 16
MASK = "2 · What the mask cuts off"


def _random(rng: Generator, M: int, N: int, name: str, row_gap: int = 0) -> Guarded:
    return guarded(torch.randn(M, N, generator=rng).to(device()), name, row_gap=row_gap)


def _seen(answer: Callable, s: Guarded, bias: Guarded, out: Guarded, given: str, views=()) -> Seen:
    """Launch the kernel. views: for "s", "bias" or "out", the view to pass instead."""
    a, b, c = (dict(views).get(x.name, x.tensor) for x in (s, bias, out))
    M, N = a.shape
    grid = (triton.cdiv(M, BLOCK_M), triton.cdiv(N, BLOCK_N))
    strides = (*a.stride(), *b.stride(), *c.stride())
    answer[grid](a, b, c, M, N, *strides, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N)
    text = f"{given}; s ({M}, {N}), strides: s {a.stride()}, bias {b.stride()}, out {c.stride()}"
    return Seen(c, a + b, text, names=("out",), guards=(s, bias, out))


def _out(M: int, N: int, row_gap: int = 0) -> Guarded:
    return poisoned((M, N), name="out", row_gap=row_gap, device=device())


def _same_layout(answer, rng):
    M, N = 16, 16
    s, bias = _random(rng, M, N, "s"), _random(rng, M, N, "bias")
    return _seen(answer, s, bias, _out(M, N), "all three contiguous")


def _odd_sizes(answer, rng):
    M, N = 11, 21
    s, bias = _random(rng, M, N, "s"), _random(rng, M, N, "bias")
    return _seen(answer, s, bias, _out(M, N), "all three contiguous")


def _transposed_bias(answer, rng):
    M, N = 11, 21
    s, bias = _random(rng, M, N, "s"), _random(rng, N, M, "bias")
    return _seen(answer, s, bias, _out(M, N), "bias transposed", {"bias": bias.tensor.T})


def _one_bias_row(answer, rng):
    M, N = 11, 21
    s, bias = _random(rng, M, N, "s"), _random(rng, 1, N, "bias")
    view = {"bias": bias.tensor.expand(M, N)}
    return _seen(answer, s, bias, _out(M, N), "one row of bias for all rows of s", view)


def _wide_scores(answer, rng):
    M, N = 11, 21
    s, bias = _random(rng, M, N, "s", row_gap=5), _random(rng, M, N, "bias")
    return _seen(answer, s, bias, _out(M, N), "s part of a wider matrix")


def _other_out(answer, rng):
    M, N = 11, 21
    s, bias, turned = _random(rng, M, N, "s"), _random(rng, M, N, "bias"), _out(N, M)
    return [
        _seen(answer, s, bias, _out(M, N, row_gap=3), "out part of a wider matrix"),
        _seen(answer, s, bias, turned, "out transposed", {"out": turned.tensor.T}),
    ]


@triton.jit
def _add(s_ptrs, b_ptrs, o_ptrs, mask):
    tl.store(o_ptrs, tl.load(s_ptrs, mask=mask) + tl.load(b_ptrs, mask=mask), mask=mask)


@triton.jit
def _place(M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Rows (BLOCK_M, 1), columns (1, BLOCK_N) and mask of this program's tile."""
    m = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    n = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    return m, n, (m < M) & (n < N)


@triton.jit
def _flat(
    s_ptr, b_ptr, o_ptr, M, N, sm, sn, bm, bn, om, on, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Another right answer: the tile as one row of BLOCK_M · BLOCK_N places."""
    place = tl.arange(0, BLOCK_M * BLOCK_N)
    m = tl.program_id(0) * BLOCK_M + place // BLOCK_N
    n = tl.program_id(1) * BLOCK_N + place % BLOCK_N
    mask = (m < M) & (n < N)
    _add(s_ptr + m * sm + n * sn, b_ptr + m * bm + n * bn, o_ptr + m * om + n * on, mask)


@triton.jit
def _as_planted(
    s_ptr, b_ptr, o_ptr, M, N, sm, sn, bm, bn, om, on, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    m, n, mask = _place(M, N, BLOCK_M, BLOCK_N)
    _add(s_ptr + m * sm + n * sn, b_ptr + m * sm + n * bn, o_ptr + m * om + n * on, mask)


@triton.jit
def _strides_of_s(
    s_ptr, b_ptr, o_ptr, M, N, sm, sn, bm, bn, om, on, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    m, n, mask = _place(M, N, BLOCK_M, BLOCK_N)
    _add(s_ptr + m * sm + n * sn, b_ptr + m * sm + n * sn, o_ptr + m * om + n * on, mask)


@triton.jit
def _swapped(
    s_ptr, b_ptr, o_ptr, M, N, sm, sn, bm, bn, om, on, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    m, n, mask = _place(M, N, BLOCK_M, BLOCK_N)
    _add(s_ptr + m * sm + n * sn, b_ptr + m * bn + n * bm, o_ptr + m * om + n * on, mask)


@triton.jit
def _contiguous(
    s_ptr, b_ptr, o_ptr, M, N, sm, sn, bm, bn, om, on, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    m, n, mask = _place(M, N, BLOCK_M, BLOCK_N)
    _add(s_ptr + m * sm + n * sn, b_ptr + m * N + n, o_ptr + m * om + n * on, mask)


@triton.jit
def _out_like_s(
    s_ptr, b_ptr, o_ptr, M, N, sm, sn, bm, bn, om, on, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    m, n, mask = _place(M, N, BLOCK_M, BLOCK_N)
    _add(s_ptr + m * sm + n * sn, b_ptr + m * bm + n * bn, o_ptr + m * sm + n * sn, mask)


@triton.jit
def _rows_masked_only(
    s_ptr, b_ptr, o_ptr, M, N, sm, sn, bm, bn, om, on, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    m, n, mask = _place(M, N, BLOCK_M, BLOCK_N)
    mask = (m < M) & (n >= 0)
    _add(s_ptr + m * sm + n * sn, b_ptr + m * bm + n * bn, o_ptr + m * om + n * on, mask)


@triton.jit
def _column_of_s(
    s_ptr, b_ptr, o_ptr, M, N, sm, sn, bm, bn, om, on, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    m, n, mask = _place(M, N, BLOCK_M, BLOCK_N)
    _add(s_ptr + m * sm + n * sn, b_ptr + m * bm + n * sn, o_ptr + m * om + n * on, mask)


@triton.jit
def _not_masked(
    s_ptr, b_ptr, o_ptr, M, N, sm, sn, bm, bn, om, on, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    m, n, _mask = _place(M, N, BLOCK_M, BLOCK_N)
    x = tl.load(s_ptr + m * sm + n * sn) + tl.load(b_ptr + m * bm + n * bn)
    tl.store(o_ptr + m * om + n * on, x)


STRIDES = Exercise(
    id="5.3",
    name="strides",
    title="A planted bug",
    section="3 · From (row, column) to an address",
    solution_name="mended_kernel",
    properties=(
        Property("same layout", "all contiguous, sizes that fit the tiles", _same_layout),
        Property("odd sizes", "all contiguous, partial tiles at the edges", _odd_sizes, MASK),
        Property("transposed bias", "the rows of bias are columns in memory", _transposed_bias),
        Property("one bias row", "expanded: its row stride is 0", _one_bias_row),
        Property("wide scores", "s with a gap after each row", _wide_scores),
        Property("another output", "out with a gap, and transposed", _other_out),
    ),
    mistakes=(
        Mistake(
            "as planted",
            "This behaves **as the kernel did before**: the bug is still there. Compare the three "
            "lines with pointers letter by letter, and ask which tensor each stride belongs to.",
            _as_planted,
        ),
        Mistake(
            "bias with the strides of s",
            "Now bias is addressed with **both strides of s**: this is right only if bias is "
            "laid out in memory exactly like s.",
            _strides_of_s,
        ),
        Mistake(
            "strides swapped",
            "The two strides of bias are **swapped**: you read its transpose.",
            _swapped,
        ),
        Mistake(
            "contiguous taken for granted",
            "Bias is addressed as if it were **contiguous**, with N adjacent entries per "
            "row: its strides may say otherwise.",
            _contiguous,
        ),
        Mistake(
            "out with the strides of s",
            "Bias is fixed, but now **out is written with the strides of s**: the values are "
            "right, but they land in the wrong places.",
            _out_like_s,
        ),
        Mistake(
            "columns not masked",
            "Only the **rows are masked**: a tile that extends past the right edge reads and "
            "writes the beginning of the next row.",
            _rows_masked_only,
            see=MASK,
        ),
        Mistake(
            "column stride of s",
            "The address of bias still uses **a stride of s**: the rows are fixed, but the columns "
            "now step by the stride of the wrong tensor.",
            _column_of_s,
        ),
        Mistake(
            "masks deleted",
            "The **masks are gone**: a partial tile reads and writes what isn't its own.",
            _not_masked,
            see=MASK,
        ),
    ),
    alternative=_flat,
    needs=("triton",),
    trials=2,
)
