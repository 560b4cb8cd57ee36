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

Source: Dao 2023, "FlashAttention-2: Faster Attention with Better Parallelism and Work
Partitioning", arXiv:2307.08691, algorithm 1 (forward) and section 3.1 (causal masking).
"""

import torch
from torch import Tensor

from kernels.call import KernelCall
from kernels.flash_attention.packed import Packing, check_sequences, extent, pack, sequence
from kernels.heuristics import Launch, choose_prefill_launch
from kernels.primitives import LOG2_E, dot, finalize, online_softmax_step, round_to
from kernels.runtime import INTERPRETED, has_small_shared_memory, has_tensor_cores

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
    DV: tl.constexpr = None,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Carry state = (m_log2, l, acc) over the keys from start to stop, tile by tile.

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
        scores_log2 = scores * scale_log2  # (BLOCK_M, BLOCK_N)
        if MASKED:
            scores_log2 = tl.where(offs_n[None, :] < sees[:, None], scores_log2, float("-inf"))
        m_log2, l, acc, p = online_softmax_step(m_log2, l, acc, scores_log2)

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
    stride_vn,
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
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
) -> None:
    """Write o and lse of BLOCK_M queries of one head of one sequence."""
    # Backwards: causal programs with the most keys start first, so that none ends last.
    start_m = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M
    head, batch, Tq = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64), Lq
    _, first_k, Lk = sequence(cu_seqlens_k_ptr, batch, Lk)
    batch, first_q, Lq = sequence(cu_seqlens_q_ptr, batch, Lq)
    if start_m >= Lq:  # a sequence shorter than the longest
        return
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

    full, stop, sees = causal_bounds(offs_m, start_m, Lq, Lk, CAUSAL, BLOCK_M)
    full = full // BLOCK_N * BLOCK_N
    m_log2 = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_DV), tl.float32)
    state = (m_log2, l, acc)
    state = attend(state, q, kv, scale_log2, 0, full, sees, D, BLOCK_N, MASKED=False, DV=DV)
    state = attend(state, q, kv, scale_log2, full, stop, sees, D, BLOCK_N, MASKED=True, DV=DV)
    m_log2, l, acc = state

    o, lse = finalize(m_log2, l, acc)  # the only division; lse becomes a natural logarithm
    first_row = (batch * Tq + first_q) * tl.num_programs(1) + head  # of B·Lq·Hq: a scalar
    row = offs_m.to(tl.int64) * tl.num_programs(1)
    tl.store(lse_ptr + first_row + row, lse, mask=offs_m < Lq)
    o_ptrs = o_ptr + first_row * DV + row[:, None] * DV + offs_dv
    mask_o = (offs_m[:, None] < Lq) & (offs_dv < DV)
    tl.store(o_ptrs, round_to(o, o_ptr.dtype.element_ty), mask=mask_o)


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
        "Lq": q.shape[1],
        "Lk": k.shape[1],
        "G": q.shape[2] // k.shape[2],
        "scale_log2": scale * LOG2_E,
        "CAUSAL": causal,
        "D": q.shape[3],
        "DV": v.shape[3],
        "BLOCK_M": launch.block_m,
        "BLOCK_N": launch.block_n,
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
        interpreted=INTERPRETED,
    )
    if lse.numel() and sequences and Lq:
        forward_call(q, k, v, o, lse, packing, causal, scale, launch).launch(q.device)
    return o, lse
