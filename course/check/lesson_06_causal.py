"""Exercise 6.2: how far each query tile walks, and where the mask begins."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator

from course.check import lesson_06_causal_answers as answers
from course.check.guards import guarded, poisoned
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
        (limits.tensor.clamp(min=0).cpu(), o.tensor, lse.tensor),  # a walk to -3 is one to 0
        (bounds(Lq, Lk), wanted[0][0, :, 0].float(), wanted[1][0, :, 0].float()),
        f"Lq = {Lq}, Lk = {Lk}, BLOCK_M = BLOCK_N = {BLOCK}",
        names=("(full, stop) of each tile", "o", "lse"),
        guards=(*ins, o, lse, limits),
        atol=tolerance(q, k, v, scale),
        rtol=0.0,
    )


def _between(rng: Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=rng))


def _square(answer, rng):
    return _seen(answer, rng, 48, 48)


def _cached(answer, rng):
    return _seen(answer, rng, 32, 32 + _between(rng, 17, 31))


def _odd(answer, rng):
    n = _between(rng, 33, 47)
    return _seen(answer, rng, n, n)


def _more_queries(answer, rng):
    return _seen(answer, rng, 40, _between(rng, 5, 20))


def _one_query(answer, rng):
    return _seen(answer, rng, 1, _between(rng, 20, 31))


CAUSAL = Exercise(
    id="6.2",
    name="causal",
    title="How far to walk",
    section="5 · Causal, in two stages",
    solution_name="causal_kernel",
    properties=(
        Property("square", "Lq is Lk, a multiple of the tiles", _square),
        Property("keys in a cache", "more keys than queries", _cached),
        Property("odd lengths", "Lq is Lk, no multiple of the tiles", _odd),
        Property("more queries than keys", "the first queries see nothing", _more_queries),
        Property("one query", "it is the last, so it sees every key", _one_query),
    ),
    mistakes=(
        Mistake(
            "top-left",
            "The mask is aligned **top-left**: query 0 sees one key, however many keys there are. "
            "It is right only where Lq is Lk; bottom-right, the last query sees all keys.",
            answers.top_left,
        ),
        Mistake(
            "off by one",
            "Every query sees **one key too few**: it may see itself as well, so a count of keys "
            "is a position plus one.",
            answers.off_by_one,
        ),
        Mistake(
            "full by the last row",
            "full is taken from the **last** row of the tile. A key is in the unmasked stage only "
            "if every row sees it, and the first row sees fewest.",
            answers.full_by_the_last,
        ),
        Mistake(
            "nothing is full",
            "o and lse are right, but **full is 0**: every tile goes through the masked stage, "
            "and the unmasked one is never used.",
            answers.nothing_full,
        ),
        Mistake(
            "nothing is skipped",
            "o and lse are right, but **stop is Lk** everywhere: tiles that no row can see are "
            "loaded, multiplied and masked away.",
            answers.nothing_skipped,
        ),
        Mistake(
            "stop by the first row",
            "stop is taken from the **first** row of the tile: the rows below it see more keys, "
            "and never get them.",
            answers.stop_by_the_first,
        ),
    ),
    alternative=answers.by_first_and_last,
    needs=("triton",),
    trials=1,
)
