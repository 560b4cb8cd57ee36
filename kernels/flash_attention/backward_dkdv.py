"""FlashAttention-2, backward, step 2: dk and dv. One program owns BLOCK_N keys of one KV head.

It keeps their k, v, dk and dv on chip and walks over the queries that see them: those of the first
query head of its group, then of the second, and so on. The G heads that share a KV head are thereby
summed in one place and in one order. `kernels.flash_attention.backward` says what is computed.

    grid (⌈Lk / BLOCK_N⌉, Hkv, B)       program (j, h, b): keys j, KV head h, sequence b
"""

from kernels.flash_attention.packed import sequence
from kernels.primitives import dot, round_to

# isort: split
import triton
import triton.language as tl


@triton.jit
def over_queries(
    grads,
    k,
    v,
    queries,
    scale_log2,
    start,
    stop,
    since,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_M: tl.constexpr,
    MASKED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Add to grads = (dk, dv) of these keys what queries start to stop of G heads contribute.

    since (BLOCK_N,): key j is seen by the queries from since[j] on; used only if MASKED. Tiles are
    computed transposed, (BLOCK_N, BLOCK_M), because dv and dk need pᵀ and dsᵀ.
    """
    dk, dv = grads
    of_q, of_do, stats, Lq, G = queries  # one level at a time: triton 3.7 reads no tuple in a tuple
    q_ptr, stride_qm, stride_qh = of_q
    do_ptr, stride_dom, stride_doh = of_do
    lse_log2_ptr, delta_ptr, Tq = stats
    offs_d = tl.arange(0, k.shape[1])[None, :]
    offs_dv = tl.arange(0, v.shape[1])[None, :]
    zeros = tl.zeros((k.shape[0], BLOCK_M), tl.float32)
    tiles = tl.cdiv(tl.maximum(stop - start, 0), BLOCK_M)
    for i in range(tiles * G):  # one loop, not two: its pipeline never drains between heads
        head = (i // tiles).to(tl.int64)
        offs_m = start + i % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
        mask_m = offs_m < Lq
        tokens = offs_m.to(tl.int64)[:, None]
        mask = mask_m[:, None] & (offs_d < D)
        q_ptrs = q_ptr + head * stride_qh + tokens * stride_qm + offs_d
        q = tl.load(q_ptrs, mask=mask, other=0.0)  # (BLOCK_M, BLOCK_D)
        # Past the last query lse is +inf: p is 0 there, as in a row without keys.
        lse_log2 = tl.load(lse_log2_ptr + head * Tq + offs_m, mask=mask_m, other=float("inf"))
        scores_log2 = dot(k, tl.trans(q), zeros) * scale_log2  # (BLOCK_N, BLOCK_M)
        if MASKED:
            seen = since[:, None] <= offs_m[None, :]
            scores_log2 = tl.where(seen, scores_log2, float("-inf"))
        p = tl.exp2(scores_log2 - lse_log2[None, :])

        mask = mask_m[:, None] & (offs_dv < DV)
        do_ptrs = do_ptr + head * stride_doh + tokens * stride_dom + offs_dv
        do = tl.load(do_ptrs, mask=mask, other=0.0)  # (BLOCK_M, BLOCK_DV)
        dv = dot(round_to(p, do.dtype), do, dv)  # (BLOCK_N, BLOCK_DV)
        delta = tl.load(delta_ptr + head * Tq + offs_m, mask=mask_m, other=0.0)
        ds = p * dot(v, tl.trans(do), zeros - delta[None, :])  # the sum begins with -delta
        dk = dot(round_to(ds, q.dtype), q, dk)  # (BLOCK_N, BLOCK_D)
    return dk, dv


@triton.jit
def dkdv_kernel(
    q_ptr,  # (B, Lq, Hq, D)
    k_ptr,  # (B, Lk, Hkv, D)
    v_ptr,  # (B, Lk, Hkv, DV)
    do_ptr,  # (B, Lq, Hq, DV)
    lse_log2_ptr,  # (B, Hq, Lq), contiguous, as are the next three
    delta_ptr,  # (B, Hq, Lq)
    dk_ptr,  # (B, Lk, Hkv, D)
    dv_ptr,  # (B, Lk, Hkv, DV)
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
    """Write dk and dv of BLOCK_N keys of one KV head of one sequence."""
    # In forward order: the first keys are seen by the most queries; their programs start first.
    start_n, head_kv = tl.program_id(0) * BLOCK_N, tl.program_id(1).to(tl.int64)
    batch, Tq, Tk = tl.program_id(2).to(tl.int64), Lq, Lk
    row, first_q, Lq = sequence(cu_seqlens_q_ptr, batch, Tq)
    row, first_k, Lk = sequence(cu_seqlens_k_ptr, batch, Tk)
    if start_n >= Lk:  # a sequence shorter than the longest
        return

    offs_n = start_n + tl.arange(0, BLOCK_N)
    offs_d, offs_dv = tl.arange(0, BLOCK_D)[None, :], tl.arange(0, BLOCK_DV)[None, :]
    mask_k = (offs_n[:, None] < Lk) & (offs_d < D)
    mask_v = (offs_n[:, None] < Lk) & (offs_dv < DV)
    tokens = offs_n.to(tl.int64)[:, None]
    k_ptr += row * stride_kb + first_k * stride_kn + head_kv * stride_kh
    v_ptr += row * stride_vb + first_k * stride_vn + head_kv * stride_vh
    k = tl.load(k_ptr + tokens * stride_kn + offs_d, mask=mask_k, other=0.0)  # (BLOCK_N, BLOCK_D)
    v = tl.load(v_ptr + tokens * stride_vn + offs_dv, mask=mask_v, other=0.0)

    head = head_kv * G  # the first of the group
    stats = (row * G * tl.num_programs(1) + head) * Tq + first_q
    q_ptr += row * stride_qb + first_q * stride_qm + head * stride_qh
    do_ptr += row * stride_dob + first_q * stride_dom + head * stride_doh
    queries = (
        (q_ptr, stride_qm, stride_qh),
        (do_ptr, stride_dom, stride_doh),
        (lse_log2_ptr + stats, delta_ptr + stats, Tq),
        Lq,
        G,
    )

    # Queries before `first_query` see none of these keys; those from `full` on see all of them.
    first_query, full = 0, 0
    since = offs_n - (Lk - Lq)
    if CAUSAL:
        first_query = tl.maximum(start_n - (Lk - Lq), 0) // BLOCK_M * BLOCK_M
        full = tl.maximum(tl.minimum(start_n + BLOCK_N, Lk) - 1 - (Lk - Lq), 0)
        full = tl.cdiv(full, BLOCK_M) * BLOCK_M

    grads = (tl.zeros((BLOCK_N, BLOCK_D), tl.float32), tl.zeros((BLOCK_N, BLOCK_DV), tl.float32))
    if CAUSAL:
        stop = tl.minimum(full, Lq)
        grads = over_queries(
            grads, k, v, queries, scale_log2, first_query, stop, since, D, DV, BLOCK_M, MASKED=True
        )
    dk, dv = over_queries(
        grads, k, v, queries, scale_log2, full, Lq, since, D, DV, BLOCK_M, MASKED=False
    )

    first_row = (row * Tk + first_k) * tl.num_programs(1) + head_kv  # of B·Lk·Hkv
    offs_out = tokens * tl.num_programs(1)
    dk = round_to(dk * scale, dk_ptr.dtype.element_ty)
    tl.store(dk_ptr + first_row * D + offs_out * D + offs_d, dk, mask=mask_k)
    dv = round_to(dv, dv_ptr.dtype.element_ty)
    tl.store(dv_ptr + first_row * DV + offs_out * DV + offs_dv, dv, mask=mask_v)
