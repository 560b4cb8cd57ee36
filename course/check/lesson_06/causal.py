"""Exercise 6.2: how far each query tile walks, and where the mask begins."""

import torch

from course.check.draw import integer
from course.check.guards import poisoned
from course.check.lesson_06.fp32_attention import drawn, inside_nan, launch, tolerance
from course.check.rewritten import rewritten
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from kernels.flash_attention import attend
from kernels.primitives import LOG2_E, finalize
from kernels.runtime import device
from reference.attention import oracle

# isort: split
import triton
import triton.language as tl

D, BLOCK = 16, 16


@right
@triton.jit
def causal_kernel(
    q_ptr,  # (Lq, D), contiguous, as k, v (Lk, D) and o (Lq, D) are
    k_ptr,
    v_ptr,
    o_ptr,
    lse_ptr,  # (Lq,)
    bounds_ptr,  # (programs, 2) int32: full and stop of each program, for the check
    Lq,
    Lk,
    scale_log2,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    start_m = tl.program_id(0) * BLOCK_M
    offs_m = start_m + tl.arange(0, BLOCK_M)
    sees = tl.minimum(offs_m + 1 + (Lk - Lq), Lk)
    full = tl.maximum(start_m + 1 + (Lk - Lq), 0) // BLOCK_N * BLOCK_N
    stop = tl.maximum(tl.minimum(start_m + BLOCK_M + (Lk - Lq), Lk), 0)
    places, inside = offs_m[:, None] * D + tl.arange(0, D)[None, :], offs_m[:, None] < Lq
    q = tl.load(q_ptr + places, mask=inside, other=0.0)
    m_log2 = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    state = (m_log2, tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, D), tl.float32))
    kv = (k_ptr, D, v_ptr, D)
    state = attend(state, q, kv, scale_log2, 0, full, sees, D, BLOCK_N, MASKED=False)
    state = attend(state, q, kv, scale_log2, full, stop, sees, D, BLOCK_N, MASKED=True)
    o, lse = finalize(state[0], state[1], state[2])
    tl.store(o_ptr + places, o, mask=inside)
    tl.store(lse_ptr + offs_m, lse, mask=offs_m < Lq)
    tl.store(bounds_ptr + 2 * tl.program_id(0), full)
    tl.store(bounds_ptr + 2 * tl.program_id(0) + 1, stop)


FULL = "tl.maximum(start_m + 1 + (Lk - Lq), 0)"  # before it is rounded
STOP = "tl.maximum(tl.minimum(start_m + BLOCK_M + (Lk - Lq), Lk), 0)"

by_first_and_last = also_right(  # from what these two rows see; rows past Lq not cut
    rewritten(
        causal_kernel,
        [
            ("tl.minimum(offs_m + 1 + (Lk - Lq), Lk)", "first + tl.arange(0, BLOCK_M)"),
            (FULL, "tl.maximum(tl.minimum(first, Lk), 0)"),
            (STOP, "tl.maximum(tl.minimum(first + BLOCK_M - 1, Lk), 0)"),
            ("    sees =", "    first = start_m + 1 + Lk - Lq\n    sees ="),
        ],
        "also right: by first and last",
    )
)


def bounds(Lq, Lk, M, N):
    """(full, stop) of every query tile, counted key by key."""
    rows = []
    for start in range(0, Lq, M):
        sees = [max(0, i + 1 + Lk - Lq) for i in range(start, min(start + M, Lq))]
        rows.append((sees[0] // N * N, sees[-1]))
    return torch.tensor(rows, dtype=torch.int32)


def seen(answer, rng, Lq, Lk, D=D, M=BLOCK, N=BLOCK):
    q, k, v = drawn(rng, (Lq, D), (Lk, D), (Lk, D))
    ins, tiles = inside_nan(q, k, v), triton.cdiv(Lq, M)
    o, lse = (poisoned(s, name=n, device=device()) for s, n in (((Lq, D), "o"), ((Lq,), "lse")))
    limits = poisoned((tiles, 2), torch.int32, "bounds", device=device())
    tensors = [x.tensor for x in (*ins, o, lse, limits)]
    scale = D**-0.5
    constants = {"D": D, "BLOCK_M": M, "BLOCK_N": N}
    launch(answer, (tiles,), *tensors, Lq, Lk, scale * LOG2_E, **constants)
    wanted = oracle(*(x[None, :, None] for x in (q, k, v)), causal=True, scale=scale)
    return Seen(
        (limits.tensor.cpu(), o.tensor, lse.tensor),
        (bounds(Lq, Lk, M, N), wanted[0][0, :, 0].float(), wanted[1][0, :, 0].float()),
        f"Lq = {Lq}, Lk = {Lk}, BLOCK_M = {M}, BLOCK_N = {N}",
        names=("(full, stop) of each tile", "o", "lse"),
        guards=(*ins, o, lse, limits),
        atol=tolerance(q, k, v, scale),
        rtol=0.0,
    )


@holds("Lq = Lk, a multiple of the tile size")
def square(answer, rng):
    return seen(answer, rng, 48, 48)


@holds("more keys than queries")
def keys_in_a_cache(answer, rng):
    return seen(answer, rng, 32, 32 + integer(rng, 17, 31))


@holds("Lq = Lk, not a multiple of the tile size")
def odd_lengths(answer, rng):
    n = integer(rng, 33, 47)
    return seen(answer, rng, n, n)


@holds("the first queries see nothing")
def more_queries_than_keys(answer, rng):
    return seen(answer, rng, 40, integer(rng, 5, 20))


@holds("it is the last one, so it sees every key")
def one_query(answer, rng):
    return seen(answer, rng, 1, integer(rng, 20, 31))


@holds("what the first query sees ends with a tile, or one key before it does")
def whole_tiles(answer, rng):
    """With one key fewer, or more in the last, full is another."""
    return [seen(answer, rng, Lq, Lk) for Lq, Lk in ((32, 47), (1, 48), (16, 30))]


@holds("BLOCK_M is not BLOCK_N")
def unequal_tiles(answer, rng):
    return [
        seen(answer, rng, 32, 48 + integer(rng, 1, 15), D=32, M=16, N=32),
        seen(answer, rng, 64, 64 + integer(rng, 17, 31), M=32, N=16),
    ]


slip(
    "top-left",
    "The mask is aligned **top-left**: query 0 sees one key, however many keys there "
    "are. That is right only if Lq = Lk. Aligned bottom-right, the last query sees all "
    "keys.",
    (FULL, "tl.minimum(start_m + 1, Lk)"),
    (" + (Lk - Lq)", ""),
)
slip(
    "top-left, full uncut",
    "Lk - Lq is missing, so the mask is aligned **top-left**, and with more queries than "
    "keys **full** is past the last key. Aligned bottom-right, the last query sees all "
    "keys.",
    (" + (Lk - Lq)", ""),
)
slip(
    "lengths swapped",
    "The shift is **Lq - Lk**; it should be the other way round: with 6 more keys than "
    "queries, query 0 sees 6 more keys.",
    ("Lk - Lq", "Lq - Lk"),
)
slip(
    "off by one",
    "Every query sees **one key too few**: it sees itself as well, so the number of keys "
    "is its position plus one.",
    ("Lk - Lq", "Lk - Lq - 1"),
)
slip(
    "sees off by one",
    "The bounds are right, but **sees** is one key short: a query sees itself as well, so "
    "the number of keys is its position plus one.",
    ("offs_m + 1", "offs_m"),
)
slip(
    "full one short",
    "sees and stop are right, but **full** is computed from one key too few. If the first "
    "row sees a whole number of tiles, the last of them needlessly goes through the "
    "masked stage.",
    ("start_m + 1", "start_m"),
)
slip(
    "full one too many",
    "sees and stop are right, but **full** is computed from one key too many. Where the first row "
    "sees all keys of a tile but one, that tile goes through the unmasked stage.",
    ("start_m + 1 ", "start_m + 2 "),
)
slip(
    "full by the last",
    "full is taken from the **last** row of the tile. A key belongs in the "
    "unmasked stage only if every row sees it, and the first row sees the fewest.",
    (FULL, STOP),
)
slip(
    "full not rounded",
    "**full is not a multiple of BLOCK_N**. attend goes by whole tiles: the last one "
    "runs past full and, without a mask, shows rows what they must not see.",
    (" // BLOCK_N * BLOCK_N", ""),
)
slip(
    "tiles of queries",
    "full is rounded to whole tiles **of queries**. attend walks in tiles of keys: BLOCK_N.",
    ("// BLOCK_N * BLOCK_N", "// BLOCK_M * BLOCK_M"),
)
slip(
    "BLOCK_N rows",
    "stop is computed as if the tile had **BLOCK_N rows**: it has BLOCK_M queries.",
    ("start_m + BLOCK_M", "start_m + BLOCK_N"),
)
slip(
    "counted in tiles",
    "full is a **number of tiles**. It is asked for in keys: times BLOCK_N.",
    (" // BLOCK_N * BLOCK_N", " // BLOCK_N"),
)
slip(
    "stop rounded up",
    "stop is rounded up **to whole tiles**. It is a number of keys, the smallest that will do: "
    "attend masks the rest of the last tile.",
    (STOP, f"tl.minimum(tl.cdiv({STOP}, BLOCK_N) * BLOCK_N, Lk)"),
)
slip(
    "one key too many",
    "Every query sees **one key too many**: query i sees i + 1 + (Lk - Lq) keys, itself the last.",
    ("Lk - Lq", "Lk - Lq + 1"),
)
slip(
    "full rounded up",
    "full is rounded **up**: the tile that the diagonal cuts then goes through the unmasked stage.",
    (f"{FULL} // BLOCK_N", f"tl.cdiv({FULL}, BLOCK_N)"),
)
slip(
    "nothing full",
    "o and lse are right, but **full is 0**: every tile goes through the masked stage, "
    "and the unmasked one is never used.",
    (" // BLOCK_N * BLOCK_N", " * 0"),
)
slip(
    "nothing skipped",
    "o and lse are right, but **stop is Lk** everywhere: tiles that no row can see are "
    "loaded, multiplied and masked away.",
    (STOP, "Lk"),
)
slip(
    "stop by the first",
    "stop is taken from the **first** row of the tile: the rows below it should see "
    "more keys, but never get them.",
    ("start_m + BLOCK_M", "start_m + 1"),
)
slip(
    "stop one short",
    "**stop** is one key short: the last row is start_m + BLOCK_M - 1, and the number "
    "of keys that it sees is one more than its position.",
    ("start_m + BLOCK_M", "start_m + BLOCK_M - 1"),
)
slip(
    "stop past the end",
    "**stop** exceeds Lk when the last query tile is partial. attend trusts it, and loads "
    "what lies past the end of K and V.",
    (STOP, "tl.maximum(start_m + BLOCK_M + (Lk - Lq), 0)"),
)
slip(
    "full below 0",
    "**full is negative** if the first row sees nothing. The masked stage then starts "
    "before the first key, and loads whatever lies there.",
    (FULL, "(start_m + 1 + (Lk - Lq))"),
)
slip(
    "stop below 0",
    "o and lse are right, but **stop is negative** if no row of the tile sees a key. "
    "The loop happens to tolerate that, but a bound is a number of keys: at least 0.",
    (STOP, "tl.minimum(start_m + BLOCK_M + (Lk - Lq), Lk)"),
)
slip(
    "both below 0",
    "**full and stop are negative** if rows see nothing: the stages then start before the "
    "first key. A bound is a number of keys: at least 0.",
    (FULL, "(start_m + 1 + (Lk - Lq))"),
    (STOP, "tl.minimum(start_m + BLOCK_M + (Lk - Lq), Lk)"),
)

CAUSAL = Exercise.of(
    __name__,
    "6.2 causal",
    title="How far to walk",
    section="5 · Causal, in two stages",
    needs=("triton",),
    trials=1,
)
