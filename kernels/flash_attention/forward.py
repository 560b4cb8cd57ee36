"""FlashAttention-2, forward: exact attention that never writes a score to memory.

One program owns BLOCK_M queries of one head. It keeps their running maximum, sum and unnormalised
output in registers, and walks over the keys in tiles of BLOCK_N. It divides once, at the end, and
writes o and lse. Of the Lq × Lk scores only one tile exists at a time.

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

A score costs four and a half instructions besides the products: a maximum, one fma (times the
scale, minus the maximum), an exp2, a sum, and half a conversion of p to 16 bits. The maximum is
looked for before the scale is applied, so that must be positive; `positive_scale` sees to it.

Source: Dao 2023, "FlashAttention-2: Faster Attention with Better Parallelism and Work
Partitioning", arXiv:2307.08691, algorithm 1 (forward) and section 3.1 (causal masking).
"""

import torch
from torch import Tensor

from kernels.call import KernelCall
from kernels.flash_attention.packed import Packing, check_sequences, extent, pack, sequence
from kernels.heuristics import Launch, choose_prefill_launch
from kernels.primitives import LOG2_E, dot, finalize, round_to, to_fp32
from kernels.runtime import INTERPRETED, has_small_shared_memory, has_tensor_cores, is_hopper

# isort: split
import triton
import triton.language as tl

L_COLUMNS = tl.constexpr(8)
"""Columns in which l is summed: those that the threads of a row share in a tensor core's tile."""


@triton.jit
def positive_scale(q, scale_log2) -> tuple[tl.tensor, tl.tensor]:
    """Return queries and a scale above 0 that give the same scores.

    The sign goes to the queries, exactly; where the scale is 0, they become 0.
    """
    sign = tl.where(scale_log2 > 0.0, 1.0, tl.where(scale_log2 < 0.0, -1.0, 0.0))
    q = round_to(to_fp32(q) * sign, q.dtype)
    return q, tl.where(scale_log2 == 0.0, 1.0, tl.abs(scale_log2))


@triton.jit
def scaled_softmax_step(
    m_log2, l, acc, scores, scale_log2, MASKED: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Take in one tile of scores (BLOCK_M, BLOCK_N), still to be multiplied by scale_log2 > 0.

    `kernels.primitives.online_softmax_step` in fewer instructions. l (BLOCK_M, L_COLUMNS) is
    summed over its columns after the last tile: until then no thread asks another one. Unless
    MASKED, every row has a score, so m is not -inf and needs no stand-in.

    m is rounded, by up to half its last digit, and the fma measures each score against this very
    m. So all p of a row are off by one common factor, which divides out of o, and which lse, m +
    log2 l, contains with opposite signs. Rounding the product as well, as two instructions do,
    would be off by another amount for every score. Below 2^27 the factor is at most 2^4, so that
    p fits into fp16, too.
    """
    m_new = tl.maximum(m_log2, tl.max(scores, 1) * scale_log2)
    ruler = m_new
    if MASKED:  # -inf - (-inf) is NaN: only the subtraction uses a stand-in
        ruler = tl.where(m_new == float("-inf"), 0.0, m_new)
    alpha = tl.exp2(m_log2 - ruler)
    p = tl.exp2(tl.fma(scores, scale_log2, -ruler[:, None]))
    columns = tl.reshape(p, (p.shape[0], p.shape[1] // L_COLUMNS, L_COLUMNS))
    return m_new, l * alpha[:, None] + tl.sum(columns, 1), acc * alpha[:, None], p


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
    DV: tl.constexpr = None,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Carry state = (m_log2, l, acc) over the keys from start to stop, tile by tile.

    scale_log2 is above 0, l as in `scaled_softmax_step`.

    sees (BLOCK_M,): row i may see keys 0 … sees[i] - 1. Used only if MASKED; otherwise
    every row sees every key, and stop - start is a multiple of BLOCK_N. DV: as many columns as D if
    None.
    """
    m_log2, l, acc = state
    k_ptr, stride_kn, v_ptr, stride_vn = kv
    offs_d = tl.arange(0, q.shape[1])[None, :]
    offs_dv = tl.arange(0, acc.shape[1])[None, :]
    for tile in range(start, stop, BLOCK_N):
        offs_n = tile + tl.arange(0, BLOCK_N)
        tokens = offs_n.to(tl.int64)[:, None]  # int64: a cache may exceed 2^31 elements
        # The compiler removes a mask whose columns fill their block.
        mask_k, mask_v = offs_d < D, offs_dv < (D if DV is None else DV)
        if MASKED:
            mask_k = mask_k & (offs_n[:, None] < stop)
            mask_v = mask_v & (offs_n[:, None] < stop)

        k = tl.load(k_ptr + tokens * stride_kn + offs_d, mask=mask_k, other=0.0)
        scores = dot(q, tl.trans(k), tl.zeros((q.shape[0], BLOCK_N), tl.float32))
        if MASKED:  # (BLOCK_M, BLOCK_N)
            scores = tl.where(offs_n[None, :] < sees[:, None], scores, float("-inf"))
        m_log2, l, acc, p = scaled_softmax_step(m_log2, l, acc, scores, scale_log2, MASKED)

        # Past the end V is loaded as 0, not left undefined: p is 0 there, but 0 · NaN is NaN.
        v = tl.load(v_ptr + tokens * stride_vn + offs_dv, mask=mask_v, other=0.0)
        acc = dot(round_to(p, v.dtype), v, acc)  # (BLOCK_M, BLOCK_DV)
    return m_log2, l, acc


@triton.jit
def causal_bounds(offs_m, start_m, Lq, Lk, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr) -> tuple:
    """Return (full, stop, sees) for the queries offs_m = start_m … start_m + BLOCK_M - 1.

    Keys before `full` are seen by every row, keys from `stop` on by none. sees (BLOCK_M,): row i
    sees keys 0 … sees[i] - 1.
    """
    full, stop = Lk, Lk
    sees = tl.full((BLOCK_M,), 0, tl.int32) + Lk
    if CAUSAL:  # bottom-right: the last query sees all keys, the one before it one fewer, …
        sees = tl.minimum(offs_m + 1 + (Lk - Lq), Lk)
        full = tl.maximum(start_m + 1 + (Lk - Lq), 0)
        stop = tl.maximum(tl.minimum(start_m + BLOCK_M + (Lk - Lq), Lk), 0)
    return full, stop, sees


@triton.jit
def flash_attention_kernel(
    q_ptr,  # (B, Lq, Hq, D)
    k_ptr,  # (B, Lk, Hkv, D)
    v_ptr,  # (B, Lk, Hkv, DV)
    o_ptr,  # (B, Lq, Hq, DV), contiguous
    lse_ptr,  # (B, Lq, Hq), contiguous
    cu_seqlens_q_ptr,  # (sequences + 1,) or None: see kernels.flash_attention.packed
    cu_seqlens_k_ptr,
    stride_qb,
    stride_qm,
    stride_qh,
    stride_kb,
    stride_kn,
    stride_kh,
    stride_vb,
    stride_vn,  # None: as K's
    stride_vh,
    Lq,
    Lk,
    G,
    scale_log2,
    CAUSAL: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    EDGE_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
) -> None:
    """Write o and lse of BLOCK_M queries of one head of one sequence.

    EDGE_N: keys per tile where there are masks, which take registers: BLOCK_N or a part of it.
    """
    # Backwards: causal programs with the most keys start first, so that none ends last.
    start_m = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M
    head, batch, Tq = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64), Lq
    _, first_k, Lk = sequence(cu_seqlens_k_ptr, batch, Lk)
    batch, first_q, Lq = sequence(cu_seqlens_q_ptr, batch, Lq)
    if start_m >= Lq:  # a sequence shorter than the longest
        return
    if stride_vn is None:  # then the offsets of V in a tile are K's, and are computed once
        stride_vn = stride_kn
    head_kv = head // G  # G query heads read the same K and V: only an index, nothing is copied
    k_ptr += batch * stride_kb + first_k * stride_kn + head_kv * stride_kh
    v_ptr += batch * stride_vb + first_k * stride_vn + head_kv * stride_vh
    kv = (k_ptr, stride_kn, v_ptr, stride_vn)

    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_d, offs_dv = tl.arange(0, BLOCK_D)[None, :], tl.arange(0, BLOCK_DV)[None, :]
    mask_q = (offs_m[:, None] < Lq) & (offs_d < D)
    tokens = offs_m.to(tl.int64)[:, None]
    q_ptr += batch * stride_qb + first_q * stride_qm + head * stride_qh
    q_ptrs = q_ptr + tokens * stride_qm + offs_d
    q = tl.load(q_ptrs, mask=mask_q, other=0.0)  # (BLOCK_M, BLOCK_D)
    q, scale_log2 = positive_scale(q, scale_log2)

    full, stop, sees = causal_bounds(offs_m, start_m, Lq, Lk, CAUSAL, BLOCK_M)
    full = full // BLOCK_N * BLOCK_N
    m_log2 = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l = tl.zeros((BLOCK_M, L_COLUMNS), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_DV), tl.float32)
    state = (m_log2, l, acc)
    state = attend(state, q, kv, scale_log2, 0, full, sees, D, BLOCK_N, MASKED=False, DV=DV)
    state = attend(state, q, kv, scale_log2, full, stop, sees, D, EDGE_N, MASKED=True, DV=DV)
    m_log2, l, acc = state

    # The only division; lse becomes a natural logarithm.
    o, lse = finalize(m_log2, tl.sum(l, 1), acc)
    first_row = (batch * Tq + first_q) * tl.num_programs(1) + head  # of B·Lq·Hq: a scalar
    row = offs_m.to(tl.int64) * tl.num_programs(1)
    tl.store(lse_ptr + first_row + row, lse, mask=offs_m < Lq)
    o_ptrs = o_ptr + first_row * DV + row[:, None] * DV + offs_dv
    mask_o = (offs_m[:, None] < Lq) & (offs_dv < DV)
    tl.store(o_ptrs, round_to(o, o_ptr.dtype.element_ty), mask=mask_o)


def alike(k: Tensor, v: Tensor) -> bool:
    """Say whether the keys of a tile lie as its values do: one set of offsets, fewer registers."""
    return k.stride(1) == v.stride(1) and k.shape[3] == v.shape[3]


def forward_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    packing: Packing | None,
    causal: bool,
    scale: float,
    launch: Launch,
) -> KernelCall:
    """Return the launch over (⌈Lq / BLOCK_M⌉, Hq, sequences); o and lse are contiguous."""
    sequences, Lq, _ = extent(q, k, packing)
    args = {
        "q_ptr": q,
        "k_ptr": k,
        "v_ptr": v,
        "o_ptr": o,
        "lse_ptr": lse,
        "cu_seqlens_q_ptr": packing.cu_seqlens_q if packing else None,
        "cu_seqlens_k_ptr": packing.cu_seqlens_k if packing else None,
        **dict(zip(("stride_qb", "stride_qm", "stride_qh"), q.stride(), strict=False)),
        **dict(zip(("stride_kb", "stride_kn", "stride_kh"), k.stride(), strict=False)),
        **dict(zip(("stride_vb", "stride_vn", "stride_vh"), v.stride(), strict=False)),
        "stride_vn": None if alike(k, v) else v.stride(1),
        "Lq": q.shape[1],
        "Lk": k.shape[1],
        "G": q.shape[2] // k.shape[2],
        "scale_log2": scale * LOG2_E,
        "CAUSAL": causal,
        "D": q.shape[3],
        "DV": v.shape[3],
        "BLOCK_M": launch.block_m,
        "BLOCK_N": launch.block_n,
        "EDGE_N": min(launch.block_n, 64),
        "BLOCK_D": launch.block_d,
        "BLOCK_DV": launch.block_dv or launch.block_d,
    }
    grid = (triton.cdiv(Lq, launch.block_m), q.shape[2], sequences)
    return KernelCall(flash_attention_kernel, grid, args, launch.num_warps, launch.num_stages)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Allocate o and lse and launch the kernel. Packed (cu_seqlens given): B is 1, see Packing."""
    packing = pack(q, k, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    if packing is not None:
        check_sequences("cu_seqlens_q", cu_seqlens_q, q.shape[1], packing.max_seqlen_q)
        check_sequences("cu_seqlens_k", cu_seqlens_k, k.shape[1], packing.max_seqlen_k)
    sequences, Lq, _ = extent(q, k, packing)
    if sequences > 65535 or q.shape[2] > 65535:
        raise ValueError(
            "B, the number of sequences, and Hq must be at most 65535, the limit of a grid; got "
            f"{sequences} and {q.shape[2]}"
        )
    o = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    launch = choose_prefill_launch(
        num_queries=Lq,
        head_dim=q.shape[3],
        value_dim=v.shape[3],
        tensor_cores=q.dtype != torch.float32 and has_tensor_cores(q.device),
        small=has_small_shared_memory(q.device),
        # Two sets of offsets, or where sequences begin, would leave those tiles too few registers.
        hopper=is_hopper(q.device) and packing is None and alike(k, v),
        interpreted=INTERPRETED,
    )
    if lse.numel() and sequences and Lq:
        forward_call(q, k, v, o, lse, packing, causal, scale, launch).launch(q.device)
    return o, lse
