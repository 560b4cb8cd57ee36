"""FlashAttention-2, backward, step 3: dq. One program owns BLOCK_M queries of one head.

It walks over the keys they see in the same two stages as the forward pass, with two differences:
lse is known, so p needs no running maximum, and dq is linear in the tiles, so nothing has to be
rescaled. `kernels.flash_attention.backward` says what is computed.

    grid (⌈Lq / BLOCK_M⌉, Hq, B)        program (i, h, b): queries i, head h, sequence b
"""

from kernels.flash_attention.forward import causal_bounds
from kernels.flash_attention.packed import sequence
from kernels.primitives import dot, round_to

# isort: split
import triton
import triton.language as tl


@triton.jit
def over_keys(
    dq,
    queries,
    keys,
    scale_log2,
    start,
    stop,
    sees,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tensor:
    """Add to dq what the keys from start to stop contribute for these queries, tile by tile.

    sees (BLOCK_M,): row i may see keys 0 … sees[i] - 1. Used only if MASKED; otherwise
    every row sees every key, and stop - start is a multiple of BLOCK_N.
    """
    q, do, lse_log2, delta = queries
    k_ptr, stride_kn, v_ptr, stride_vn = keys
    offs_d = tl.arange(0, q.shape[1])[None, :]
    offs_dv = tl.arange(0, do.shape[1])[None, :]
    zeros = tl.zeros((q.shape[0], BLOCK_N), tl.float32)
    for tile in range(start, stop, BLOCK_N):
        offs_n = tile + tl.arange(0, BLOCK_N)
        tokens = offs_n.to(tl.int64)[:, None]
        mask_k, mask_v = offs_d < D, offs_dv < DV
        if MASKED:
            mask_k = mask_k & (offs_n[:, None] < stop)
            mask_v = mask_v & (offs_n[:, None] < stop)

        k = tl.load(k_ptr + tokens * stride_kn + offs_d, mask=mask_k, other=0.0)
        scores_log2 = dot(q, tl.trans(k), zeros) * scale_log2  # (BLOCK_M, BLOCK_N)
        if MASKED:
            scores_log2 = tl.where(offs_n[None, :] < sees[:, None], scores_log2, float("-inf"))
        p = tl.exp2(scores_log2 - lse_log2[:, None])

        v = tl.load(v_ptr + tokens * stride_vn + offs_dv, mask=mask_v, other=0.0)
        ds = p * dot(do, tl.trans(v), zeros - delta[:, None])  # the sum begins with -delta
        dq = dot(round_to(ds, k.dtype), k, dq)  # (BLOCK_M, BLOCK_D)
    return dq


@triton.jit
def dq_kernel(
    q_ptr,  # (B, Lq, Hq, D)
    k_ptr,  # (B, Lk, Hkv, D)
    v_ptr,  # (B, Lk, Hkv, DV)
    do_ptr,  # (B, Lq, Hq, DV)
    lse_log2_ptr,  # (B, Hq, Lq), contiguous, as are the next two
    delta_ptr,  # (B, Hq, Lq)
    dq_ptr,  # (B, Lq, Hq, D)
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
    stride_dob,
    stride_dom,
    stride_doh,
    Lq,
    Lk,
    G,
    scale,
    scale_log2,
    CAUSAL: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
) -> None:
    """Write dq of BLOCK_M queries of one head of one sequence."""
    # In reverse order: causal programs with the most keys start first, so they do not end last.
    start_m = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M
    head, batch, Tq = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64), Lq
    row, first_k, Lk = sequence(cu_seqlens_k_ptr, batch, Lk)
    row, first_q, Lq = sequence(cu_seqlens_q_ptr, batch, Lq)
    if start_m >= Lq:  # a sequence shorter than the longest
        return
    k_ptr += row * stride_kb + first_k * stride_kn + head // G * stride_kh
    v_ptr += row * stride_vb + first_k * stride_vn + head // G * stride_vh
    keys = (k_ptr, stride_kn, v_ptr, stride_vn)

    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_d, offs_dv = tl.arange(0, BLOCK_D)[None, :], tl.arange(0, BLOCK_DV)[None, :]
    mask_m = offs_m < Lq
    mask_q = mask_m[:, None] & (offs_d < D)
    tokens = offs_m.to(tl.int64)[:, None]
    q_ptr += row * stride_qb + first_q * stride_qm + head * stride_qh
    do_ptr += row * stride_dob + first_q * stride_dom + head * stride_doh
    q = tl.load(q_ptr + tokens * stride_qm + offs_d, mask=mask_q, other=0.0)  # (BLOCK_M, BLOCK_D)
    mask_do = mask_m[:, None] & (offs_dv < DV)
    do = tl.load(do_ptr + tokens * stride_dom + offs_dv, mask=mask_do, other=0.0)
    first_row = (row * tl.num_programs(1) + head) * Tq + first_q  # of B·Hq·Lq
    # Past the last query lse is +inf: p is 0 there, as in a row without keys.
    lse_log2 = tl.load(lse_log2_ptr + first_row + offs_m, mask=mask_m, other=float("inf"))
    delta = tl.load(delta_ptr + first_row + offs_m, mask=mask_m, other=0.0)
    queries = (q, do, lse_log2, delta)

    full, stop, sees = causal_bounds(offs_m, start_m, Lq, Lk, CAUSAL, BLOCK_M)
    full = full // BLOCK_N * BLOCK_N

    dq = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    dq = over_keys(dq, queries, keys, scale_log2, 0, full, sees, D, DV, BLOCK_N, MASKED=False)
    dq = over_keys(dq, queries, keys, scale_log2, full, stop, sees, D, DV, BLOCK_N, MASKED=True)
    first_row = (row * Tq + first_q) * tl.num_programs(1) + head  # of B·Lq·Hq
    dq_ptrs = dq_ptr + first_row * D + tokens * tl.num_programs(1) * D + offs_d
    tl.store(dq_ptrs, round_to(dq * scale, dq_ptr.dtype.element_ty), mask=mask_q)
