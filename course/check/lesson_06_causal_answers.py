"""Exercise 6.2's other right answer, and what people get wrong: one kernel, other bounds."""

from __future__ import annotations

from kernels.flash_attention import attend
from kernels.primitives import finalize

# isort: split
import triton
import triton.language as tl


@triton.jit
def _run(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """What the exercise gives away: all of the kernel but sees, full and stop."""
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    places, inside = offs_m[:, None] * D + tl.arange(0, D)[None, :], offs_m[:, None] < Lq
    q = tl.load(q_ptr + places, mask=inside, other=0.0)
    m_log2 = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    state = (m_log2, tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, D), tl.float32))
    kv = (k_ptr, D, v_ptr, D)
    state = attend(state, q, kv, scale_log2, 0, full, sees, D, BLOCK_N, MASKED=False)
    state = attend(state, q, kv, scale_log2, full, stop, sees, D, BLOCK_N, MASKED=True)
    o, lse = finalize(state[0], state[1], state[2])
    tl.store(o_ptr + places, o, mask=inside)
    tl.store(lse_ptr + offs_m, lse, mask=offs_m < Lq)
    tl.store(bounds_ptr + 2 * tl.program_id(0), full)
    tl.store(bounds_ptr + 2 * tl.program_id(0) + 1, stop)


@triton.jit
def _bounds(Lq, Lk, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WRONG: tl.constexpr):
    """sees, full, stop; WRONG names what is done wrong, "" nothing."""
    start_m = tl.program_id(0) * BLOCK_M
    shift = 0 if WRONG == "top-left" else Lk - Lq
    first = start_m + (0 if WRONG == "off by one" else 1) + shift
    sees = tl.minimum(first + tl.arange(0, BLOCK_M), Lk)
    last = tl.maximum(tl.minimum(first + BLOCK_M - 1, Lk), 0)
    whole = tl.maximum(tl.minimum(first, Lk), 0) // BLOCK_N * BLOCK_N
    if WRONG == "full by the last":
        whole = last // BLOCK_N * BLOCK_N
    if WRONG == "nothing full":
        whole = whole * 0
    if WRONG == "nothing skipped":
        last = last * 0 + Lk
    if WRONG == "stop by the first":
        last = tl.maximum(tl.minimum(first, Lk), 0)
    return sees, whole, last


@triton.jit
def by_first_and_last(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Another right answer: from what the first and the last row of the tile see."""
    sees, full, stop = _bounds(Lq, Lk, BLOCK_M, BLOCK_N, "")
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def top_left(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Aligned top-left."""
    sees, full, stop = _bounds(Lq, Lk, BLOCK_M, BLOCK_N, "top-left")
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def off_by_one(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One key too few."""
    sees, full, stop = _bounds(Lq, Lk, BLOCK_M, BLOCK_N, "off by one")
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def full_by_the_last(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """full by the last row."""
    sees, full, stop = _bounds(Lq, Lk, BLOCK_M, BLOCK_N, "full by the last")
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def nothing_full(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """full is 0."""
    sees, full, stop = _bounds(Lq, Lk, BLOCK_M, BLOCK_N, "nothing full")
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def nothing_skipped(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """stop is Lk."""
    sees, full, stop = _bounds(Lq, Lk, BLOCK_M, BLOCK_N, "nothing skipped")
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def stop_by_the_first(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """stop by the first row."""
    sees, full, stop = _bounds(Lq, Lk, BLOCK_M, BLOCK_N, "stop by the first")
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip
