"""Exercise 6.2: how far each query tile walks, and where the mask begins."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator

from course.check.draw import integer
from course.check.guards import guarded, poisoned
from course.check.lesson_06_causal_answers import by_first_and_last, faulty
from course.check.lesson_06_tile import launch, tolerance
from course.check.spec import Exercise, Mistake, Property, Seen
from kernels.primitives import LOG2_E
from kernels.runtime import device
from reference.attention import oracle

# isort: split
import triton

D, BLOCK = 16, 16


def bounds(Lq: int, Lk: int) -> torch.Tensor:
    """(full, stop) of every query tile, counted key by key."""
    rows = []
    for start in range(0, Lq, BLOCK):
        sees = [max(0, i + 1 + Lk - Lq) for i in range(start, min(start + BLOCK, Lq))]
        rows.append((sees[0] // BLOCK * BLOCK, sees[-1]))
    return torch.tensor(rows, dtype=torch.int32)


def _seen(answer: Callable, rng: Generator, Lq: int, Lk: int) -> Seen:
    q, k, v = (torch.randn(n, D, generator=rng) for n in (Lq, Lk, Lk))
    ins = [guarded(x.to(device()), name) for x, name in ((q, "q"), (k, "k"), (v, "v"))]
    tiles = triton.cdiv(Lq, BLOCK)
    o, lse = (poisoned(s, name=n, device=device()) for s, n in (((Lq, D), "o"), ((Lq,), "lse")))
    limits = poisoned((tiles, 2), torch.int32, "bounds", device=device())
    tensors = [x.tensor for x in (*ins, o, lse, limits)]
    scale = D**-0.5
    constants = {"D": D, "BLOCK_M": BLOCK, "BLOCK_N": BLOCK}
    launch(answer, (tiles,), *tensors, Lq, Lk, scale * LOG2_E, **constants)
    wanted = oracle(*(x[None, :, None] for x in (q, k, v)), causal=True, scale=scale)
    return Seen(
        (limits.tensor.cpu(), o.tensor, lse.tensor),
        (bounds(Lq, Lk), wanted[0][0, :, 0].float(), wanted[1][0, :, 0].float()),
        f"Lq = {Lq}, Lk = {Lk}, BLOCK_M = BLOCK_N = {BLOCK}",
        names=("(full, stop) of each tile", "o", "lse"),
        guards=(*ins, o, lse, limits),
        atol=tolerance(q, k, v, scale),
        rtol=0.0,
    )


def _square(answer, rng):
    return _seen(answer, rng, 48, 48)


def _cached(answer, rng):
    return _seen(answer, rng, 32, 32 + integer(rng, 17, 31))


def _odd(answer, rng):
    n = integer(rng, 33, 47)
    return _seen(answer, rng, n, n)


def _more_queries(answer, rng):
    return _seen(answer, rng, 40, integer(rng, 5, 20))


def _one_query(answer, rng):
    return _seen(answer, rng, 1, integer(rng, 20, 31))


def _full_edge(answer, rng):
    """The first row sees a whole number of tiles: with one key fewer, full is one tile less."""
    return [_seen(answer, rng, Lq, Lk) for Lq, Lk in ((32, 47), (1, 48))]


CAUSAL = Exercise(
    id="6.2",
    name="causal",
    title="How far to walk",
    section="5 · Causal, in two stages",
    solution_name="causal_kernel",
    properties=(
        Property("square", "Lq = Lk, a multiple of the tile size", _square),
        Property("keys in a cache", "more keys than queries", _cached),
        Property("odd lengths", "Lq = Lk, not a multiple of the tile size", _odd),
        Property("more queries than keys", "the first queries see nothing", _more_queries),
        Property("one query", "it is the last one, so it sees every key", _one_query),
        Property("whole tiles", "what the first query sees ends with a tile", _full_edge),
    ),
    mistakes=(
        Mistake(
            "top-left",
            "The mask is aligned **top-left**: query 0 sees one key, however many keys there "
            "are. That is right only if Lq = Lk. Aligned bottom-right, the last query sees all "
            "keys.",
            faulty("top-left"),
        ),
        Mistake(
            "top-left, full uncut",
            "Lk - Lq is missing, so the mask is aligned **top-left**, and with more queries than "
            "keys **full** is past the last key. Aligned bottom-right, the last query sees all "
            "keys.",
            faulty("top-left, full uncut"),
        ),
        Mistake(
            "lengths swapped",
            "The shift is **Lq - Lk**; it should be the other way round: with 6 more keys than "
            "queries, query 0 sees 6 more keys.",
            faulty("lengths swapped"),
        ),
        Mistake(
            "off by one",
            "Every query sees **one key too few**: it sees itself as well, so the number of keys "
            "is its position plus one.",
            faulty("off by one"),
        ),
        Mistake(
            "sees off by one",
            "The bounds are right, but **sees** is one key short: a query sees itself as well, so "
            "the number of keys is its position plus one.",
            faulty("sees off by one"),
        ),
        Mistake(
            "full one short",
            "sees and stop are right, but **full** is computed from one key too few. If the first "
            "row sees a whole number of tiles, the last of them needlessly goes through the "
            "masked stage.",
            faulty("full one short"),
        ),
        Mistake(
            "full by the last",
            "full is taken from the **last** row of the tile. A key belongs in the "
            "unmasked stage only if every row sees it, and the first row sees the fewest.",
            faulty("full by the last"),
        ),
        Mistake(
            "full not rounded",
            "**full is not a multiple of BLOCK_N**. attend goes by whole tiles: the last one "
            "runs past full and, without a mask, shows rows what they must not see.",
            faulty("full not rounded"),
        ),
        Mistake(
            "full rounded up",
            "full is rounded **up**: the tile that the diagonal cuts then goes through the "
            "unmasked stage.",
            faulty("full rounded up"),
        ),
        Mistake(
            "nothing full",
            "o and lse are right, but **full is 0**: every tile goes through the masked stage, "
            "and the unmasked one is never used.",
            faulty("nothing full"),
        ),
        Mistake(
            "nothing skipped",
            "o and lse are right, but **stop is Lk** everywhere: tiles that no row can see are "
            "loaded, multiplied and masked away.",
            faulty("nothing skipped"),
        ),
        Mistake(
            "stop by the first",
            "stop is taken from the **first** row of the tile: the rows below it should see "
            "more keys, but never get them.",
            faulty("stop by the first"),
        ),
        Mistake(
            "stop one short",
            "**stop** is one key short: the last row is start_m + BLOCK_M - 1, and the number "
            "of keys that it sees is one more than its position.",
            faulty("stop one short"),
        ),
        Mistake(
            "stop past the end",
            "**stop** exceeds Lk when the last query tile is partial. attend trusts it, and loads "
            "what lies past the end of K and V.",
            faulty("stop past the end"),
        ),
        Mistake(
            "full below 0",
            "**full is negative** if the first row sees nothing. The masked stage then starts "
            "before the first key, and loads whatever lies there.",
            faulty("full below 0"),
        ),
        Mistake(
            "stop below 0",
            "o and lse are right, but **stop is negative** if no row of the tile sees a key. "
            "The loop happens to tolerate that, but a bound is a number of keys: at least 0.",
            faulty("stop below 0"),
        ),
        Mistake(
            "both below 0",
            "**full and stop are negative** if rows see nothing: the stages then start before the "
            "first key. A bound is a number of keys: at least 0.",
            faulty("both below 0"),
        ),
    ),
    alternative=by_first_and_last,
    needs=("triton",),
    trials=1,
)
