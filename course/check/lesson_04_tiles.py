"""Exercise 4.1: the tile loop of FlashAttention-2, for one head."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course.check.draw import integer
from course.check.guards import empty_is_nan
from course.check.lesson_04_tiles_answers import (
    by_logaddexp,
    keys_outside,
    with_fault,
    without_tiles,
)
from course.check.spec import Exercise, Mistake, Property, Seen
from reference.attention import oracle
from reference.traffic import Traffic

EPS = torch.finfo(torch.float32).eps


def _draw(rng: torch.Generator, Lq: int, Lk: int, D: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(n, D, generator=rng) for n in (Lq, Lk, Lk))


def _tolerance(q: Tensor, k: Tensor, v: Tensor) -> float:
    """A score rounds in D products of this size; Lk terms and a factor per tile add to that."""
    D, Lk = k.shape[1], len(k)
    size = (q.abs() @ k.abs().T).max().item() * D**-0.5
    return 2 * EPS * (D * size + 2 * Lk + 8) * max(1.0, v.abs().max().item())


def _compare(answer: Callable, q: Tensor, k: Tensor, v: Tensor, bm: int, bn: int) -> Seen:
    o, lse = (x[0, :, 0].float() for x in oracle(*(x[None, :, None] for x in (q, k, v))))
    given = f"Lq = {len(q)}, Lk = {len(k)}, D = {q.shape[1]}, block_m = {bm}, block_n = {bn}"
    with empty_is_nan():
        got = answer(q, k, v, bm, bn, Traffic())
    return Seen(
        got,
        (o, lse),
        given,
        names=("o", "lse"),
        atol=_tolerance(q, k, v),
        rtol=0.0,
    )


def _one_tile(answer, rng):
    return _compare(answer, *_draw(rng, 3, 5), 4, 8)


def _whole_tiles(answer, rng):
    return _compare(answer, *_draw(rng, 8, 12), 4, 3)


def _odd_tails(answer, rng):
    bm, bn = integer(rng, 2, 5), integer(rng, 2, 5)
    Lq, Lk = (b * integer(rng, 2, 4) + integer(rng, 1, b - 1) for b in (bm, bn))
    return _compare(answer, *_draw(rng, Lq, Lk), bm, bn)


def _maximum_moves(answer, rng):
    q, k, v = _draw(rng, 6, 12)
    q, k = q.abs() + 0.5, torch.linspace(0.2, 2.0, 12)[:, None] * (k.abs() + 0.5)
    return _compare(answer, q, k, v, 4, 3)


def _huge_scores(answer, rng):
    q, k, v = _draw(rng, 5, 9)
    k[:, 0] = 1.0
    mixed, low = q.clone(), q.clone()
    mixed[:, 0] = 400 * 8**0.5
    mixed[0, 0] = -400 * 8**0.5
    low[:, 0] = -400 * 8**0.5
    return [_compare(answer, x, k, v, 2, 4) for x in (mixed, low)]


def _moves(answer, rng):
    Lq, Lk, bm, bn = 10, integer(rng, 9, 15), 4, 5
    q, k, v = _draw(rng, Lq, Lk)
    traffic = Traffic()
    answer(q, k, v, bm, bn, traffic)
    got = {f"{n} loaded": traffic.loads[n] for n in "qkv"}
    got |= {f"{n} stored": traffic.stores[n] for n in ("o", "lse")}
    walks = math.ceil(Lq / bm)
    wanted = {"q loaded": q.numel(), "k loaded": walks * k.numel(), "v loaded": walks * v.numel()}
    wanted |= {"o stored": q.numel(), "lse stored": Lq}
    return Seen(got, wanted, f"Lq = {Lq}, Lk = {Lk}, D = 8, block_m = {bm}, block_n = {bn}")


def _mistake(name: str, says: str, see: str = "") -> Mistake:
    return Mistake(name, says, with_fault(name), see)


TILE_LOOP = Exercise(
    id="4.1",
    name="tile loop",
    title="The tile loop of FlashAttention-2",
    section="2 · One tile at a time",
    solution_name="flash_attention_head",
    properties=(
        Property("one tile", "both lengths fit in one tile: plain softmax attention", _one_tile),
        Property("whole tiles", "2 query tiles × 4 key tiles", _whole_tiles),
        Property("odd tails", "the last tiles are short, on both sides", _odd_tails),
        Property("the maximum moves", "later tiles have larger scores", _maximum_moves),
        Property("huge scores", "scores near 400 and near -400", _huge_scores),
        Property("what moves", "q in, o and lse out once; k, v once per query tile", _moves),
    ),
    mistakes=(
        _mistake(
            "nothing rescaled",
            "This is what you get if l and acc are carried from tile to tile **without the "
            "correction**: when m grows, what was summed before is still measured from the old m.",
        ),
        _mistake(
            "acc not rescaled",
            "l is corrected when the maximum moves, but **acc is not**. Both are sums over the "
            "same exponentials, so both need the factor.",
        ),
        _mistake(
            "divided in every tile",
            "acc is **divided by l in every tile**, and then used as if it had not been. Either "
            "undo the old division first, as FlashAttention-1 does, or divide once at the end.",
            "4 · What FlashAttention-2 changed",
        ),
        _mistake(
            "never divided",
            "acc is returned **without the division by l**: a weighted sum, not a weighted mean.",
        ),
        _mistake("no scale", "The scores are not multiplied by **1/√D**."),
        _mistake(
            "lse without m",
            "lse is only log l. l is measured from m, so the logarithm of the true denominator is "
            "**m + log l**.",
        ),
        _mistake(
            "no maximum",
            "The exponentials are taken of the **bare scores**, with no maximum subtracted: that "
            "works for small scores, and overflows above 88 in fp32.",
        ),
        _mistake(
            "m starts at 0",
            "m starts at **0, or another finite number**: in a row whose scores all lie far below "
            "it, every exponential underflows, and 0 / 0 is NaN. Start at -∞.",
        ),
        _mistake(
            "correction upside down",
            "The correction is **upside down**: exp(m_new - m) enlarges what should shrink (and "
            "is infinite at first, while m = -∞). Old sums are measured from m, new ones from "
            "m_new.",
        ),
        _mistake(
            "m never renewed",
            "m **stays -∞**: after each tile it must become m_new. As it is, the correction is 0 "
            "every time, and only the last key tile counts.",
        ),
        _mistake(
            "p from the tile's maximum",
            "p is measured from the **maximum of its own tile**, but l and acc from m_new. All "
            "three must be measured from the same number: m_new.",
        ),
        _mistake(
            "state set up once",
            "m, l and acc are set up **once, before the loop over queries**: the second query "
            "tile continues from the first one's sums. Each query tile needs its own state.",
        ),
        _mistake(
            "no logarithm",
            "lse is m + l. m is a score, l a sum of exponentials: what adds to m is **log l**.",
        ),
        _mistake("log2", "lse must be a **natural** logarithm; here log2 is taken of l."),
        _mistake(
            "one maximum for all",
            "m is **one number for the whole tile** here. A row far below it underflows to 0 / 0: "
            "each query needs its own maximum.",
        ),
        _mistake(
            "tail dropped",
            "The last, short key tile is **never visited**: the number of tiles is Lk / block_n "
            "rounded up, not down.",
        ),
        _mistake(
            "rows never written",
            "The rows of the last, short query tile are **never written**: the number of tiles is "
            "Lq / block_m rounded up. `torch.empty` may hold anything; here it holds NaN.",
        ),
        _mistake(
            "both tails dropped",
            "The short tiles at the end are left out, **of queries and of keys**: both tile "
            "counts are rounded up, not down (`math.ceil`, not `//`).",
        ),
        _mistake(
            "q reloaded",
            "The numbers are right, but the query tile is loaded again **for every key tile**. It "
            "doesn't change in the inner loop: load it once, before that loop.",
            "3 · Count what moves",
        ),
        _mistake(
            "nothing reported",
            "The numbers are right, but **no tile was reported**. Pass every tile through "
            "`traffic.load(name, tile)`, and give o and lse to `traffic.store(name, tile)`.",
            "3 · Count what moves",
        ),
        _mistake(
            "nothing stored",
            "o and lse are right, but **never reported, or under other names**: when a query tile "
            'is finished, give its rows to `traffic.store("o", …)` and `traffic.store("lse", …)`.',
            "3 · Count what moves",
        ),
        _mistake(
            "stored in every step",
            "o and lse are stored **after every key tile**. They are final only after the last "
            "one; until then the state stays in fast memory.",
            "3 · Count what moves",
        ),
        Mistake(
            "no tiles",
            "The numbers are right, but k and v are loaded **once and whole**: there are no "
            "tiles, so all the scores exist at once. Walk through k and v for each query tile.",
            without_tiles,
            "2 · One tile at a time",
        ),
        Mistake(
            "keys outside",
            "The numbers are right, but the loops are nested as in FlashAttention-1, **keys "
            "outside**: K and V are loaded once, and q once for every key tile.",
            keys_outside,
            "3 · Count what moves",
        ),
    ),
    alternative=by_logaddexp,
)
