"""What a kernel gets about the rows of a batch: their lengths, their pages, their queries.

    place     0 ..... leftpad ................................ length ........ Lk
              │ never  │  ◄──── left ────► pos of query 0        │  never read  │
              │ read   │ ↑
                         first: the earliest place that some query sees

Lengths, padding and pages are read on the device, so the host never waits for them. A length
outside 0 … Lk is clamped to that range.
"""

from typing import NamedTuple

# isort: split
import triton
import triton.language as tl


class Queries(NamedTuple):
    """q (B, Lq, Hq, D) in memory, contiguous in its columns."""

    ptr: tl.tensor
    stride_b: tl.tensor
    stride_m: tl.tensor
    stride_h: tl.tensor


class Rows(NamedTuple):
    """What is known about each row of the batch; any member may be None."""

    lengths_ptr: tl.tensor  # (B,): keys in the row
    leftpad_ptr: tl.tensor  # (B,): how many of its first keys do not count
    index_ptr: tl.tensor  # (B,): the row of the cache to read
    table_ptr: tl.tensor  # (B, max_pages): its pages
    stride_table: tl.tensor
    items_ptr: tl.tensor  # (items, 4), a plan: row, start, stop, number of the partial result


class HeadScale(NamedTuple):
    """A scale for all tokens of a head, or, with a stride of 0, of all heads."""

    ptr: tl.tensor  # None: no such scale
    stride_h: tl.tensor


class HeadScales(NamedTuple):
    """The scales of a quantised cache that do not change from token to token."""

    of_k: HeadScale
    of_v: HeadScale


@triton.jit
def scaled(x, scale, kv_head) -> tl.tensor:
    """Return x times the scale of a head, or x if there is none."""
    if scale.ptr is not None:
        x *= tl.load(scale.ptr + kv_head * scale.stride_h)
    return x


@triton.jit
def row_range(rows, rules, b, Lq, Lk) -> tuple[tl.tensor, tl.tensor]:
    """Return the length of row b and the first place that any of its queries may see."""
    length, first = Lk, 0
    if rows.lengths_ptr is not None:
        length = tl.minimum(tl.maximum(tl.load(rows.lengths_ptr + b), 0), Lk).to(tl.int32)
    if rows.leftpad_ptr is not None:
        first = tl.minimum(tl.maximum(tl.load(rows.leftpad_ptr + b), 0), length).to(tl.int32)
    if rules.left is not None:
        first = tl.minimum(tl.maximum(length - Lq - rules.left, first), length)
    return length, first


@triton.jit
def row_cells(rows, b, kv_head) -> tuple:
    """Return (row of the cache, KV head, page table of the row, if there is one) for row b."""
    row, table_ptr = b, b
    if rows.index_ptr is not None:
        row = tl.load(rows.index_ptr + b).to(tl.int64)
    if rows.table_ptr is not None:
        table_ptr = rows.table_ptr + b * rows.stride_table
    return row, kv_head, table_ptr


@triton.jit
def load_queries(
    q, b, query, head, mask_m, FIRST: tl.constexpr, D: tl.constexpr, BLOCK_D
) -> tl.tensor:
    """Load columns FIRST … of the rows (query, head) of a tile: (BLOCK_M, BLOCK_D)."""
    offs_d = FIRST + tl.arange(0, BLOCK_D)[None, :]
    offs_m = query.to(tl.int64) * q.stride_m + head.to(tl.int64) * q.stride_h
    q_ptrs = q.ptr + b * q.stride_b + offs_m[:, None] + offs_d
    return tl.load(q_ptrs, mask=mask_m[:, None] & (offs_d < D), other=0.0)


@triton.jit
def narrow(rows, rules, sees, whole, first, position, length, Lq) -> tuple[tuple, tuple]:
    """Apply window, padding and mask to what each row sees; returns bounds and whole.

    sees (BLOCK_M,): row i sees no place from sees[i] on. whole = (from, to): places that every row
    is sure to see. bounds = (first, since, sees): row i also sees no place before since[i], and
    first is the earliest of these.
    """
    since = tl.zeros_like(sees) + first
    seen_from, seen_to = whole
    if rows.leftpad_ptr is not None:
        seen_from = tl.maximum(seen_from, first)
    if rules.left is not None:
        since = tl.maximum(position - rules.left, first)
        seen_from = tl.maximum(seen_from, tl.maximum(length - 1 - rules.left, first))
    if rules.right is not None:
        sees = tl.minimum(sees, position + rules.right + 1)
        seen_to = tl.minimum(seen_to, length - Lq + rules.right + 1)
    if rules.mask_ptr is not None:
        seen_to = tl.minimum(seen_to, length - Lq)
    return (first, since, sees), (seen_from, seen_to)
