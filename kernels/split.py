"""Stage 1 of Flash-Decoding: attend to every split of the keys by itself.

    grid   (num_splits,  Hkv · m_tiles,  B)       one program: one split, one KV head, one row
             axis 0          axis 1    axis 2     of the batch

      cache of row b, KV head h:  keys 0 ............................... length ..... Lk
                                  │  split 0   │  split 1   │  split 2  │   never read │
      the G·Lq query rows that        │              │            │
      read this KV head, in one   program 0      program 1     program 2
      tile of BLOCK_M                 ▼              ▼            ▼
                                   o₀, lse₀       o₁, lse₁     o₂, lse₂   ──► kernels.combine

A tile packs all query rows that share a KV head, so K and V are read once and not G times. Its
rows are ordered query by query: row r is query r // G, head r % G of the group.

      G = 4, Lq = 2:   row  0    1    2    3    4    5    6    7    8 … 15
                            q₀h₀ q₀h₁ q₀h₂ q₀h₃ q₁h₀ q₁h₁ q₁h₂ q₁h₃  padding, never stored

More than 64 rows make more tiles (m_tiles). A single row is not padded: it takes sums, not a dot.

Splits are made of whole blocks of BLOCK_N keys, cut from the row's own length on the device:
⌈⌈length / BLOCK_N⌉ / num_splits⌉ blocks each. As in `reference.flash_decoding.split_bounds` they
are contiguous and cover [0, length) exactly, and the last ones may be short or empty; only the
borders are rounded up to a block, so that no split but the last has a ragged end.

Source: Dao, Haziza, Massa & Sizov 2023, "Flash-Decoding for long-context inference", step 2; the
loop is algorithm 1 of Dao 2023, "FlashAttention-2"; groups of query heads: Ainslie et al. 2023.
"""

import torch
from torch import Tensor

from kernels.compile_report import CompileCase
from kernels.heuristics import Launch, choose_decode_launch
from kernels.primitives import LOG2_E, dot, finalize, online_softmax_step, round_to, to_fp32

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
    NUM_STAGES: tl.constexpr,
    MASKED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Carry state = (m_log2, l, acc) over the keys from start to stop, a block at a time.

    sees (BLOCK_M,): row i may see keys 0 … sees[i] - 1. Looked at only where MASKED; elsewhere
    every row sees every key, and stop - start is a multiple of BLOCK_N.
    """
    m_log2, l, acc = state
    k_ptr, stride_kn, v_ptr, stride_vn = kv
    offs_d = tl.arange(0, q.shape[1])[None, :]
    for start_n in tl.range(start, stop, BLOCK_N, num_stages=NUM_STAGES):
        offs_n = start_n + tl.arange(0, BLOCK_N)
        keys = offs_n.to(tl.int64)[:, None]  # int64: a cache may pass 2^31 elements
        mask = offs_d < D  # folded away by the compiler where D fills the block
        if MASKED:
            mask = mask & (offs_n[:, None] < stop)

        # evict_first: up to 64 packed rows nobody else reads these keys; they may leave the L2.
        k_ptrs = k_ptr + keys * stride_kn + offs_d
        k = tl.load(k_ptrs, mask=mask, other=0.0, eviction_policy="evict_first")
        if q.shape[0] == 1:  # one row leaves a tensor core 15/16 idle: multiply and add up
            scores = tl.sum(to_fp32(q) * to_fp32(k), 1)[None, :]
        else:
            scores = dot(q, tl.trans(k), tl.zeros((q.shape[0], BLOCK_N), tl.float32))
        scores_log2 = scores * scale_log2  # (BLOCK_M, BLOCK_N)
        if MASKED:
            scores_log2 = tl.where(offs_n[None, :] < sees[:, None], scores_log2, float("-inf"))
        m_log2, l, acc, p = online_softmax_step(m_log2, l, acc, scores_log2)

        # V behind the end is loaded as 0, not left to chance: p is 0 there, but 0 · NaN is NaN.
        v_ptrs = v_ptr + keys * stride_vn + offs_d
        v = tl.load(v_ptrs, mask=mask, other=0.0, eviction_policy="evict_first")
        if q.shape[0] == 1:
            acc += tl.sum(tl.trans(p) * to_fp32(v), 0)[None, :]
        else:
            acc = dot(round_to(p, v.dtype), v, acc)  # (BLOCK_M, BLOCK_D)
    return m_log2, l, acc


@triton.jit
def split_kernel(
    q_ptr,  # (B, Lq, Hq, D)
    k_ptr,  # (B, Lk, Hkv, D)
    v_ptr,  # (B, Lk, Hkv, D)
    lengths_ptr,  # (B,) or None: all rows are full
    o_ptr,  # (num_splits, B, Lq, Hq, D), contiguous
    lse_ptr,  # (num_splits, B, Lq, Hq), contiguous
    stride_qb,
    stride_qm,
    stride_qh,
    stride_kb,
    stride_kn,
    stride_kh,
    stride_vb,
    stride_vn,
    stride_vh,
    scale_log2,
    Lq,
    Lk,
    Hq,
    G: tl.constexpr,
    D: tl.constexpr,
    CAUSAL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    NUM_STAGES: tl.constexpr,
) -> None:
    """Attend with the query rows of one KV head to one split of one row of the cache."""
    split, num_splits = tl.program_id(0), tl.num_programs(0)
    m_tiles = tl.cdiv(Lq * G, BLOCK_M)
    kv_head, m_tile = tl.program_id(1) // m_tiles, tl.program_id(1) % m_tiles
    b = tl.program_id(2).to(tl.int64)  # int64: a cache is larger than 2^31 elements

    # 1. Which keys: this row's length in blocks, an equal share for each split.
    length = Lk
    if lengths_ptr is not None:
        length = tl.minimum(tl.maximum(tl.load(lengths_ptr + b), 0), Lk).to(tl.int32)
    chunk = tl.cdiv(tl.cdiv(length, BLOCK_N), num_splits) * BLOCK_N
    start = tl.minimum(split * chunk, length)
    stop = tl.minimum(start + chunk, length)

    # 2. Which queries: G heads by Lq queries, packed.
    offs_m = m_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    query, head = offs_m // G, kv_head * G + offs_m % G
    mask_m = query < Lq
    offs_d = tl.arange(0, BLOCK_D)
    mask_d = (offs_d < D)[None, :]
    offs_q = query.to(tl.int64) * stride_qm + head.to(tl.int64) * stride_qh
    q_ptrs = q_ptr + b * stride_qb + offs_q[:, None] + offs_d[None, :]
    q = tl.load(q_ptrs, mask=mask_m[:, None] & mask_d, other=0.0)  # (BLOCK_M, BLOCK_D)

    # 3. How far they see. Bottom-right: the last query sees the last key.
    sees = tl.zeros((BLOCK_M,), tl.int32) + length
    n_whole = stop - start  # keys that all rows see
    if CAUSAL:
        sees = length - Lq + query + 1
        n_whole = tl.minimum(n_whole, tl.maximum(tl.min(sees) - start, 0))
    whole_end = start + n_whole // BLOCK_N * BLOCK_N

    # 4. Blocks that all rows see whole: no masks. Then the blocks that an end or the diagonal cuts.
    k_ptr += b * stride_kb + kv_head.to(tl.int64) * stride_kh
    v_ptr += b * stride_vb + kv_head.to(tl.int64) * stride_vh
    kv = (k_ptr, stride_kn, v_ptr, stride_vn)
    m_log2 = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    state = (m_log2, tl.zeros_like(m_log2), tl.zeros((BLOCK_M, BLOCK_D), tl.float32))
    state = attend(state, q, kv, scale_log2, start, whole_end, sees, D, BLOCK_N, NUM_STAGES, False)
    m_log2, l, acc = attend(state, q, kv, scale_log2, whole_end, stop, sees, D, BLOCK_N, 1, True)

    # 5. A normalised partial and its lse; a split that saw no key writes (0, -inf).
    o, lse = finalize(m_log2, l, acc)
    row = ((split * tl.num_programs(2) + b) * Lq + query) * Hq + head  # int64, as b is
    o_ptrs = o_ptr + row[:, None] * D + offs_d[None, :]
    tl.store(o_ptrs, round_to(o, o_ptr.dtype.element_ty), mask=mask_m[:, None] & mask_d)
    tl.store(lse_ptr + row, lse, mask=mask_m)


def partial_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor | None,
    *,
    num_splits: int,
    causal: bool,
    scale: float,
    launch: Launch,
) -> tuple[Tensor, Tensor]:
    """Launch stage 1; the arguments are those of `flash_decode`, checked by it.

    Returns:
        o (S, B, Lq, Hq, D) and lse (S, B, Lq, Hq), fp32, natural log, normalised over each split.
        A single split is the answer itself, so its o comes in the dtype of q.
    """
    (B, Lq, Hq, D), (Lk, Hkv) = q.shape, k_cache.shape[1:3]
    G, S = Hq // Hkv, num_splits
    o = torch.empty(S, B, Lq, Hq, D, device=q.device, dtype=torch.float32 if S > 1 else q.dtype)
    lse = torch.empty(S, B, Lq, Hq, device=q.device, dtype=torch.float32)
    strides = (*q.stride()[:3], *k_cache.stride()[:3], *v_cache.stride()[:3])
    split_kernel[(S, Hkv * triton.cdiv(Lq * G, launch.block_m), B)](
        q,
        k_cache,
        v_cache,
        lengths,
        o,
        lse,
        *strides,
        scale * LOG2_E,
        Lq,
        Lk,
        Hq,
        G=G,
        D=D,
        CAUSAL=causal and Lq > 1,  # a single query is the newest: it sees every key
        BLOCK_M=launch.block_m,
        BLOCK_N=launch.block_n,
        BLOCK_D=launch.block_d,
        NUM_STAGES=launch.num_stages,
        num_warps=launch.num_warps,
        enable_fp_fusion=True,
    )
    return o, lse


def compile_cases() -> list[CompileCase]:
    """List what `kernels.compile_report` compiles of this module."""
    shapes = [("bf16", D, G, 1) for D in (64, 128, 256) for G in (1, 8)]
    return [
        _case(*x) for x in [*shapes, ("bf16", 128, 8, 8), ("fp16", 80, 4, 1), ("fp32", 128, 8, 1)]
    ]


def _case(dtype: str, D: int, G: int, Lq: int) -> CompileCase:
    """One case, its integers as a launch would specialise them: Lq = 1 becomes a constant."""
    launch = choose_decode_launch(
        rows=G * Lq,
        head_dim=D,
        element_size=4 if dtype == "fp32" else 2,
        tensor_cores=dtype != "fp32",
    )
    signature = {name: f"*{dtype}:16" for name in ("q_ptr", "k_ptr", "v_ptr")}
    signature |= {"lengths_ptr": "*i32:16", "o_ptr": "*fp32:16", "lse_ptr": "*fp32:16"}
    signature |= {a: "i32:16" for a in split_kernel.arg_names if a.startswith("stride_")}
    signature |= {"scale_log2": "fp32", "Lq": "i32", "Lk": "i32:16", "Hq": "i32:16"}
    constexprs = {"G": G, "D": D, "CAUSAL": Lq > 1, "NUM_STAGES": launch.num_stages}
    constexprs |= {"BLOCK_M": launch.block_m, "BLOCK_N": launch.block_n, "BLOCK_D": launch.block_d}
    if Lq == 1:
        constexprs["Lq"] = 1
        del signature["Lq"]
    return CompileCase(
        name=f"split {dtype} D={D} G={G} Lq={Lq}",
        kernel=split_kernel,
        signature=signature,
        constexprs=constexprs,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )
