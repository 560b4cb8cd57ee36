"""The loop of the split kernel: carry the online softmax over a range of keys, wherever they lie.

A key has a *place*: its number in the sequence. Where it lies in memory is another question, and
only this module answers it:

    contiguous    row b of the cache                      ptr + b · stride_b + place · stride_n
    paged         place 37, pages of 16: table[37 // 16]  ptr + page · stride_b + slot · stride_n
                  names the page, 37 % 16 is the slot

The size of a page is known when the kernel is compiled. Where it is a power of two, dividing by it
is a shift; any other size costs a multiplication per key instead. A page of whole blocks, power of
two or not, is looked up once per block of BLOCK_N keys; any other, once per key.

Whatever is None is compiled away: without pages, scales or rules, a cache pays nothing for them.

Sources: Dao 2023, "FlashAttention-2", algorithm 1; pages: Kwon et al. 2023, "Efficient memory
management for large language model serving with PagedAttention", section 4.
"""

from typing import NamedTuple

from kernels.flash_decoding.features import Cache, Rules
from kernels.flash_decoding.rows import Bounds, TileRules, Where, bend, hide
from kernels.primitives import dot, online_softmax_step, product, round_to, to_fp32, widen

# isort: split
import triton
import triton.language as tl


class Cell(NamedTuple):
    """Where the keys of a block lie in a cache."""

    row: tl.tensor  # of the cache, or the page; one for all keys, or (BLOCK_N,)
    slot: tl.tensor  # (BLOCK_N,), in that row or page


class Task(NamedTuple):
    """What stays the same while the loop walks over the keys."""

    q: tl.tensor  # (BLOCK_M, BLOCK_D)
    q_rest: tl.tensor  # (BLOCK_M, BLOCK_REST), the columns after BLOCK_D, if D is larger
    cache: Cache
    where: Where
    rules: Rules
    tile: TileRules
    scale_log2: tl.tensor
    bounds: Bounds


@triton.jit
def attend_split(
    state,
    task,
    start,
    stop,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PAGE: tl.constexpr,
    ONCE: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    MASKED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Carry state = (m_log2, l, acc) over the keys from start to stop, a block at a time.

    Row i may see the places bounds.since[i] … bounds.sees[i] - 1. ONCE: no other program reads
    these keys, so they may leave the L2 (see `load_tile`). MASKED: 0 if every row sees every key
    and stop - start is a multiple of BLOCK_N; 1 if sees and stop must be checked; 2 if since and
    first_key must be too.
    """
    q, cache, where, bounds = task.q, task.cache, task.where, task.bounds
    rules, tile = task.rules, task.tile
    m_log2, l, acc = state
    for start_n in tl.range(start, stop, BLOCK_N, num_stages=NUM_STAGES):
        offs_n = start_n + tl.arange(0, BLOCK_N)
        exists = None  # (BLOCK_N,): which of these keys exist
        if MASKED:
            exists = offs_n < stop
            if MASKED == 2:
                exists = exists & (offs_n >= bounds.first_key)
        cell = locate(where, start_n, offs_n, exists, BLOCK_N, PAGE)

        k = load_tile(cache.k_cells, where, cell, exists, 0, D, q.shape[1], ONCE)
        scores = multiply(q, k)  # (BLOCK_M, BLOCK_N)
        if q.shape[1] < D:
            rest: tl.constexpr = task.q_rest.shape[1]
            k_rest = load_tile(cache.k_cells, where, cell, exists, q.shape[1], D, rest, ONCE)
            scores += multiply(task.q_rest, k_rest)
        factor = tl.zeros_like(scores) + task.scale_log2
        if cache.scales_of_k is not None:
            factor *= load_scales(cache.scales_of_k, where, cell, exists)[None, :]
        scores_log2, lost = product(scores, factor)
        scores_log2 = bend(scores_log2, rules, tile, offs_n)
        if MASKED:
            scores_log2 = hide(scores_log2, rules, tile, offs_n, bounds, MASKED)
        lost = None if rules.softcap is not None else lost
        m_log2, l, acc, p = online_softmax_step(m_log2, l, acc, scores_log2, lost)

        # V past the end is loaded as 0, not left to chance: p is 0 there, but 0 · NaN is NaN.
        v = k
        if cache.v_cells is not None:
            v = load_tile(cache.v_cells, where, cell, exists, 0, DV, acc.shape[1], ONCE)
        if cache.scales_of_v is None:
            acc = weigh(p, v, q.dtype, acc)  # (BLOCK_M, BLOCK_DV)
        else:
            # Relative to the largest, so that p stays near 1: in fp16 it could underflow to 0.
            v_scales = load_scales(cache.scales_of_v, where, cell, exists)
            largest = tl.max(tl.abs(v_scales), 0)
            p *= (v_scales / tl.where(largest == 0.0, 1.0, largest))[None, :]
            acc += largest * weigh(p, v, q.dtype, tl.zeros_like(acc))
    return m_log2, l, acc


@triton.jit
def locate(
    where,
    start_n,
    offs_n,
    exists,
    BLOCK_N: tl.constexpr,
    PAGE: tl.constexpr,
) -> Cell:
    """Return where in the cache to find the places offs_n = start_n … start_n + BLOCK_N - 1.

    A page that holds whole blocks is looked up once per block; other sizes, place by place.
    """
    if PAGE is None:
        cell = Cell(where.row, offs_n.to(tl.int64))
    elif PAGE % BLOCK_N == 0:  # blocks start at multiples of BLOCK_N: none crosses two pages
        page = tl.load(where.table_ptr + start_n // PAGE)
        cell = Cell(page.to(tl.int64), (offs_n % PAGE).to(tl.int64))
    else:  # entries of places that do not exist are never followed
        ptrs = where.table_ptr + offs_n // PAGE
        page = tl.load(ptrs, mask=exists, other=None if exists is None else 0)
        cell = Cell(page.to(tl.int64), (offs_n % PAGE).to(tl.int64))
    return cell  # int64: a cache may pass 2^31 elements


@triton.jit
def load_tile(
    cells,
    where,
    cell,
    exists,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    ONCE: tl.constexpr,
) -> tl.tensor:
    """Load columns FIRST … LAST - 1 of a block of cells as (BLOCK_N, BLOCK), 0 if absent.

    ONCE asks that they be the first to leave the L2. In a pipelined loop that reaches the GPU only
    from Triton 3.9 on and on sm_90 and later; elsewhere Triton drops it.
    """
    offs_d = FIRST + tl.arange(0, BLOCK)[None, :]
    base = cells.ptr + where.kv_head.to(tl.int64) * cells.stride_h
    offs = cell.row * cells.stride_b + cell.slot * cells.stride_n  # (BLOCK_N,)
    mask = offs_d < LAST  # folded away by the compiler where the block is full
    if exists is not None:
        mask = mask & exists[:, None]
    policy: tl.constexpr = "evict_first" if ONCE else ""
    return tl.load(base + offs[:, None] + offs_d, mask=mask, other=0.0, eviction_policy=policy)


@triton.jit
def load_scales(cells, where, cell, exists) -> tl.tensor:
    """Load the scales of a block of tokens (BLOCK_N,), fp32; 0 where there is none."""
    base = cells.ptr + where.kv_head.to(tl.int64) * cells.stride_h
    offs = cell.row * cells.stride_b + cell.slot * cells.stride_n
    return tl.load(base + offs, mask=exists, other=None if exists is None else 0.0)


@triton.jit
def multiply(q, k) -> tl.tensor:
    """Return q kᵀ (BLOCK_M, BLOCK_N), fp32; the keys are widened to the dtype of q, exactly."""
    k = widen(k, q.dtype)
    if q.shape[0] == 1:  # one row leaves a tensor core 15/16 idle: multiply and sum
        scores = tl.sum(to_fp32(q) * to_fp32(k), 1)[None, :]
    else:
        scores = dot(q, tl.trans(k), tl.zeros((q.shape[0], k.shape[0]), tl.float32))
    return scores


@triton.jit
def weigh(p, v, dtype: tl.constexpr, acc) -> tl.tensor:
    """Return acc + p v (BLOCK_M, BLOCK_DV); p is rounded to the dtype of the queries."""
    if v.dtype != dtype and p.shape[0] > 1:
        # Widened in halves and joined again. Otherwise Triton would copy V to shared memory in the
        # layout of the dot, 64 bits at a time; this way it loads 128, and reorders V in registers.
        even, odd = tl.split(tl.reshape(v, (v.shape[0], v.shape[1] // 2, 2)))
        v = tl.reshape(tl.join(widen(even, dtype), widen(odd, dtype)), v.shape)
    v = widen(v, dtype)
    if p.shape[0] == 1:
        acc += tl.sum(tl.trans(p) * to_fp32(v), 0)[None, :]
    else:
        acc = dot(round_to(p, dtype), v, acc)
    return acc
