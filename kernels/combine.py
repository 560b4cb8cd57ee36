"""Stage 2 of Flash-Decoding: merge the splits of every query row into one answer.

    o = Σ_s w_s · o_s,     w_s = exp(lse_s - lse),     lse = ln Σ_s exp(lse_s)

Look at it twice: this *is* attention. A split is a key, its lse is the score, its o is the value,
and the weights w_s are a softmax over the splits. An empty split comes as (o = 0, lse = -inf) and
weighs nothing. There are few splits, so the kernel can afford the two passes of a plain safe
softmax: one over the S scores for their maximum, one over the S values for the sum.

    grid   (B·Lq·Hq,)    one program a query row, whatever the number of splits

    o_partial (S, rows, D)      ┌── row r of split 0 ──┐
                                ├── row r of split 1 ──┤  program r ──►  o (rows, D), lse (rows,)
                                └── row r of split 2 ──┘

The order of the sum is fixed, so the same inputs give the same bits.

Source: Dao, Haziza, Massa & Sizov 2023, "Flash-Decoding for long-context inference", step 3.
"""

import torch
from torch import Tensor

from kernels.compile_report import CompileCase
from kernels.heuristics import next_power_of_2
from kernels.primitives import round_to

# isort: split
import triton
import triton.language as tl

BLOCK_S = 16


@triton.jit
def combine_kernel(
    o_partial_ptr,
    lse_partial_ptr,
    o_ptr,
    lse_ptr,
    rows,
    num_splits,
    D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Merge the num_splits partial results of one query row."""
    row = tl.program_id(0).to(tl.int64)
    offs_d = tl.arange(0, BLOCK_D)
    mask_d = offs_d < D

    # 1. The ruler: the largest lse of all splits. It stays -inf if no split saw a key.
    m = float("-inf")
    for start_s in range(0, num_splits, BLOCK_S):
        offs_s = start_s + tl.arange(0, BLOCK_S)
        offs_row = offs_s.to(tl.int64) * rows + row  # where this row lies in each split
        lse_s = tl.load(lse_partial_ptr + offs_row, mask=offs_s < num_splits, other=float("-inf"))
        m = tl.maximum(m, tl.max(lse_s, 0))
    ruler = tl.where(m == float("-inf"), 0.0, m)  # -inf - (-inf) is NaN

    # 2. The weighted sum. In natural logs: base 2 would round each lse before the subtraction.
    l = 0.0
    acc = tl.zeros((BLOCK_D,), tl.float32)
    for start_s in range(0, num_splits, BLOCK_S):
        offs_s = start_s + tl.arange(0, BLOCK_S)
        mask_s = offs_s < num_splits
        offs_row = offs_s.to(tl.int64) * rows + row
        lse_s = tl.load(lse_partial_ptr + offs_row, mask=mask_s, other=float("-inf"))  # (BLOCK_S,)
        o_s = tl.load(
            o_partial_ptr + offs_row[:, None] * D + offs_d[None, :],
            mask=mask_s[:, None] & mask_d[None, :],
            other=0.0,
        )  # (BLOCK_S, BLOCK_D)
        weight = tl.exp(lse_s - ruler)  # 0 for an empty split
        l += tl.sum(weight, 0)
        acc += tl.sum(weight[:, None] * o_s, 0)

    l_safe = tl.where(l == 0.0, 1.0, l)  # l is 0 only where no split saw a key
    tl.store(o_ptr + row * D + offs_d, round_to(acc / l_safe, o_ptr.dtype.element_ty), mask=mask_d)
    tl.store(lse_ptr + row, m + tl.log(l_safe))


def combine(
    o_partial: Tensor, lse_partial: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Merge normalised partial results along their first dimension.

    Args:
        o_partial: (S, ..., D), fp32, contiguous; 0 where a split saw no key.
        lse_partial: (S, ...), fp32, contiguous, natural log; -inf where a split saw no key.
        dtype: of the merged o.

    Returns:
        o (..., D) in `dtype` and lse (...), fp32, natural log. (0, -inf) where no split saw a key.

    Raises:
        ValueError: shapes that do not fit, or tensors that are not contiguous fp32.

    Source: the Flash-Decoding post, step 3; `reference.flash_decoding.combine` is its twin.
    """
    if o_partial.ndim < 2 or o_partial.shape[:-1] != lse_partial.shape or len(o_partial) == 0:
        raise ValueError(
            "o_partial and lse_partial must be (S, ..., D) and (S, ...) with S ≥ 1; got "
            f"{tuple(o_partial.shape)} and {tuple(lse_partial.shape)}"
        )
    for name, x in (("o_partial", o_partial), ("lse_partial", lse_partial)):
        if x.dtype != torch.float32 or not x.is_contiguous():
            raise ValueError(f"{name} must be contiguous fp32; got {x.dtype}, {x.stride()}")
    num_splits, *shape, D = o_partial.shape
    o = torch.empty(*shape, D, dtype=dtype, device=o_partial.device)
    lse = torch.empty(shape, dtype=torch.float32, device=o_partial.device)
    if lse.numel() and D:
        combine_kernel[(lse.numel(),)](
            o_partial,
            lse_partial,
            o,
            lse,
            lse.numel(),
            num_splits,
            D=D,
            BLOCK_S=BLOCK_S,
            BLOCK_D=next_power_of_2(D),
            num_warps=1,
            enable_fp_fusion=True,
        )
    return o, lse


def compile_cases() -> list[CompileCase]:
    """List what `kernels.compile_report` compiles of this module."""
    pointers = {"o_partial_ptr": "*fp32:16", "lse_partial_ptr": "*fp32:16"}
    pointers |= {"o_ptr": "*bf16:16", "lse_ptr": "*fp32:16"}
    return [
        CompileCase(
            name=f"combine bf16 D={D}",
            kernel=combine_kernel,
            signature=pointers | {"rows": "i32:16", "num_splits": "i32"},
            constexprs={"D": D, "BLOCK_S": BLOCK_S, "BLOCK_D": next_power_of_2(D)},
            num_warps=1,
        )
        for D in (64, 128, 256)
    ]
