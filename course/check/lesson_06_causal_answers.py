"""Exercise 6.2's other right answer, and what people get wrong: one kernel, other bounds."""

from __future__ import annotations

from course.check.faulty import Faulty
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
    """The part that the exercise gives: all of the kernel but sees, full and stop."""
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
def _with_bounds(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WRONG: tl.constexpr,
):  # fmt: skip
    """The whole kernel. WRONG names the fault; "" is none."""
    start_m = tl.program_id(0) * BLOCK_M
    shift = Lk - Lq
    if WRONG == "top-left" or WRONG == "top-left, full uncut":
        shift = 0
    if WRONG == "lengths swapped":
        shift = Lq - Lk
    if WRONG == "off by one":
        shift -= 1
    first, last = start_m + 1 + shift, start_m + BLOCK_M + shift
    sees = tl.minimum(first + tl.arange(0, BLOCK_M), Lk)
    if WRONG == "sees off by one":
        sees = tl.minimum(first - 1 + tl.arange(0, BLOCK_M), Lk)
    stop = tl.maximum(tl.minimum(last, Lk), 0)
    if WRONG == "nothing skipped":
        stop = last * 0 + Lk
    if WRONG == "stop by the first":
        stop = tl.maximum(tl.minimum(first, Lk), 0)
    if WRONG == "stop one short":
        stop = tl.maximum(tl.minimum(last - 1, Lk), 0)
    if WRONG == "stop past the end":
        stop = tl.maximum(last, 0)
    if WRONG == "stop below 0" or WRONG == "both below 0":
        stop = tl.minimum(last, Lk)
    least = tl.maximum(first, 0)
    if WRONG == "top-left":
        least = tl.minimum(first, Lk)
    if WRONG == "full by the last":
        least = stop
    if WRONG == "full one short":
        least = tl.maximum(first - 1, 0)
    if WRONG == "full rounded up":
        least += BLOCK_N - 1
    if WRONG == "full below 0" or WRONG == "both below 0":
        least = first
    full = least // BLOCK_N * BLOCK_N
    if WRONG == "full not rounded":
        full = least
    if WRONG == "nothing full":
        full = least * 0
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip


def faulty(wrong: str) -> Faulty:
    """The kernel with one fault in it; see `_with_bounds` for the names."""
    return Faulty(_with_bounds, wrong)


@triton.jit
def by_first_and_last(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Another right answer: from what the first and last row see; rows past Lq not cut."""
    first = tl.program_id(0) * BLOCK_M + 1 + Lk - Lq
    sees = first + tl.arange(0, BLOCK_M)
    whole = tl.maximum(tl.minimum(first, Lk), 0) // BLOCK_N * BLOCK_N
    stop = tl.maximum(tl.minimum(first + BLOCK_M - 1, Lk), 0)
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, whole, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip
