"""The kernel behind `kernels.plan`: one program reads the lengths of a batch and lists the work.

    grid   (1,)      three sweeps over the rows, ROWS of them at a time

    1. add up     blocks of every row                    → the size of a chunk
    2. count      full chunks, other pieces by length    → where each kind begins in the list
    3. write      running sums (cumsum) give every piece its place, every row its slots

    the line of all rows    ··· │ chunk │ chunk │ chunk │ ···
    one row on it                    ├──┼───────┼──┤
                                   head    full  tail       any of them may be missing

The rows of one tile are written together: a tensor (ROWS, CHUNKS) of chunks at once. All sums are
integer sums, so a plan is the same on every run.
"""

from torch import Tensor

from kernels.call import KernelCall
from kernels.heuristics import next_power_of_2
from kernels.runtime import INTERPRETED  # noqa: F401 — before triton: it decides the mode

# isort: split
import triton
import triton.language as tl

CLASSES = 8  # pieces are sorted by length, to within an eighth of a chunk


@triton.jit
def _clamped(ptr, offs_b, B, max_len) -> tl.tensor:
    """Load one number per row, clamped to 0…max_len; rows that do not exist get 0."""
    numbers = tl.load(ptr + offs_b, mask=offs_b < B, other=0)
    return tl.minimum(tl.maximum(numbers, 0), max_len).to(tl.int32)


@triton.jit
def _rows(lengths_ptr, leftpad_ptr, offs_b, B, max_len, reach, BLOCK_N: tl.constexpr) -> tuple:
    """Return each row's first key to visit (start of a block), length and the blocks between."""
    length = _clamped(lengths_ptr, offs_b, B, max_len)
    first_key = tl.zeros_like(length)
    if leftpad_ptr is not None:
        first_key = _clamped(leftpad_ptr, offs_b, B, max_len)
    if reach is not None:  # window: the first query, at length - Lq, sees `left` keys before itself
        first_key = tl.maximum(first_key, length - reach)
    has_keys = first_key < length
    first_key = first_key // BLOCK_N * BLOCK_N
    return first_key, length, tl.where(has_keys, tl.cdiv(length - first_key, BLOCK_N), 0)


@triton.jit
def _cut(line, blocks, chunk) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Cut rows that begin at `line` (blocks of all rows before). Returns the blocks before the
    first cut, whole chunks, and blocks after the last cut."""
    head = tl.minimum((chunk - line % chunk) % chunk, blocks)
    full, tail = (blocks - head) // chunk, (blocks - head) % chunk
    return head.to(tl.int32), full.to(tl.int32), tail.to(tl.int32)


@triton.jit
def _by_length(size, longest, CLASSES: tl.constexpr) -> tl.tensor:
    """Return (ROWS, CLASSES): a 1 in the column of each piece, longest first; no piece, no 1."""
    from_longest = CLASSES - tl.cdiv(size * CLASSES, longest)  # no piece: CLASSES, no column
    return (from_longest[:, None] == tl.arange(0, CLASSES)[None, :]).to(tl.int32)


@triton.jit
def _write(items_ptr, place, row, start, stop, slot, mask) -> None:
    item_ptrs = items_ptr + place * 4
    tl.store(item_ptrs, row, mask=mask)
    tl.store(item_ptrs + 1, start, mask=mask)
    tl.store(item_ptrs + 2, stop, mask=mask)
    tl.store(item_ptrs + 3, slot, mask=mask)


@triton.jit
def plan_kernel(
    items_ptr,  # (W, 4) int32: row, start, stop, slot
    first_slot_ptr,  # (B + 1,) int32
    lengths_ptr,  # (B,) int32 or int64
    leftpad_ptr,  # (B,) int32 or int64, or None
    B,
    W,
    programs,
    max_len,
    reach,  # Lq + left, or None: no window
    BLOCK_N: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CLASSES: tl.constexpr,
) -> None:
    """Cut the line of all rows into chunks of one size and list the pieces, full chunks first."""
    # 1. The size of a chunk: an equal share. int64: the line may have more than 2^31 blocks.
    total = tl.sum(tl.zeros((ROWS,), tl.int64), 0)
    longest = tl.sum(tl.zeros((ROWS,), tl.int32), 0)
    for start_b in range(0, B, ROWS):
        offs_b = start_b + tl.arange(0, ROWS)
        _, _, blocks = _rows(lengths_ptr, leftpad_ptr, offs_b, B, max_len, reach, BLOCK_N)
        total += tl.sum(blocks.to(tl.int64), 0)
        longest = tl.maximum(longest, tl.max(blocks, 0))
    chunk = tl.maximum((total + programs - 1) // programs, 1)  # in blocks
    longest = tl.maximum(tl.minimum(longest, chunk), 1).to(tl.int32)  # of all pieces

    # 2. Where the pieces of each class begin in the list: after full chunks and longer pieces.
    line = tl.sum(tl.zeros((ROWS,), tl.int64), 0)
    n_full = tl.sum(tl.zeros((ROWS,), tl.int32), 0)
    n_pieces = tl.zeros((CLASSES,), tl.int32)
    for start_b in range(0, B, ROWS):
        offs_b = start_b + tl.arange(0, ROWS)
        _, _, blocks = _rows(lengths_ptr, leftpad_ptr, offs_b, B, max_len, reach, BLOCK_N)
        end = line + tl.cumsum(blocks.to(tl.int64), 0)
        head, full, tail = _cut(end - blocks, blocks, chunk)
        pieces = _by_length(head, longest, CLASSES) + _by_length(tail, longest, CLASSES)
        line += tl.sum(blocks.to(tl.int64), 0)
        n_full += tl.sum(full, 0)
        n_pieces += tl.sum(pieces, 0)
    next_piece = n_full + tl.cumsum(n_pieces, 0) - n_pieces  # (CLASSES,)

    # 3. Write. cumsum(n) - n is the sum of all earlier n.
    line = tl.sum(tl.zeros((ROWS,), tl.int64), 0)
    next_full = tl.sum(tl.zeros((ROWS,), tl.int32), 0)
    next_slot = tl.sum(tl.zeros((ROWS,), tl.int32), 0)
    for start_b in range(0, B, ROWS):
        offs_b = start_b + tl.arange(0, ROWS)
        first_key, length, blocks = _rows(
            lengths_ptr, leftpad_ptr, offs_b, B, max_len, reach, BLOCK_N
        )
        end = line + tl.cumsum(blocks.to(tl.int64), 0)
        head, full, tail = _cut(end - blocks, blocks, chunk)
        heads, tails = _by_length(head, longest, CLASSES), _by_length(tail, longest, CLASSES)
        pieces, has_head, has_tail = heads + tails, tl.sum(heads, 1), tl.sum(tails, 1)
        count = has_head + full + has_tail
        slot = next_slot + tl.cumsum(count, 0) - count
        tl.store(first_slot_ptr + offs_b, slot, mask=offs_b < B)

        column = next_piece[None, :] + tl.cumsum(pieces, 0) - pieces  # (ROWS, CLASSES)
        place = tl.sum(heads * column, 1)
        cut = tl.minimum(first_key + head * BLOCK_N, length)
        _write(items_ptr, place, offs_b, first_key, cut, slot, has_head > 0)
        place = tl.sum(tails * (column + heads), 1)  # after the row's head, if in the same class
        last_cut = first_key + (blocks - tail) * BLOCK_N
        _write(items_ptr, place, offs_b, last_cut, length, slot + count - 1, has_tail > 0)

        place = next_full + tl.cumsum(full, 0) - full
        for start_c in range(0, tl.max(full, 0), CHUNKS):
            c = start_c + tl.arange(0, CHUNKS)[None, :]
            mask = c < full[:, None]  # (ROWS, CHUNKS)
            start = cut[:, None] + c * longest * BLOCK_N  # if any chunk is full, longest == chunk
            stop = tl.minimum(start + longest * BLOCK_N, length[:, None])
            row, part = offs_b[:, None] + tl.zeros_like(c), (slot + has_head)[:, None] + c
            _write(items_ptr, place[:, None] + c, row, start, stop, part, mask)
        line += tl.sum(blocks.to(tl.int64), 0)
        next_full += tl.sum(full, 0)
        next_piece += tl.sum(pieces, 0)
        next_slot += tl.sum(count, 0)
    tl.store(first_slot_ptr + B, next_slot)

    # 4. The rest of the list: nothing to do.
    for start_w in range(next_slot, W, ROWS):
        place = start_w + tl.arange(0, ROWS)
        nothing = tl.zeros_like(place)
        _write(items_ptr, place, nothing - 1, nothing, nothing, nothing, place < W)


def plan_call(
    items: Tensor,
    first_slot: Tensor,
    lengths: Tensor,
    leftpad: Tensor | None,
    *,
    programs: int,
    max_len: int,
    reach: int | None,
    block_n: int,
) -> KernelCall:
    """Describe the launch; the arguments are those of `kernels.plan.decode_plan`, checked by it.

    reach: keys that a row's queries look back over, Lq + left, or None.
    """
    B = lengths.shape[0]
    rows = min(256, max(16, next_power_of_2(max(1, B))))
    args = {
        "items_ptr": items,
        "first_slot_ptr": first_slot,
        "lengths_ptr": lengths,
        "leftpad_ptr": leftpad,
        "B": B,
        "W": items.shape[0],
        "programs": programs,
        "max_len": max_len,
        "reach": reach,
        "BLOCK_N": block_n,
        "ROWS": rows,
        "CHUNKS": 1024 // rows,
        "CLASSES": CLASSES,
    }
    return KernelCall(plan_kernel, (1,), args, num_warps=4, num_stages=1)
