"""FlashAttention-2, backward, step 1: what steps 2 and 3 need to know about each row.

Two numbers: delta = rowsum(do ∘ o), and lse in base 2. They are written head by head, so the rows
of a tile are contiguous and load in one piece; in lse (B, Lq, Hq) they are Hq apart.

    grid (⌈Lq / BLOCK_M⌉, Hq, B)        program (i, h, b): queries i, head h, batch row b
"""

from torch import Tensor

from kernels.call import KernelCall
from kernels.heuristics import next_power_of_2
from kernels.primitives import LOG2_E, to_fp32

# isort: split
import triton
import triton.language as tl

_LOG2_E = tl.constexpr(LOG2_E)


@triton.jit
def rows_kernel(
    o_ptr,  # (B, Lq, Hq, DV), contiguous
    do_ptr,  # (B, Lq, Hq, DV)
    lse_ptr,  # (B, Lq, Hq), contiguous
    dlse_ptr,  # (B, Lq, Hq), contiguous, or None
    delta_ptr,  # (B, Hq, Lq), contiguous
    lse_log2_ptr,  # (B, Hq, Lq), contiguous
    stride_dob,
    stride_dom,
    stride_doh,
    Lq,
    DV: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_DV: tl.constexpr,
) -> None:
    """Write delta and lse · log2(e) of BLOCK_M rows of one head, head by head in memory."""
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    offs_d = tl.arange(0, BLOCK_DV)[None, :]
    mask_m = offs_m < Lq
    mask = mask_m[:, None] & (offs_d < DV)
    row = (batch * Lq + offs_m) * tl.num_programs(1) + head  # of B·Lq·Hq
    o = tl.load(o_ptr + row[:, None] * DV + offs_d, mask=mask, other=0.0)
    do_ptr += batch * stride_dob + head * stride_doh
    tokens = offs_m.to(tl.int64)[:, None]
    do = tl.load(do_ptr + tokens * stride_dom + offs_d, mask=mask, other=0.0)

    delta = tl.sum(to_fp32(o) * to_fp32(do), 1)  # (BLOCK_M,)
    if dlse_ptr is not None:
        delta -= tl.load(dlse_ptr + row, mask=mask_m, other=0.0)
    lse_log2 = tl.load(lse_ptr + row, mask=mask_m, other=0.0) * _LOG2_E
    empty = lse_log2 == float("-inf")  # a row without keys: +inf makes each of its p 2^-inf = 0
    out = (batch * tl.num_programs(1) + head) * Lq + offs_m  # of B·Hq·Lq
    tl.store(delta_ptr + out, tl.where(empty, 0.0, delta), mask=mask_m)
    tl.store(lse_log2_ptr + out, tl.where(empty, float("inf"), lse_log2), mask=mask_m)


def rows_call(
    o: Tensor, do: Tensor, lse: Tensor, dlse: Tensor | None, delta: Tensor, lse_log2: Tensor
) -> KernelCall:
    """Step 1. o, do (B, Lq, Hq, DV), lse, dlse (B, Lq, Hq) → delta, lse_log2 (B, Hq, Lq)."""
    B, Lq, Hq, DV = o.shape
    block_d = max(16, next_power_of_2(DV))
    block_m = 4096 // block_d
    args = {
        "o_ptr": o,
        "do_ptr": do,
        "lse_ptr": lse,
        "dlse_ptr": dlse,
        "delta_ptr": delta,
        "lse_log2_ptr": lse_log2,
        **dict(zip(("stride_dob", "stride_dom", "stride_doh"), do.stride(), strict=False)),
        "Lq": Lq,
        "DV": DV,
        "BLOCK_M": block_m,
        "BLOCK_DV": block_d,
    }
    return KernelCall(rows_kernel, (triton.cdiv(Lq, block_m), Hq, B), args, num_warps=4)
