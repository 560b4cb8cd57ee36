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

from kernels.call import Cells
from kernels.flash_decoding.eight_bits import unpack
from kernels.flash_decoding.features import Cache, Rules
from kernels.flash_decoding.rows import Bounds, TileRules, Where, bend, hide
from kernels.primitives import dot, round_to, softmax_weights, to_fp32, widen

# isort: split
import triton
import triton.language as tl


class Block(NamedTuple):
    """Where the keys of a block lie: key i in `row`, at slot `first + step[i]` of it."""

    row: tl.tensor  # of the cache, or the page; one for all keys, or (BLOCK_N,)
    first: tl.tensor
    step: tl.tensor  # (BLOCK_N,)


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
    hole,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PAGE: tl.constexpr,
    ONCE: tl.constexpr,
    BENDS: tl.constexpr,
    PAIRS: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    MASKED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Carry state = (m, l, acc, acc_odd) over the keys from start to stop, a block at a time.

    m: the largest score so far; `task.scale_log2` times it is in base 2, unless BENDS (a rule
    changes scores), where it is already. l (BLOCK_M, BLOCK_N): summed over its columns only after
    the last block. PAIRS: K and V are read two columns at a time (`eight_bits`), and acc has the
    even columns of the output, acc_odd the odd ones; otherwise acc has all of them.

    Row i may see the places bounds.since[i] … bounds.sees[i] - 1. ONCE: no other program reads
    these keys, so they may leave the L2 (see `load_tile`). MASKED: 0 if every row sees every key
    and stop - start is a multiple of BLOCK_N; 1 if sees and stop must be checked; 2 if since and
    first_key must be too, and the blocks from hole[0] to hole[1] are left out.
    """
    q, cache, where, bounds = task.q, task.cache, task.where, task.bounds
    rules, tile = task.rules, task.tile
    element: tl.constexpr = cache.k_cells.ptr.dtype.element_ty
    m, l, acc, acc_odd = state
    columns: tl.constexpr = acc.shape[1] * (2 if PAIRS else 1)
    v_cells = cache.v_cells
    if cache.v_ptr is not None:  # V lies as K does: one set of offsets
        v_cells = Cells(cache.v_ptr, *cache.k_cells[1:])
    last = stop
    if MASKED == 2:
        last -= hole[1] - hole[0]
    for start_n in tl.range(start, last, BLOCK_N, num_stages=NUM_STAGES):
        if MASKED == 2:
            start_n += tl.where(start_n < hole[0], 0, hole[1] - hole[0])
        offs_n = start_n + tl.arange(0, BLOCK_N)
        exists = None  # (BLOCK_N,): which of these keys exist
        if MASKED:
            exists = offs_n < stop
            if MASKED == 2:
                exists = exists & (offs_n >= bounds.first_key)
        block = locate(where, start_n, exists, BLOCK_N, PAGE)

        k = load_tile(cache.k_cells, where, block, exists, 0, D, q.shape[1], ONCE, PAIRS)
        scores = multiply(q, k, element, PAIRS)  # (BLOCK_M, BLOCK_N)
        if q.shape[1] < D:
            rest: tl.constexpr = task.q_rest.shape[1]
            k_rest = load_tile(
                cache.k_cells, where, block, exists, q.shape[1], D, rest, ONCE, PAIRS
            )
            scores += multiply(task.q_rest, k_rest, element, PAIRS)
        if cache.scales_of_k is not None:
            scores *= load_scales(cache.scales_of_k, where, block, exists)[None, :]
        scale_log2 = task.scale_log2
        if BENDS:  # in base 2 from here on
            scores, scale_log2 = bend(scores * scale_log2[:, None], rules, tile, offs_n), None
        if MASKED:
            scores = hide(scores, rules, tile, offs_n, bounds, MASKED)
        m, alpha, p = softmax_weights(m, scores, scale_log2)
        l = l * alpha[:, None] + p
        acc *= alpha[:, None]
        if PAIRS:
            acc_odd *= alpha[:, None]

        # V past the end is loaded as 0, not left to chance: p is 0 there, but 0 · NaN is NaN.
        v = k
        if v_cells is not None:
            v = load_tile(v_cells, where, block, exists, 0, DV, columns, ONCE, PAIRS)
        if cache.scales_of_v is None:
            acc, acc_odd = weigh(p, v, q.dtype, element, acc, acc_odd, PAIRS)
        else:
            # Relative to the largest, so that p stays near 1: in fp16 it could underflow to 0.
            v_scales = load_scales(cache.scales_of_v, where, block, exists)
            largest = tl.max(tl.abs(v_scales), 0)
            p *= (v_scales / tl.where(largest == 0.0, 1.0, largest))[None, :]
            zeros = tl.zeros_like(acc)
            even, odd = weigh(p, v, q.dtype, element, zeros, zeros, PAIRS)
            acc += largest * even
            if PAIRS:
                acc_odd += largest * odd
    return m, l, acc, acc_odd


@triton.jit
def locate(
    where,
    start_n,
    exists,
    BLOCK_N: tl.constexpr,
    PAGE: tl.constexpr,
) -> Block:
    """Return where in the cache to find the places start_n … start_n + BLOCK_N - 1.

    A page that holds whole blocks is looked up once per block; other sizes, place by place.
    """
    steps = tl.arange(0, BLOCK_N)
    if PAGE is None:
        block = Block(where.row, start_n, steps)
    elif PAGE % BLOCK_N == 0:  # blocks start at multiples of BLOCK_N: none crosses two pages
        page = tl.load(where.table_ptr + start_n // PAGE)
        block = Block(page, start_n % PAGE, steps)
    else:  # entries of places that do not exist are never followed
        ptrs = where.table_ptr + (start_n + steps) // PAGE
        page = tl.load(ptrs, mask=exists, other=None if exists is None else 0)
        first = 0 if BLOCK_N % PAGE == 0 else start_n
        block = Block(page, 0, (first + steps) % PAGE)
    return block


@triton.jit
def starts(cells, where, block, COLUMNS: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Return where the keys of a block begin, in elements: a scalar, plus one number for each.

    Where one row holds the whole block, the scalar moves on from block to block, and the numbers
    stay the same, so that the loop does not compute them again. That takes registers, which tiles
    of over 256 columns do not have. All in int64: a cache may pass 2^31 elements.
    """
    base = where.kv_head.to(tl.int64) * cells.stride_h
    row = block.row.to(tl.int64) * cells.stride_b
    if block.row.type.is_block():  # a page for each key
        offs = row + block.step.to(tl.int64) * cells.stride_n
    elif COLUMNS > 256:
        offs = (block.first + block.step).to(tl.int64) * cells.stride_n
        base += row
    else:
        offs = block.step.to(tl.int64) * cells.stride_n
        base += row + tl.cast(block.first, tl.int64) * cells.stride_n
    return base, offs


@triton.jit
def load_tile(
    cells,
    where,
    block,
    exists,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    ONCE: tl.constexpr,
    PAIRS: tl.constexpr = False,
) -> tl.tensor:
    """Load columns FIRST … LAST - 1 of a block of keys as (BLOCK_N, BLOCK), 0 if absent.

    PAIRS: two columns at a time, as int16 (BLOCK_N, BLOCK / 2); strides and Dv are even.

    ONCE asks that they be the first to leave the L2. In a pipelined loop that reaches the GPU only
    from Triton 3.9 on and on sm_90 and later; elsewhere Triton drops it.
    """
    base, offs = starts(cells, where, block, BLOCK)
    ptr, columns, last = cells.ptr, FIRST + tl.arange(0, BLOCK)[None, :], LAST
    if PAIRS:
        ptr = ptr.to(tl.pointer_type(tl.int16), bitcast=True)
        base, offs = base >> 1, offs >> 1
        columns, last = FIRST // 2 + tl.arange(0, BLOCK // 2)[None, :], LAST // 2
    mask = columns < last  # folded away by the compiler where the block is full
    if exists is not None:
        mask = mask & exists[:, None]
    return tl.load(
        ptr + base + (offs[:, None] + columns),
        mask=mask,
        other=0 if PAIRS else 0.0,
        eviction_policy="evict_first" if ONCE else "",
    )


@triton.jit
def load_scales(cells, where, block, exists) -> tl.tensor:
    """Load the scales of a block of tokens (BLOCK_N,), fp32; 0 where there is none."""
    base, offs = starts(cells, where, block, 1)
    return tl.load(cells.ptr + base + offs, mask=exists, other=None if exists is None else 0.0)


@triton.jit
def multiply(q, k, element: tl.constexpr, PAIRS: tl.constexpr) -> tl.tensor:
    """Return q kᵀ (BLOCK_M, BLOCK_N), fp32; the keys are widened to the dtype of q, exactly."""
    scores = tl.zeros((q.shape[0], k.shape[0]), tl.float32)
    if PAIRS:
        q_even, q_odd = tl.split(tl.reshape(q, (q.shape[0], q.shape[1] // 2, 2)))
        even, odd = unpack(k, element)
        scores = dot(q_odd, tl.trans(odd), dot(q_even, tl.trans(even), scores))
    elif q.shape[0] == 1:  # where there are no tensor cores: multiply and sum
        scores = tl.sum(to_fp32(q) * to_fp32(widen(k, q.dtype)), 1)[None, :]
    else:
        scores = dot(q, tl.trans(widen(k, q.dtype)), scores)
    return scores


@triton.jit
def weigh(
    p, v, dtype: tl.constexpr, element: tl.constexpr, acc, acc_odd, PAIRS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Return acc + p v (BLOCK_M, BLOCK_DV), p rounded to the dtype of the queries.

    PAIRS: acc has the even columns alone, acc_odd the odd ones; otherwise it is left as it is.
    """
    if PAIRS:
        even, odd = unpack(v, element)
        p = round_to(p, dtype)
        acc, acc_odd = dot(p, even, acc), dot(p, odd, acc_odd)
    elif p.shape[0] == 1:
        acc += tl.sum(tl.trans(p) * to_fp32(widen(v, dtype)), 0)[None, :]
    else:
        if v.dtype != dtype:
            # Widened in halves and joined again. Otherwise Triton would copy V to shared memory in
            # the layout of the dot, 64 bits at a time; this way it loads 128, and reorders V later.
            even, odd = tl.split(tl.reshape(v, (v.shape[0], v.shape[1] // 2, 2)))
            v = tl.reshape(tl.join(widen(even, dtype), widen(odd, dtype)), v.shape)
        acc = dot(round_to(p, dtype), v, acc)
    return acc, acc_odd
