"""FlashAttention-2, forward: exact attention that never writes a score to memory.

One program owns BLOCK_M queries of one head. It keeps their running maximum, sum and unnormalised
output in registers, and walks over the keys in tiles of BLOCK_N. It divides once, at the end, and
writes o and lse. The Lq × Lk scores exist only a tile at a time.

    grid (⌈Lq / BLOCK_M⌉, Hq, B)              program (i, h, b): queries i, head h, batch row b

                    keys of head h // G  →                    causal, Lq < Lk (bottom-right)
                ┌────────┬────────┬────────┬──┐               ┌────────┬────────┬────────┬──┐
    queries  i  │ full   │ full   │ full   │▓▓│            0  │ full   │ ▓▓▓▓▓▓╲│        │  │
       ↓        ├────────┼────────┼────────┼──┤               ├────────┼────────┼────────┼──┤
           i+1  │ full   │ full   │ full   │▓▓│            1  │ full   │ full   │ ▓▓▓▓▓▓╲│  │
                └────────┴────────┴────────┴──┘               ├────────┼────────┼────────┼──┤
                                                           2  │ full   │ full   │ full   │▓╲│
                                                              └────────┴────────┴────────┴──┘
    full: every query sees every key, no mask (stage 1) · ▓: cut by the diagonal or by the end of
    the keys, masked (stage 2) · blank: no query sees a key, never visited

Source: Dao 2023, "FlashAttention-2: Faster Attention with Better Parallelism and Work
Partitioning", arXiv:2307.08691, algorithm 1 (forward) and section 3.1 (causal masking).
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from kernels.arguments import check_qkv, resolve_scale
from kernels.compile_report import CompileCase
from kernels.heuristics import Launch, choose_prefill_launch
from kernels.primitives import LOG2_E, dot, finalize, online_softmax_step, round_to
from kernels.runtime import INTERPRETED, has_tensor_cores

# isort: split
import triton
import triton.language as tl


@triton.jit
def attend(
    state,
    q,
    kv,
    scale_log2,
    start,
    stop,
    sees,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Carry state = (m_log2, l, acc) over the keys from start to stop, a tile at a time.

    sees (BLOCK_M,): row i may see keys 0 … sees[i] - 1. Looked at only where MASKED; elsewhere
    every row sees every key, and stop - start is a multiple of BLOCK_N.
    """
    m_log2, l, acc = state
    k_ptr, stride_kn, v_ptr, stride_vn = kv
    offs_d = tl.arange(0, q.shape[1])[None, :]
    for tile in range(start, stop, BLOCK_N):
        offs_n = tile + tl.arange(0, BLOCK_N)
        rows = offs_n.to(tl.int64)[:, None]  # int64: a cache may be longer than 2^31 elements
        mask = offs_d < D  # folded away by the compiler where D fills the block
        if MASKED:
            mask = mask & (offs_n[:, None] < stop)

        k = tl.load(k_ptr + rows * stride_kn + offs_d, mask=mask, other=0.0)  # (BLOCK_N, BLOCK_D)
        scores = dot(q, tl.trans(k), tl.zeros((q.shape[0], BLOCK_N), tl.float32))
        scores_log2 = scores * scale_log2  # (BLOCK_M, BLOCK_N)
        if MASKED:
            scores_log2 = tl.where(offs_n[None, :] < sees[:, None], scores_log2, float("-inf"))
        m_log2, l, acc, p = online_softmax_step(m_log2, l, acc, scores_log2)

        # V behind the end is loaded as 0, not left to chance: p is 0 there, but 0 · NaN is NaN.
        v = tl.load(v_ptr + rows * stride_vn + offs_d, mask=mask, other=0.0)  # (BLOCK_N, BLOCK_D)
        acc = dot(round_to(p, v.dtype), v, acc)  # (BLOCK_M, BLOCK_D)
    return m_log2, l, acc


@triton.jit
def flash_attention_kernel(
    q_ptr,  # (B, Lq, Hq, D)
    k_ptr,  # (B, Lk, Hkv, D)
    v_ptr,  # (B, Lk, Hkv, D)
    o_ptr,  # (B, Lq, Hq, D), contiguous
    lse_ptr,  # (B, Lq, Hq), contiguous
    stride_qb,
    stride_qm,
    stride_qh,
    stride_kb,
    stride_kn,
    stride_kh,
    stride_vb,
    stride_vn,
    stride_vh,
    Lq,
    Lk,
    G,
    scale_log2,
    CAUSAL: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Write o and lse of BLOCK_M queries of one head of one batch row."""
    # Backwards: causal programs with the most keys start first, so that none of them ends last.
    start_m = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    head_kv = head // G  # G query heads read the same K and V: an index, nothing is repeated
    k_ptr += batch * stride_kb + head_kv * stride_kh
    v_ptr += batch * stride_vb + head_kv * stride_vh
    kv = (k_ptr, stride_kn, v_ptr, stride_vn)

    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, BLOCK_D)[None, :]
    mask_q = (offs_m[:, None] < Lq) & (offs_d < D)
    rows = offs_m.to(tl.int64)[:, None]
    q_ptrs = q_ptr + batch * stride_qb + head * stride_qh + rows * stride_qm + offs_d
    q = tl.load(q_ptrs, mask=mask_q, other=0.0)  # (BLOCK_M, BLOCK_D)

    # Keys before `full` are seen by every row of the tile, keys from `stop` on by none.
    full, stop = Lk, Lk
    sees = tl.full((BLOCK_M,), 0, tl.int32) + Lk
    if CAUSAL:  # bottom-right: the last query sees all keys, the one before it one less, …
        sees = tl.minimum(offs_m + 1 + (Lk - Lq), Lk)
        full = tl.maximum(start_m + 1 + (Lk - Lq), 0)
        stop = tl.maximum(tl.minimum(start_m + BLOCK_M + (Lk - Lq), Lk), 0)
    full = full // BLOCK_N * BLOCK_N

    m_log2 = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    state = (m_log2, l, acc)
    state = attend(state, q, kv, scale_log2, 0, full, sees, D, BLOCK_N, MASKED=False)
    state = attend(state, q, kv, scale_log2, full, stop, sees, D, BLOCK_N, MASKED=True)
    m_log2, l, acc = state

    o, lse = finalize(m_log2, l, acc)  # the only division; lse leaves as a natural logarithm
    row = (batch * Lq + offs_m) * tl.num_programs(1) + head  # of B·Lq·Hq
    tl.store(lse_ptr + row, lse, mask=offs_m < Lq)
    o_ptrs = o_ptr + row[:, None] * D + offs_d
    tl.store(o_ptrs, round_to(o, o_ptr.dtype.element_ty), mask=mask_q)


def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return softmax(scale · q kᵀ) v, exactly, without the Lq × Lk matrix in memory.

    q: (B, Lq, Hq, D); k, v: (B, Lk, Hkv, D), Hq a multiple of Hkv; fp32 (no TF32), fp16 or bf16; D
    from 1 to 256 and contiguous, the other strides any. causal: bottom-right aligned. scale:
    default 1/√D.

    Returns `o (B, Lq, Hq, D)`, contiguous, in the dtype of q, and with return_lse
    `lse (B, Lq, Hq)`, fp32, natural logarithm. Rows that see no key: o = 0, lse = -inf.
    Sums are fp32; p is rounded to the dtype of v before it meets v.

    Raises ValueError for shapes, strides and devices that do not fit, and for inputs that require
    grad (there is no backward yet); TypeError for dtypes. Source: Dao 2023, algorithm 1.

    >>> q, k, v = torch.zeros(1, 2, 1, 16), torch.zeros(1, 2, 1, 16), torch.ones(1, 2, 1, 16)
    >>> o, lse = flash_attention(q, k, v, causal=True, return_lse=True)  # doctest: +SKIP
    >>> lse.flatten()                                                    # doctest: +SKIP
    tensor([0.0000, 0.6931])

    The first query sees one key, the second two; all scores are 0, so lse is log 1 and log 2.
    """
    check_qkv(q, k, v)
    scale = resolve_scale(scale, q.shape[-1])
    B, Lq, Hq, D = q.shape
    if B > 65535 or Hq > 65535:
        raise ValueError(f"B and Hq should be at most 65535, the limit of a grid; got {B}, {Hq}")
    o = torch.empty(B, Lq, Hq, D, dtype=q.dtype, device=q.device)
    lse = torch.empty(B, Lq, Hq, dtype=torch.float32, device=q.device)
    if lse.numel():
        _launch(q, k, v, o, lse, causal, scale)
    return (o, lse) if return_lse else o


def _launch(
    q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, causal: bool, scale: float
) -> None:
    """Start the kernel over (⌈Lq / BLOCK_M⌉, Hq, B); o and lse are contiguous."""
    (B, Lq, Hq, D), (Lk, Hkv) = q.shape, k.shape[1:3]
    launch = choose_prefill_launch(
        num_queries=Lq,
        head_dim=D,
        tensor_cores=q.dtype != torch.float32 and has_tensor_cores(q.device),
        interpreted=INTERPRETED,
    )
    strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3])
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        flash_attention_kernel[(triton.cdiv(Lq, launch.block_m), Hq, B)](
            q,
            k,
            v,
            o,
            lse,
            *strides,
            Lq,
            Lk,
            Hq // Hkv,
            scale * LOG2_E,
            **_constexprs(launch, D, causal),
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )


def _constexprs(launch: Launch, D: int, causal: bool) -> dict[str, int]:
    """What the kernel is compiled for, besides the types of its arguments."""
    blocks = {"BLOCK_M": launch.block_m, "BLOCK_N": launch.block_n, "BLOCK_D": launch.block_d}
    return {"CAUSAL": causal, "D": D, **blocks}


def compile_cases() -> list[CompileCase]:
    """What `kernels.compile_report` compiles: each row of the launch table, and a padded D."""
    cases = [("fp16", 64), ("bf16", 64), ("fp16", 128), ("bf16", 128), ("fp16", 80), ("fp16", 256)]
    cases += [("fp32", 64), ("fp32", 128), ("fp32", 256)]
    return [_case(dtype, D, 4096) for dtype, D in cases] + [_case("fp16", 128, 1)]


def _case(dtype: str, D: int, Lq: int) -> CompileCase:
    """One causal launch; strides are multiples of 16, as those of a contiguous tensor are."""
    launch = choose_prefill_launch(num_queries=Lq, head_dim=D, tensor_cores=dtype != "fp32")
    types = {f"{x}_ptr": f"*{dtype}:16" for x in "qkvo"} | {"lse_ptr": "*fp32:16"}
    strides = [f"stride_{x}" for x in ("qb", "qm", "qh", "kb", "kn", "kh", "vb", "vn", "vh")]
    types |= dict.fromkeys(strides, "i32:16")
    types |= {"Lq": "i32", "Lk": "i32", "G": "i32", "scale_log2": "fp32"}
    name = f"flash_attention {dtype} D={D} Lq={Lq}"
    constexprs = _constexprs(launch, D, causal=True)
    warps, stages = launch.num_warps, launch.num_stages
    return CompileCase(name, flash_attention_kernel, types, constexprs, warps, stages)
