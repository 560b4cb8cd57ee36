"""Exercise 9.3: packing the rows of a group."""

import torch

from course.check.draw import integer
from course.check.guards import guarded, poisoned
from course.check.kernel_inputs import randn
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from kernels.runtime import device

# isort: split
import triton
import triton.language as tl


@right
@triton.jit
def pack_kernel(
    q_ptr,  # (B, Lq, Hq, D), any strides, D contiguous
    tile_ptr,  # (B, Hkv, BLOCK_M, D)
    stride_qb,
    stride_qm,
    stride_qh,
    Lq,
    G: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    kv_head, b = tl.program_id(0), tl.program_id(1)
    offs_m, offs_d = tl.arange(0, BLOCK_M), tl.arange(0, D)
    query, head = offs_m // G, kv_head * G + offs_m % G
    offs_q = b * stride_qb + query * stride_qm + head * stride_qh
    mask_m = query < Lq  # padding rows point behind the tensor
    q = tl.load(q_ptr + offs_q[:, None] + offs_d[None, :], mask=mask_m[:, None], other=0.0)
    rows = (b * tl.num_programs(0) + kv_head) * BLOCK_M + offs_m
    tl.store(tile_ptr + rows[:, None] * D + offs_d[None, :], q)


@also_right
@triton.jit
def row_by_row(
    q_ptr, tile_ptr, stride_qb, stride_qm, stride_qh, Lq,
    G: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Each row has its own pointer."""
    kv_head, b = tl.program_id(0), tl.program_id(1)
    offs_d = tl.arange(0, D)
    tile_ptr += (b * tl.num_programs(0) + kv_head) * BLOCK_M * D
    q_ptr += b * stride_qb + kv_head * G * stride_qh
    for r in range(0, BLOCK_M):
        row_ptr = q_ptr + (r // G) * stride_qm + (r - r // G * G) * stride_qh
        q = tl.load(row_ptr + offs_d, mask=offs_d < (G * Lq - r) * D, other=0.0)
        tl.store(tile_ptr + r * D + offs_d, q)


def packed(q, Hkv, block_m):
    """Return the tiles (B, Hkv, block_m, D) of q (B, Lq, Hq, D); padding rows are 0."""
    B, Lq, Hq, width = q.shape
    tiles = torch.zeros(B, Hkv, block_m, width, device=q.device)
    rows = Lq * (Hq // Hkv)
    tiles[:, :, :rows] = q.unflatten(2, (Hkv, -1)).transpose(1, 2).reshape(B, Hkv, rows, width)
    return tiles


def seen(answer, q, guard, Hkv, given):
    """Launch on q, a view of what `guard` guards; the tiles, being copies, must agree exactly."""
    B, Lq, Hq, D = q.shape
    block_m = max(16, 1 << (Lq * Hq // Hkv - 1).bit_length())
    out = poisoned((B, Hkv, block_m, D), name="tile", device=device())
    answer[(Hkv, B)](q, out.tensor, *q.stride()[:3], Lq, G=Hq // Hkv, D=D, BLOCK_M=block_m)
    wanted = packed(q, Hkv, block_m)
    return Seen(out.tensor, wanted, given, atol=0.0, rtol=0.0, guards=(guard, out))


def plain(answer, rng, B, Lq, G, Hkv, given, D=16):
    """Ask with a contiguous q, with NaN around it."""
    guard = guarded(randn(rng, B, Lq, G * Hkv, D), "q")
    return seen(answer, guard.tensor, guard, Hkv, f"{given}: B = {B}, Lq = {Lq}, G = {G}")


@holds("G rows and padding")
def one_token(answer, rng):
    return plain(answer, rng, 1, 1, 4, 2, "one token, 8 query heads on 2 KV heads")


@holds("query by query")
def several_tokens(answer, rng):
    Lq = integer(rng, 2, 3)
    return plain(answer, rng, 1, Lq, 4, 2, "several tokens, 8 query heads on 2 KV heads")


@holds("G no power of two; several D and BLOCK_M")
def odd_group(answer, rng):
    return [
        plain(answer, rng, 1, integer(rng, 2, 5), 3, 3, "9 query heads on 3 KV heads"),
        plain(answer, rng, 1, integer(rng, 6, 9), 7, 1, "7 query heads on a KV head", D=8),
    ]


@holds("each row of the batch has its own tiles")
def batch(answer, rng):
    return plain(answer, rng, 3, 2, 2, 2, "a batch")


@holds("16 rows, nothing to pad")
def full_tile(answer, rng):
    return plain(answer, rng, 1, 4, 4, 1, "16 rows, no padding")


@holds("strides that do not follow from the shape")
def another_layout(answer, rng):
    guard = guarded(randn(rng, 2, 8, 3, 32), "q")  # (B, Hq, Lq, D), passed as a view
    given = "a transposed view as q: B = 2, Lq = 3, G = 4"
    return seen(answer, guard.tensor.transpose(1, 2), guard, 2, given)


slip(
    "head by head",
    "The rows are ordered **head by head**. In this tile they must go query by query: all "
    "heads of the group for query 0, then all for query 1.",
    ("offs_m // G, kv_head * G + offs_m % G", "offs_m % Lq, kv_head * G + offs_m // Lq"),
    ("query < Lq", "offs_m < G * Lq"),
)
slip(
    "head by head, query masked",
    "The rows are ordered **head by head**, with % Lq and // Lq, so no query is ever too "
    "large and no row is padding. Go query by query: divide by G.",
    ("offs_m // G, kv_head * G + offs_m % G", "offs_m % Lq, kv_head * G + offs_m // Lq"),
)
slip(
    "query and head swapped",
    "% and // are **swapped**: the query is r // G, and r % G is the head within the group.",
    ("offs_m // G, kv_head * G + offs_m % G", "offs_m % G, kv_head * G + offs_m // G"),
)
slip(
    "neighbouring groups overlap",
    "The group of KV head h begins at query head h, so the groups **overlap**. Each of them "
    "has G heads: group h begins at h · G.",
    ("kv_head * G", "kv_head"),
)
slip(
    "one query too many",
    "The padding mask lets in query **Lq**, but the queries are 0 … Lq − 1.",
    ("query < Lq", "query <= Lq"),
)
slip(
    "always the first group",
    "Every program packs heads 0 … G − 1. The heads of KV head h begin at **h · G**.",
    ("kv_head * G + ", ""),
)
slip(
    "interleaved",
    "The heads of a group are taken **Hkv apart**. Query heads that share a KV head are "
    "neighbours: h · G, h · G + 1, …",
    ("kv_head * G + offs_m % G", "kv_head + tl.num_programs(0) * (offs_m % G)"),
)
slip(
    "no mask",
    "The padding rows are **loaded**: their pointers lead to other rows, or past the end of "
    "the tensor. Padding should be 0.",
    (", mask=mask_m[:, None], other=0.0", ""),
)
slip(
    "one query",
    "Only the first G rows are loaded. With Lq new tokens there are **G · Lq** real rows.",
    ("query < Lq", "query < 1"),
)
slip(
    "swapped strides",
    "stride_qm and stride_qh are **swapped**: the first steps from query to query, the "
    "second from head to head.",
    ("query * stride_qm + head * stride_qh", "query * stride_qh + head * stride_qm"),
)
slip(
    "shape for strides",
    "The pointers are computed **from the shape**, as if q were contiguous. A transposed view "
    "has other strides, which are passed to the kernel.",
    (
        "b * stride_qb + query * stride_qm + head * stride_qh",
        "((b * Lq + query) * tl.num_programs(0) * G + head) * D",
    ),
)
slip(
    "no batch",
    "Every program reads **row 0 of the batch**: b · stride_qb is missing.",
    ("b * stride_qb + ", ""),
)

slip(
    "padding repeats the last query",
    "Padding rows get **the last query** again: it is cut off at Lq − 1, so the mask lets all rows "
    "through. Padding should be 0.",
    ("offs_m // G,", "tl.minimum(offs_m // G, Lq - 1),"),
)
slip(
    "mask of queries on rows",
    "The mask compares **rows** with Lq. There are G rows for each query: G · Lq.",
    ("query < Lq", "offs_m < Lq"),
)
slip(
    "one query too few",
    "The padding mask leaves out the **last query**: the queries are 0 … Lq − 1.",
    ("query < Lq", "query < Lq - 1"),
)
slip(
    "padding is -inf",
    "Padding rows are **−inf**. Asked for is 0.",
    ("other=0.0", 'other=float("-inf")'),
)
slip(
    "without other",
    "The masked load has **no `other`**: the padding rows then hold anything, here NaN. Asked for "
    "is 0.",
    (", other=0.0", ""),
)
slip(
    "divided by Lq",
    "Rows are divided by **Lq**; it should be G: G neighbouring rows belong to one query.",
    ("offs_m // G, kv_head * G + offs_m % G", "offs_m // Lq, kv_head * G + offs_m % Lq"),
)
slip(
    "one head for all rows",
    "All rows are of **one head**, the first of the group: r % G says which of its heads row r is.",
    (" + offs_m % G", ""),
)
slip(
    "the KV head's number",
    "All rows are of query head **kv_head**. That is the number of a KV head: its group is the "
    "query heads h · G to h · G + G − 1.",
    ("kv_head * G + offs_m % G", "kv_head"),
)
slip(
    "heads run on",
    "The heads **run on from row to row**, past the end of the group. Each group has G heads.",
    ("offs_m % G", "offs_m"),
)
slip(
    "a query for each row",
    "Each row is taken to be **a query of its own**. G rows belong to the same query: r // G.",
    ("offs_m // G,", "offs_m,"),
)
slip(
    "always query 0",
    "All rows are of **query 0**. Row r is of query r // G.",
    ("offs_m // G,", "offs_m * 0,"),
)
slip(
    "head left out",
    "The pointers **don't depend on the head**: head · stride_qh is missing.",
    (" + head * stride_qh", ""),
)
slip(
    "query left out",
    "The pointers **don't depend on the query**: query · stride_qm is missing.",
    (" + query * stride_qm", ""),
)
for name, step in ("head", "stride_qh"), ("query", "stride_qm"):
    slip(
        f"{name} without its stride",
        f"The number of the {name} is added **as it is**. The way from one to the next is {step} "
        "elements.",
        (f"{name} * {step}", name),
    )
slip(
    "heads D apart",
    "Two heads are taken to be **D elements** apart. Only stride_qh says how far they are.",
    ("head * stride_qh", "head * D"),
)
slip(
    "queries Hq · D apart",
    "Two queries are taken to be **Hq · D elements** apart. Only stride_qm says how far they are.",
    ("query * stride_qm", "query * tl.num_programs(0) * G * D"),
)

PACK = Exercise.of(
    __name__,
    "9.3 pack",
    title="Pack the group",
    section="3 · Which queries: pack the group",
    needs=("triton",),
    trials=1,
)
