"""Exercise 9.3: packing the rows of a group. Its properties and the mistakes people make."""

import torch
from torch import Generator, Tensor

from course.check.draw import integer
from course.check.faulty import Faulty, randn
from course.check.guards import Guarded, guarded, poisoned
from course.check.spec import Exercise, Mistake, Property, Seen
from kernels.runtime import device  # before triton: it decides the mode

# isort: split
import triton
import triton.language as tl

SECTION = "3 · Which queries: pack the group"
D = 16


def packed(q: Tensor, Hkv: int, block_m: int) -> Tensor:
    """Return the tiles (B, Hkv, block_m, D) of q (B, Lq, Hq, D); padding rows are 0."""
    B, Lq, Hq, width = q.shape
    tiles = torch.zeros(B, Hkv, block_m, width, device=q.device)
    rows = Lq * (Hq // Hkv)
    tiles[:, :, :rows] = q.unflatten(2, (Hkv, -1)).transpose(1, 2).reshape(B, Hkv, rows, width)
    return tiles


def ask(answer: object, q: Tensor, guard: Guarded, Hkv: int, given: str, block_m: int = 16) -> Seen:
    """Launch on q, a view of what `guard` guards; the tiles, being copies, must agree exactly."""
    B, Lq, Hq, width = q.shape
    out = poisoned((B, Hkv, block_m, width), name="tile", device=device())
    answer[(Hkv, B)](
        q, out.tensor, q.stride(0), q.stride(1), q.stride(2), Lq,
        G=Hq // Hkv, D=width, BLOCK_M=block_m,
    )  # fmt: skip
    wanted = packed(q, Hkv, block_m)
    return Seen(out.tensor, wanted, given, atol=0.0, rtol=0.0, guards=(guard, out))


def plain(answer: object, rng: Generator, B: int, Lq: int, G: int, Hkv: int, given: str) -> Seen:
    """Ask with a contiguous q, with NaN around it."""
    guard = guarded(randn(rng, B, Lq, G * Hkv, D), "q")
    return ask(answer, guard.tensor, guard, Hkv, f"{given}: B = {B}, Lq = {Lq}, G = {G}")


def _one_token(answer: object, rng: Generator) -> Seen:
    return plain(answer, rng, 1, 1, 4, 2, "one token, 8 query heads on 2 KV heads")


def _several_tokens(answer: object, rng: Generator) -> Seen:
    return plain(
        answer, rng, 1, integer(rng, 2, 3), 4, 2, "several tokens, 8 query heads on 2 KV heads"
    )


def _odd_group(answer: object, rng: Generator) -> Seen:
    return plain(answer, rng, 1, integer(rng, 2, 5), 3, 3, "9 query heads on 3 KV heads")


def _batch(answer: object, rng: Generator) -> Seen:
    return plain(answer, rng, 3, 2, 2, 2, "a batch")


def _full_tile(answer: object, rng: Generator) -> Seen:
    return plain(answer, rng, 1, 4, 4, 1, "16 rows, no padding")


def _another_layout(answer: object, rng: Generator) -> Seen:
    guard = guarded(randn(rng, 2, 8, 3, D), "q")  # (B, Hq, Lq, D), passed as a view
    given = "a transposed view as q: B = 2, Lq = 3, G = 4"
    return ask(answer, guard.tensor.transpose(1, 2), guard, 2, given)


@triton.jit
def _row_by_row(
    q_ptr, tile_ptr, stride_qb, stride_qm, stride_qh, Lq,
    G: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Another correct answer: one row at a time, each with its own pointer."""
    kv_head, b = tl.program_id(0), tl.program_id(1)
    offs_d = tl.arange(0, D)
    tile_ptr += (b * tl.num_programs(0) + kv_head) * BLOCK_M * D
    q_ptr += b * stride_qb + kv_head * G * stride_qh
    for r in range(0, BLOCK_M):
        row_ptr = q_ptr + (r // G) * stride_qm + (r - r // G * G) * stride_qh
        q = tl.load(row_ptr + offs_d, mask=offs_d < (G * Lq - r) * D, other=0.0)
        tl.store(tile_ptr + r * D + offs_d, q)


@triton.jit
def _faulty(
    q_ptr, tile_ptr, stride_qb, stride_qm, stride_qh, Lq,
    G: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, WRONG: tl.constexpr,
):  # fmt: skip
    """The whole tile at once, with one of the catalogued faults."""
    kv_head, b = tl.program_id(0), tl.program_id(1)
    Hkv = tl.num_programs(0)
    offs_m, offs_d = tl.arange(0, BLOCK_M), tl.arange(0, D)
    query, head = offs_m // G, kv_head * G + offs_m % G
    mask_m = offs_m < G * Lq
    if WRONG == "head by head":
        query, head = offs_m % Lq, kv_head * G + offs_m // Lq
    if WRONG == "always the first group":
        head = offs_m % G
    if WRONG == "interleaved":
        head = kv_head + Hkv * (offs_m % G)
    if WRONG == "head by head, query masked":
        query, head = offs_m % Lq, kv_head * G + offs_m // Lq
        mask_m = query < Lq
    if WRONG == "query and head swapped":
        query, head = offs_m % G, kv_head * G + offs_m // G
        mask_m = query < Lq
    if WRONG == "neighbouring groups overlap":
        head = kv_head + offs_m % G
    if WRONG == "one query too many":
        mask_m = query <= Lq
    if WRONG == "no mask":
        mask_m = offs_m >= 0
    if WRONG == "one query":
        mask_m = offs_m < G
    if WRONG == "swapped strides":
        offs_q = b * stride_qb + query * stride_qh + head * stride_qm
    elif WRONG == "shape for strides":
        offs_q = ((b * Lq + query) * Hkv * G + head) * D
    elif WRONG == "no batch":
        offs_q = query * stride_qm + head * stride_qh
    else:
        offs_q = b * stride_qb + query * stride_qm + head * stride_qh
    q = tl.load(q_ptr + offs_q[:, None] + offs_d[None, :], mask=mask_m[:, None], other=0.0)
    tile = (b * Hkv + kv_head) * BLOCK_M + offs_m
    tl.store(tile_ptr + tile[:, None] * D + offs_d[None, :], q)


FAULTS = (
    (
        "head by head",
        "The rows are ordered **head by head**. In this tile they must go query by query: all "
        "heads of the group for query 0, then all for query 1.",
    ),
    (
        "head by head, query masked",
        "The rows are ordered **head by head**, with % Lq and // Lq, so no query is ever too "
        "large and no row is padding. Go query by query: divide by G.",
    ),
    (
        "query and head swapped",
        "% and // are **swapped**: the query is r // G, and r % G is the head within the group.",
    ),
    (
        "neighbouring groups overlap",
        "The group of KV head h begins at query head h, so the groups **overlap**. Each of them "
        "has G heads: group h begins at h · G.",
    ),
    (
        "one query too many",
        "The padding mask lets in query **Lq**, but the queries are 0 … Lq − 1.",
    ),
    (
        "always the first group",
        "Every program packs heads 0 … G − 1. The heads of KV head h begin at **h · G**.",
    ),
    (
        "interleaved",
        "The heads of a group are taken **Hkv apart**. Query heads that share a KV head are "
        "neighbours: h · G, h · G + 1, …",
    ),
    (
        "no mask",
        "The padding rows are **loaded**: their pointers lead to other rows, or past the end of "
        "the tensor. Padding should be 0.",
    ),
    (
        "one query",
        "Only the first G rows are loaded. With Lq new tokens there are **G · Lq** real rows.",
    ),
    (
        "swapped strides",
        "stride_qm and stride_qh are **swapped**: the first steps from query to query, the "
        "second from head to head.",
    ),
    (
        "shape for strides",
        "The pointers are computed **from the shape**, as if q were contiguous. A transposed view "
        "has other strides, which are passed to the kernel.",
    ),
    (
        "no batch",
        "Every program reads **row 0 of the batch**: b · stride_qb is missing.",
    ),
)

PACK = Exercise(
    id="9.3",
    name="pack",
    title="Pack the group",
    section=SECTION,
    solution_name="pack_kernel",
    properties=(
        Property("one token", "G rows and padding", _one_token),
        Property("several tokens", "query by query", _several_tokens),
        Property("odd group", "G = 3, three KV heads", _odd_group),
        Property("batch", "each row of the batch has its own tiles", _batch),
        Property("full tile", "16 rows, nothing to pad", _full_tile),
        Property("another layout", "strides that do not follow from the shape", _another_layout),
    ),
    mistakes=tuple(Mistake(x, says, Faulty(_faulty, x)) for x, says in FAULTS),
    alternative=_row_by_row,
    needs=("triton",),
    trials=1,
)
