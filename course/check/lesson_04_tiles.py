"""Exercise 4.1: the tile loop of FlashAttention-2, for one head."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course.check.spec import Exercise, Mistake, Property, Seen
from reference.attention import oracle
from reference.traffic import Traffic

EPS = torch.finfo(torch.float32).eps


def _draw(rng: torch.Generator, Lq: int, Lk: int, D: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(n, D, generator=rng) for n in (Lq, Lk, Lk))


def _integer(rng: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=rng))


def _tolerance(q: Tensor, k: Tensor, v: Tensor) -> float:
    """Rounding of a score is D products of this size; then Lk terms and a factor a tile add up."""
    D, Lk = k.shape[1], len(k)
    size = (q.abs() @ k.abs().T).max().item() * D**-0.5
    return 2 * EPS * (D * size + 2 * Lk + 8) * max(1.0, v.abs().max().item())


def _compare(answer: Callable, q: Tensor, k: Tensor, v: Tensor, bm: int, bn: int) -> Seen:
    o, lse = (x[0, :, 0].float() for x in oracle(*(x[None, :, None] for x in (q, k, v))))
    given = f"Lq = {len(q)}, Lk = {len(k)}, D = {q.shape[1]}, block_m = {bm}, block_n = {bn}"
    return Seen(
        answer(q, k, v, bm, bn, Traffic()),
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
    bm, bn = _integer(rng, 2, 5), _integer(rng, 2, 5)
    Lq, Lk = (b * _integer(rng, 2, 4) + _integer(rng, 1, b - 1) for b in (bm, bn))
    return _compare(answer, *_draw(rng, Lq, Lk), bm, bn)


def _maximum_moves(answer, rng):
    q, k, v = _draw(rng, 6, 12)
    q, k = q.abs() + 0.5, torch.linspace(0.2, 2.0, 12)[:, None] * (k.abs() + 0.5)
    return _compare(answer, q, k, v, 4, 3)


def _huge_scores(answer, rng):
    q, k, v = _draw(rng, 5, 9)
    q[:, 0], k[:, 0] = 200 * 8**0.5, 1.0
    q[0, 0] = -200 * 8**0.5
    return _compare(answer, q, k, v, 2, 4)


def _moves(answer, rng):
    Lq, Lk, bm, bn = 10, _integer(rng, 9, 15), 4, 5
    q, k, v = _draw(rng, Lq, Lk)
    traffic = Traffic()
    answer(q, k, v, bm, bn, traffic)
    got = {f"{n} loaded": traffic.loads[n] for n in "qkv"}
    got |= {f"{n} stored": traffic.stores[n] for n in ("o", "lse")}
    walks = math.ceil(Lq / bm)
    wanted = {"q loaded": q.numel(), "k loaded": walks * k.numel(), "v loaded": walks * v.numel()}
    wanted |= {"o stored": q.numel(), "lse stored": Lq}
    return Seen(got, wanted, f"Lq = {Lq}, Lk = {Lk}, D = 8, block_m = {bm}, block_n = {bn}")


def _with_fault(wrong: str) -> Callable:
    """The tile loop with one fault in it."""

    def answer(q, k, v, block_m, block_n, traffic):
        if wrong == "nothing reported":
            traffic = Traffic()
        Lq, Lk, D = len(q), len(k), q.shape[1]
        o, lse = torch.empty(Lq, D), torch.empty(Lq)
        scale = 1.0 if wrong == "no scale" else D**-0.5
        key_tiles = Lk // block_n if wrong == "tail dropped" else math.ceil(Lk / block_n)
        for i in range(math.ceil(Lq / block_m)):
            rows = slice(i * block_m, (i + 1) * block_m)
            q_i = q[rows] if wrong == "q reloaded" else traffic.load("q", q[rows])
            state = torch.full((len(q_i),), -math.inf), torch.zeros(len(q_i)), torch.zeros(1, D)
            for j in range(key_tiles):
                if wrong == "q reloaded":
                    traffic.load("q", q_i)
                cols = slice(j * block_n, (j + 1) * block_n)
                k_j, v_j = traffic.load("k", k[cols]), traffic.load("v", v[cols])
                state = _step(state, scale * q_i @ k_j.T, v_j, wrong)
            m, l, acc = state
            o[rows] = (
                acc if wrong in ("never divided", "divided in every tile") else acc / l[:, None]
            )
            lse[rows] = l.log() + (0.0 if wrong == "lse without m" else m)
            traffic.store("o", o[rows]), traffic.store("lse", lse[rows])
        return o, lse

    return answer


def _step(
    state: tuple[Tensor, Tensor, Tensor], s: Tensor, v_j: Tensor, wrong: str
) -> tuple[Tensor, Tensor, Tensor]:
    m, l, acc = state
    top = s.max() if wrong == "one maximum for all" else s.amax(-1)
    m_new = torch.zeros_like(m) if wrong == "no maximum" else torch.maximum(m, top)
    c, p = torch.exp(m - m_new), torch.exp(s - m_new[:, None])
    l = (1.0 if wrong == "nothing rescaled" else c) * l + p.sum(-1)
    keep = 1.0 if wrong in ("nothing rescaled", "acc not rescaled") else c[:, None]
    acc = keep * acc + p @ v_j
    return m_new, l, acc / l[:, None] if wrong == "divided in every tile" else acc


def _keys_outside(q, k, v, block_m, block_n, traffic):
    """Right numbers, FlashAttention-1's order: every query tile comes in for every key tile."""
    o, lse = torch.zeros_like(q), torch.full((len(q),), -math.inf)
    for j in range(0, len(k), block_n):
        k_j, v_j = traffic.load("k", k[j : j + block_n]), traffic.load("v", v[j : j + block_n])
        for i in range(0, len(q), block_m):
            rows = slice(i, i + block_m)
            s = traffic.load("q", q[rows]) @ k_j.T * q.shape[1] ** -0.5
            total = torch.logaddexp(lse[rows], s.logsumexp(-1))
            keep = torch.exp(lse[rows] - total)[:, None]
            o[rows] = keep * o[rows] + torch.exp(s - total[:, None]) @ v_j
            lse[rows] = total
    traffic.store("o", o), traffic.store("lse", lse)
    return o, lse


def _by_logaddexp(q, k, v, block_m, block_n, traffic):
    """Another right answer: carries the normalised o and lse instead of m, l, acc."""
    parts = []
    for q_i in q.split(block_m):
        q_i = traffic.load("q", q_i)
        o, lse = torch.zeros_like(q_i), torch.full((len(q_i),), -math.inf)
        for k_j, v_j in zip(k.split(block_n), v.split(block_n), strict=True):
            s = q_i @ traffic.load("k", k_j).T / math.sqrt(q.shape[1])
            total = torch.logaddexp(lse, s.logsumexp(-1))
            o = torch.exp(lse - total)[:, None] * o
            o += torch.exp(s - total[:, None]) @ traffic.load("v", v_j)
            lse = total
        parts.append((traffic.store("o", o), traffic.store("lse", lse)))
    o, lse = (torch.cat(x) for x in zip(*parts, strict=True))
    return o, lse


def _mistake(name: str, says: str, see: str = "") -> Mistake:
    return Mistake(name, says, _with_fault(name), see)


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
        Property("huge scores", "scores near 200 and near -200", _huge_scores),
        Property("what moves", "q in, o and lse out once; k, v once a query tile", _moves),
    ),
    mistakes=(
        _mistake(
            "nothing rescaled",
            "This is what comes out if l and acc are carried from tile to tile **without the "
            "correction**: when m grows, what was summed before is still measured from the old m.",
        ),
        _mistake(
            "acc not rescaled",
            "l is corrected when the maximum moves, but **acc is not**. Both are sums over the "
            "same exponentials, so both need the factor.",
        ),
        _mistake(
            "divided in every tile",
            "acc is **divided by l in every tile**, and then used as if it were not. Either undo "
            "the old division first, as FlashAttention-1 does, or divide once at the end.",
            "4 · What FlashAttention-2 changed",
        ),
        _mistake(
            "never divided",
            "acc is returned **without the division by l**: a weighted sum, not a weighted mean.",
        ),
        _mistake("no scale", "The scores are not multiplied by **1/√D**."),
        _mistake(
            "lse without m",
            "lse is log l alone. l is measured from m, so the logarithm of the true denominator is "
            "**m + log l**.",
        ),
        _mistake(
            "no maximum",
            "The exponentials are taken of the **bare scores**, no maximum subtracted: that holds "
            "for small scores, and overflows beyond 88 in fp32.",
        ),
        _mistake(
            "one maximum for all",
            "m is **one number for the whole tile** here. A row far below it underflows to 0 / 0: "
            "each query needs a maximum of its own.",
        ),
        _mistake(
            "tail dropped",
            "The last, short key tile is **never visited**: the number of tiles is Lk / block_n "
            "rounded up, not down.",
        ),
        _mistake(
            "q reloaded",
            "The numbers are right, but the query tile is loaded **for every key tile** again. It "
            "doesn't change in the inner loop: load it once, before.",
            "3 · Count what moves",
        ),
        _mistake(
            "nothing reported",
            "The numbers are right, but **no tile was reported**. Take every tile through "
            "`traffic.load(name, tile)`, and give o and lse to `traffic.store(name, tile)`.",
            "3 · Count what moves",
        ),
        Mistake(
            "keys outside",
            "The numbers are right, but the loops stand as in FlashAttention-1, **keys outside**: "
            "K and V come in once, and q once for every key tile.",
            _keys_outside,
            "3 · Count what moves",
        ),
    ),
    alternative=_by_logaddexp,
)
