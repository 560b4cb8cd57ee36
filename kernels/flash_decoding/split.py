"""Stage 1 of Flash-Decoding: attend to every split of the keys on its own.

    grid   (num_splits,  Hkv · m_tiles,  B)       one program: one split, one KV head, one row
             axis 0          axis 1    axis 2     of the batch

      cache of row b, KV head h:  keys 0 ............................... length ..... Lk
                                  │  split 0   │  split 1   │  split 2  │   never read │
      the G·Lq query rows that        │              │            │
      read this KV head, in one   program 0      program 1     program 2
      tile of BLOCK_M                 ▼              ▼            ▼
                                   o₀, lse₀       o₁, lse₁     o₂, lse₂   ──► combine

A tile packs all query rows that share a KV head, so K and V are read once, not G times. Its
rows are ordered by query: row r is query r // G, head r % G of the group.

      G = 4, Lq = 2:   row  0    1    2    3    4    5    6    7    8 … 15
                            q₀h₀ q₀h₁ q₀h₂ q₀h₃ q₁h₀ q₁h₁ q₁h₂ q₁h₃  padding, never stored

More than 64 rows take more tiles (m_tiles). A single row is padded too, where there are tensor
cores: 15 idle rows cost nothing there, and sums without them take seven times the instructions.

Splits are made of whole blocks of BLOCK_N keys, computed from the row's own length on the device:
⌈⌈length / BLOCK_N⌉ / num_splits⌉ blocks each, or SPLIT_BLOCKS, which makes the bits of a row
independent of the rest of the batch. They are contiguous and cover [0, length) exactly; the last
ones may be short or empty. Two features change this picture: with a window or left padding a row
begins later; a plan (`kernels.plan`) lists the splits of a ragged batch. Its grid has one axis:
Hkv · m_tiles consecutive programs, for all heads, take one item of the list.

Source: Dao, Haziza, Massa & Sizov 2023, "Flash-Decoding for long-context inference", step 2; the
loop is algorithm 1 of Dao 2023, "FlashAttention-2"; groups of query heads: Ainslie et al. 2023.
"""

from torch import Tensor

from kernels.call import Cells, KernelCall
from kernels.flash_decoding.attend import Task, attend_split
from kernels.flash_decoding.features import Features, come_in_pairs
from kernels.flash_decoding.rows import (
    load_queries,
    prepare,
    reach,
    row_cells,
    row_range,
    rules_of_tile,
    scaled,
)
from kernels.heuristics import Launch
from kernels.primitives import LOG2_E, finalize, round_to

# isort: split
import triton
import triton.language as tl


@triton.jit
def cut(first_key, length, SPLIT_BLOCKS: tl.constexpr, BLOCK_N: tl.constexpr) -> tuple:
    """Return start and stop of this program's split: whole blocks, an equal share each.

    first_key: the earliest key that counts. SPLIT_BLOCKS: blocks per split, if the size is fixed.
    """
    split, num_splits = tl.program_id(0), tl.num_programs(0)
    skipped = first_key // BLOCK_N
    chunk = tl.cdiv(tl.cdiv(length, BLOCK_N) - skipped, num_splits)
    block = skipped + split * chunk
    if SPLIT_BLOCKS is not None:  # counted from key 0, so that nothing moves a boundary
        chunk, block = SPLIT_BLOCKS, split * SPLIT_BLOCKS
    start = tl.minimum(block * BLOCK_N, length)
    stop = tl.minimum(start + chunk * BLOCK_N, length)
    return tl.maximum(start, skipped * BLOCK_N), stop


@triton.jit
def split_kernel(
    q,  # kernels.call.Cells: (B, Lq, Hq, D)
    cache,  # kernels.flash_decoding.attend.Cache: (B, Lk, Hkv, D), or (pages, PAGE, Hkv, D)
    head_scales,  # kernels.flash_decoding.rows.HeadScales, of a quantised cache
    rows,  # kernels.flash_decoding.rows.Rows: lengths, padding, pages, plan
    rules,  # kernels.flash_decoding.rows.Rules: window, softcap, ALiBi, mask
    o_ptr,  # (num_splits, B, Lq, Hq, DV), contiguous
    lse_ptr,  # (num_splits, B, Lq, Hq), contiguous
    scale_log2,
    Lq,
    Lk,
    Hq,
    G: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    CAUSAL: tl.constexpr,
    SPLIT_BLOCKS: tl.constexpr,
    PAGE: tl.constexpr,
    ONCE: tl.constexpr,
    BENDS: tl.constexpr,
    PAIRS: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_REST: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    EDGE_STAGES: tl.constexpr,
) -> None:
    """Attend with the query rows of one KV head to one split of one row of the cache."""
    m_tiles, program = tl.cdiv(Lq * G, BLOCK_M), tl.program_id(1)

    # 1. Which keys.
    if rows.items_ptr is None:
        b = tl.program_id(2).to(tl.int64)  # int64: a cache is larger than 2^31 elements
        part = tl.program_id(0) * tl.num_programs(2) + b
        length, first_key = row_range(rows, rules, b, Lq, Lk)
        start, stop = cut(first_key, length, SPLIT_BLOCKS, BLOCK_N)
    else:  # kernels.plan has cut the splits; programs start item by item, with all heads of it
        programs = Hq // G * m_tiles
        item, program = tl.program_id(0) // programs, tl.program_id(0) % programs
        item_ptr = rows.items_ptr + item * 4
        b, part = tl.load(item_ptr).to(tl.int64), tl.load(item_ptr + 3).to(tl.int64)
        if b < 0:  # more programs than items
            return
        length, first_key = row_range(rows, rules, b, Lq, Lk)
        start, stop = tl.load(item_ptr + 1), tl.load(item_ptr + 2)

    # 2. Which queries: G heads by Lq queries, packed.
    kv_head, m_tile = program // m_tiles, program % m_tiles
    offs_m = m_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    query, head = offs_m // G, kv_head * G + offs_m % G
    mask_m = query < Lq
    q_tiles = load_queries(q, b, query, head, mask_m, D, BLOCK_D, BLOCK_REST)

    # 3. How far they see. Bottom-right: the last query sees the last key.
    bounds, position = reach(
        rows, rules, query, (start, stop), first_key, length, Lq, CAUSAL, BLOCK_N
    )
    tile = rules_of_tile(rules, b, query, head, mask_m, position, length - Lq, Lq)
    if PDL:  # every program runs: the merge may be put in place, and wait there
        tl.extra.cuda.gdc_launch_dependents()

    # 4. Blocks that all rows see in full: no masks. Then those cut by an end or the diagonal.
    scale_log2 = scaled(scale_log2, head_scales.of_k, b, kv_head, first_key < length)
    q_tiles, scale_log2 = prepare(q_tiles, scale_log2, PAIRS)
    task = Task(q_tiles, cache, row_cells(rows, b, kv_head), rules, tile, scale_log2, bounds)
    acc = tl.zeros((BLOCK_M, BLOCK_DV // 2 if PAIRS else BLOCK_DV), tl.float32)
    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    state = (m, tl.zeros((BLOCK_M, BLOCK_N), tl.float32), acc, acc if PAIRS else m)
    state = attend_split(
        state, task, *bounds.whole, D, DV, BLOCK_N, PAGE, ONCE, BENDS, PAIRS, NUM_STAGES, MASKED=0
    )
    EDGES: tl.constexpr = 1 if rules.left is None and rows.leftpad_ptr is None else 2
    state = attend_split(
        state, task, start, stop, D, DV, BLOCK_N, PAGE, ONCE, BENDS, PAIRS, EDGE_STAGES, EDGES
    )

    # 5. A normalised partial and its lse; a split that saw no key writes (0, -inf).
    m, l, acc, odd = state
    if PAIRS:
        acc = tl.reshape(tl.join(acc, odd), (BLOCK_M, BLOCK_DV))
    acc = scaled(acc, head_scales.of_v, b, kv_head, first_key < length)
    o, lse = finalize(m if BENDS else m * scale_log2, tl.sum(l, 1), acc)
    row = (part * Lq + query) * Hq + head  # int64, like part
    offs_d = tl.arange(0, BLOCK_DV)[None, :]
    o_ptrs = o_ptr + row[:, None] * DV + offs_d
    tl.store(o_ptrs, round_to(o, o_ptr.dtype.element_ty), mask=mask_m[:, None] & (offs_d < DV))
    tl.store(lse_ptr + row, lse, mask=mask_m)


def split_call(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor | None,
    features: Features,
    o: Tensor,
    lse: Tensor,
    *,
    num_splits: int,
    causal: bool,
    scale: float,
    launch: Launch,
    split_blocks: int | None = None,
    items: Tensor | None = None,
    pdl: bool = False,
) -> KernelCall:
    """Describe the launch of stage 1; the arguments are those of `flash_decode`, checked by it.

    v_cache: None where the values are the first columns of the keys. o (parts, B, Lq, Hq, Dv) and
    lse (parts, B, Lq, Hq): fp32 partial results, normalised over each split, lse in natural logs;
    with a plan (parts, Lq, Hq, Dv). A single split is the answer: its o has the dtype of q. pdl:
    stage 2 is launched right after it, with `pdl` too.
    """
    (B, Lq, Hq, D), Hkv = q.shape, k_cache.shape[2]
    programs = Hkv * -(-(Lq * Hq // Hkv) // launch.block_m)  # triton.cdiv takes a microsecond
    grid = (num_splits, programs, B) if items is None else (len(items) * programs,)
    args = {
        "q": Cells(q, *q.stride()[:3]),
        **features.arguments(k_cache, v_cache, causal, items),
        "o_ptr": o,
        "lse_ptr": lse,
        "scale_log2": scale * LOG2_E,
        "Lq": Lq,
        "Lk": features.capacity(k_cache),
        "Hq": Hq,
        "G": Hq // Hkv,
        "D": D,
        "DV": o.shape[-1],
        "CAUSAL": causal and Lq > 1,  # a single query is the newest: it sees every key
        "SPLIT_BLOCKS": split_blocks,
        "PAGE": None if features.block_table is None else k_cache.shape[1],
        "ONCE": programs == Hkv,  # else other tiles of query rows read the same keys
        "BENDS": features.bends,
        "PAIRS": launch.pairs and come_in_pairs(q, k_cache, v_cache),
        "PDL": pdl,
    } | launch.constexprs()
    return KernelCall(split_kernel, grid, args, launch.num_warps)
