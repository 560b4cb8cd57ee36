"""What the split kernel knows of each row: its length, pages and queries, and what its scores obey.

    place     0 ..... leftpad ................................ length ........ Lk
              │ never  │  ◄──── left ────► pos of query 0        │  never read  │
              │ read   │ ↑
                         first_key: the earliest place that some query sees

Lengths, padding and pages are read on the device, so the host never waits for them. A length
outside 0 … Lk is clamped to that range.

What can happen to a score between q·k and the softmax, in the order in which the rules apply, for
the query at position pos and the key at place j:

    softcap c     s ← c · tanh(s / c)          scores stay within ±c
    ALiBi         s ← s - slope · |pos - j|    distant keys count less; one slope per head
    mask          s ← s + mask[i, j], or -inf  for the Lq new tokens: e.g. a tree of guesses
    window        -inf except where pos - left ≤ j ≤ pos + right

A rule that is off is None, and its code is not compiled.

Sources: softcap: Gemma Team 2024, "Gemma 2", section 2; ALiBi: Press, Smith & Lewis 2022, "Train
short, test long"; window: Beltagy, Peters & Cohan 2020, "Longformer"; tree mask: Miao et al. 2024,
"SpecInfer", section 4.
"""

from typing import NamedTuple

from kernels.flash_decoding.eight_bits import powers_of_2, scale_to_fp16
from kernels.primitives import LOG2_E, round_to, to_fp32

# isort: split
import triton
import triton.language as tl

_LOG2_E = tl.constexpr(LOG2_E)


class Where(NamedTuple):
    """Where in the cache one row of the batch, seen by one KV head, has its keys."""

    row: tl.tensor  # of the cache
    kv_head: tl.tensor
    table_ptr: tl.tensor  # the row's page table, if the cache has pages


class Bounds(NamedTuple):
    """Which places the rows of a tile may see."""

    first_key: tl.tensor  # the least of since
    since: tl.tensor  # (BLOCK_M,): row i sees no place before since[i]
    sees: tl.tensor  # (BLOCK_M,): nor any from sees[i] on
    whole: tuple  # (from, to): whole blocks, of which every row sees every key


@triton.jit
def scaled(x, scale, b, kv_head, has_keys) -> tl.tensor:
    """Return x times the scale of a head, that of row b if each has its own; x if there is none.

    A row without keys has no scale of its own either: what is there may be NaN, and 0 · NaN is NaN.
    """
    if scale.ptr is not None:
        ptr = scale.ptr + kv_head * scale.stride_h
        if scale.stride_b is None:
            x *= tl.load(ptr)
        else:
            x *= tl.load(ptr + b * scale.stride_b, mask=has_keys, other=1.0)
    return x


@triton.jit
def prepare(q_tiles, scale_log2, PAIRS: tl.constexpr) -> tuple[tuple, tl.tensor]:
    """Return the queries, and a scale above 0 for each row, (BLOCK_M,): with it, the same scores.

    The loop looks for the largest q·k before it multiplies. So the sign of the scale goes to the
    queries, and where it is 0 they become 0. PAIRS: they become fp16, see `eight_bits`.
    """
    q, q_rest = q_tiles
    sign = tl.where(scale_log2 > 0.0, 1.0, tl.where(scale_log2 < 0.0, -1.0, 0.0))
    q, q_rest = round_to(to_fp32(q) * sign, q.dtype), round_to(to_fp32(q_rest) * sign, q.dtype)
    scale_log2 = tl.where(scale_log2 == 0.0, 1.0, tl.abs(scale_log2))
    scales = tl.full((q.shape[0],), 1.0, tl.float32) * scale_log2
    if PAIRS and q.dtype != tl.float16:
        up, down = powers_of_2(q, q_rest)
        q, q_rest, scales = scale_to_fp16(q, up), scale_to_fp16(q_rest, up), scales * down
    return (q, q_rest), scales


@triton.jit
def row_range(rows, rules, b, Lq, Lk) -> tuple[tl.tensor, tl.tensor]:
    """Return the length of row b and the first place that any of its queries may see."""
    length, first_key = Lk, 0
    if rows.lengths_ptr is not None:
        length = tl.minimum(tl.maximum(tl.load(rows.lengths_ptr + b), 0), Lk).to(tl.int32)
    if rows.leftpad_ptr is not None:
        first_key = tl.minimum(tl.maximum(tl.load(rows.leftpad_ptr + b), 0), length).to(tl.int32)
    if rules.left is not None:
        first_key = tl.minimum(tl.maximum(length - Lq - rules.left, first_key), length)
    return length, first_key


@triton.jit
def row_cells(rows, b, kv_head) -> Where:
    """Return (row of the cache, KV head, page table of the row, if there is one) for row b."""
    row, table_ptr = b, b
    if rows.index_ptr is not None:
        row = tl.load(rows.index_ptr + b).to(tl.int64)
    if rows.table_ptr is not None:
        table_ptr = rows.table_ptr + b * rows.stride_table
    return Where(row, kv_head, table_ptr)


@triton.jit
def load_queries(
    q, b, query, head, mask_m, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_REST: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Load the rows (query, head) of a tile: (BLOCK_M, BLOCK_D), and (BLOCK_M, BLOCK_REST).

    The rest are the columns from BLOCK_D on, where D is too far above a power of two to be rounded
    up cheaply; the first tile again where there are none.
    """
    offs_m = query.to(tl.int64) * q.stride_n + head.to(tl.int64) * q.stride_h
    q_ptrs = q.ptr + b * q.stride_b + offs_m[:, None]
    offs_d = tl.arange(0, BLOCK_D)[None, :]
    tile = tl.load(q_ptrs + offs_d, mask=mask_m[:, None] & (offs_d < D), other=0.0)
    rest = tile
    if D > BLOCK_D:
        offs_d = BLOCK_D + tl.arange(0, BLOCK_REST)[None, :]
        rest = tl.load(q_ptrs + offs_d, mask=mask_m[:, None] & (offs_d < D), other=0.0)
    return tile, rest


@triton.jit
def reach(
    rows,
    rules,
    query,
    keys,
    first_key,
    length,
    Lq,
    CAUSAL: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> tuple:
    """Return what the rows may see of keys = (start, stop), and their queries' places.

    Bottom-right: the last query sees the last key.
    """
    start, stop = keys
    position = length - Lq + query
    sees = tl.zeros_like(position) + length
    if CAUSAL:
        sees = position + 1
    whole = (start, tl.minimum(tl.min(sees), stop))
    since, sees, whole = narrow(rows, rules, sees, whole, first_key, position, length, Lq)
    begin = tl.minimum(tl.cdiv(whole[0], BLOCK_N) * BLOCK_N, stop)
    end = begin + tl.maximum(whole[1] - begin, 0) // BLOCK_N * BLOCK_N
    return Bounds(first_key, since, sees, (begin, end)), position


@triton.jit
def narrow(rows, rules, sees, whole, first_key, position, length, Lq) -> tuple:
    """Apply window, padding and mask to what each row sees; return since, sees and whole.

    sees (BLOCK_M,): row i sees no place from sees[i] on. whole = (from, to): places that every row
    is certain to see.
    """
    since = tl.zeros_like(sees) + first_key
    seen_from, seen_to = whole
    if rows.leftpad_ptr is not None:
        seen_from = tl.maximum(seen_from, first_key)
    if rules.left is not None:
        since = tl.maximum(position - rules.left, first_key)
        seen_from = tl.maximum(seen_from, tl.maximum(length - 1 - rules.left, first_key))
    if rules.right is not None:
        sees = tl.minimum(sees, position + rules.right + 1)
        seen_to = tl.minimum(seen_to, length - Lq + rules.right + 1)
    if rules.mask_ptr is not None:
        seen_to = tl.minimum(seen_to, length - Lq)
    return since, sees, (seen_from, seen_to)


class TileRules(NamedTuple):
    """What the rules need to know about the rows of one tile; arbitrary for a rule that is off."""

    slopes: tl.tensor  # (BLOCK_M,), in base 2
    position: tl.tensor  # (BLOCK_M,), that of each row's query
    mask_ptrs: tl.tensor  # (BLOCK_M,), to each row's first mask entry
    first_new: tl.tensor  # the place that this entry applies to
    mask_rows: tl.tensor  # (BLOCK_M,), rows that have entries
    Lq: tl.tensor


@triton.jit
def rules_of_tile(rules, b, query, head, mask_m, position, first_new, Lq) -> TileRules:
    """Load what the rules say about the rows of one tile: (query, head) (BLOCK_M,) of row b."""
    slopes, mask_ptrs = position, position
    if rules.alibi_ptr is not None:
        slopes_ptrs = rules.alibi_ptr + b * rules.stride_alibi_b + head
        slopes = tl.load(slopes_ptrs, mask=mask_m, other=0.0) * _LOG2_E
    if rules.mask_ptr is not None:
        mask_ptrs = rules.mask_ptr + b * rules.stride_mask_b + query * rules.stride_mask_m
    return TileRules(slopes, position, mask_ptrs, first_new, mask_m, Lq)


@triton.jit
def bend(scores, rules, tile, offs_n) -> tl.tensor:
    """Apply softcap and ALiBi to scores (BLOCK_M, BLOCK_N) in base 2."""
    if rules.softcap is not None:
        cap_log2 = rules.softcap * _LOG2_E
        scores = cap_log2 * tanh(scores / cap_log2)
    if rules.alibi_ptr is not None:
        distance = tl.abs(tile.position[:, None] - offs_n[None, :]).to(tl.float32)
        scores -= tile.slopes[:, None] * distance
    return scores


@triton.jit
def hide(scores, rules, tile, offs_n, bounds, MASKED: tl.constexpr) -> tl.tensor:
    """Set scores that a row may not see to -inf, and add the mask of the new tokens."""
    visible = offs_n[None, :] < bounds.sees[:, None]
    if MASKED == 2:
        visible = visible & (offs_n[None, :] >= bounds.since[:, None])
    if rules.mask_ptr is not None:
        column = offs_n - tile.first_new
        inside = tile.mask_rows[:, None] & ((column >= 0) & (column < tile.Lq))[None, :]
        ptrs = tile.mask_ptrs[:, None] + column[None, :]
        if ptrs.dtype.element_ty == tl.uint8:
            visible = visible & (tl.load(ptrs, mask=inside, other=1) != 0)
        else:
            scores += to_fp32(tl.load(ptrs, mask=inside, other=0.0)) * _LOG2_E
    return tl.where(visible, scores, float("-inf"))


@triton.jit
def tanh(x) -> tl.tensor:
    """Return tanh(x) to about two roundings of fp32, from one exp2 and one division.

    (1 - e^-2|x|) / (1 + e^-2|x|) loses digits where x is small; there the series is exact enough:
    the first term left out is 0.0089 x^11, below 2^-24 of x for |x| < 0.3.
    """
    a = tl.abs(x)
    e = tl.exp2(a * (-2.0 * _LOG2_E))
    large = (1.0 - e) / (1.0 + e)
    x2 = x * x
    series = 1.0 + x2 * (-1 / 3 + x2 * (2 / 15 + x2 * (-17 / 315 + x2 * (62 / 2835))))
    return tl.where(a < 0.3, x * series, tl.where(x < 0, -large, large))
