"""Exercise 4.1: the tile loop of FlashAttention-2, for one head."""

import math

import torch

from course.check.draw import integer
from course.check.lesson_04.traffic import (
    by_logaddexp,
    counted,
    far_from_zero,
    growing,
    head,
    scores_at_once,
    seen,
    worked_examples,
)
from course.check.spec import Exercise, also_right, holds, mistake, right, slip

TILES = "2 · One tile at a time"
COUNT = "3 · Count what moves"


@right
def flash_attention_head(q, k, v, block_m, block_n, traffic):
    (Lq, D), Lk = q.shape, len(k)
    o, lse = torch.empty(Lq, D), torch.empty(Lq)
    for i in range(math.ceil(Lq / block_m)):
        rows = slice(i * block_m, (i + 1) * block_m)
        q_i = traffic.load("q", q[rows])
        m = torch.full((len(q_i),), -torch.inf)
        l, acc = torch.zeros(len(q_i)), torch.zeros(len(q_i), D)
        for j in range(math.ceil(Lk / block_n)):
            cols = slice(j * block_n, (j + 1) * block_n)
            k_j, v_j = traffic.load("k", k[cols]), traffic.load("v", v[cols])
            scores = q_i @ k_j.T * D**-0.5
            m_new = torch.maximum(m, scores.amax(-1))
            correction, p = torch.exp(m - m_new), torch.exp(scores - m_new[:, None])
            l = correction * l + p.sum(-1)
            acc = correction[:, None] * acc + p @ v_j
            m = m_new
        o[rows], lse[rows] = acc / l[:, None], m + l.log()
        traffic.store("o", o[rows]), traffic.store("lse", lse[rows])
    return o, lse


also_right(by_logaddexp)


@holds("the example by hand, and a key alone: o is its value")
def by_hand(answer, rng):
    return worked_examples(answer)


@holds("both lengths fit in one tile: plain softmax attention")
def one_tile(answer, rng):
    return seen(answer, *head(rng, 3, 5, integer(rng, 3, 7)), 4, 8)


@holds("one query, one key, D = 1, tiles of 1")
def ones(answer, rng):
    return [
        seen(answer, *head(rng, Lq, Lk, D), bm, bn)
        for Lq, Lk, D, bm, bn in (
            (1, 7, 3, 4, 3),
            (5, 1, 3, 2, 4),
            (3, 5, 1, 2, 2),
            (3, 4, 5, 1, 1),
        )
    ]


@holds("2 query tiles × 4 key tiles")
def whole_tiles(answer, rng):
    return seen(answer, *head(rng, 8, 12), 4, 3)


@holds("the last tiles are short, on both sides")
def odd_tails(answer, rng):
    bm, bn = integer(rng, 2, 5), integer(rng, 2, 5)
    Lq, Lk = (b * integer(rng, 2, 4) + integer(rng, 1, b - 1) for b in (bm, bn))
    return seen(answer, *head(rng, Lq, Lk, integer(rng, 9, 20)), bm, bn)


@holds("later tiles have larger scores")
def the_maximum_moves(answer, rng):
    return growing(answer, rng)


@holds("near ±200 in one tile, -2000, and ±2000")
def huge_scores(answer, rng):
    return far_from_zero(answer, rng)


@holds("q in, o and lse out once; k, v once per query tile")
def what_moves(answer, rng):
    Lk, bm, bn = integer(rng, 9, 15), 4, 5
    return [counted(answer, *head(rng, Lq, Lk), bm, bn) for Lq in (10, 8)]


@holds("the scores of one tile are all there is")
def never_whole(answer, rng):
    return scores_at_once(answer, rng)


slip(
    "nothing rescaled",
    "This is what you get if l and acc are carried from tile to tile **without the correction**: "
    "when m grows, what was summed before is still measured from the old m.",
    ("torch.exp(m - m_new)", "torch.ones_like(m)"),
)
slip(
    "acc not rescaled",
    "l is corrected when the maximum moves, but **acc is not**. Both are sums over the same "
    "exponentials, so both need the factor.",
    ("correction[:, None] * acc", "acc"),
)
slip(
    "divided in every tile",
    "acc is **divided by l in every tile**, and then used as if it had not been. Either undo the "
    "old division first, as FlashAttention-1 does, or divide once at the end.",
    ("correction[:, None] * acc + p @ v_j", "(correction[:, None] * acc + p @ v_j) / l[:, None]"),
    ("acc / l[:, None]", "acc"),
    see="4 · What FlashAttention-2 changed",
)
slip(
    "never divided",
    "acc is returned **without the division by l**: a weighted sum, not a weighted mean.",
    ("acc / l[:, None]", "acc"),
)
slip("no scale", "The scores are not multiplied by **1/√D**.", (" * D**-0.5", ""))
slip(
    "lse without m",
    "lse is only log l. l is measured from m, so the logarithm of the true denominator is **m + "
    "log l**.",
    ("m + l.log()", "l.log()"),
)
slip(
    "no maximum",
    "The exponentials are taken of the **bare scores**, with no maximum subtracted: that works for "
    "small scores, and overflows above 88 in fp32.",
    ("torch.maximum(m, scores.amax(-1))", "torch.zeros_like(m)"),
)
slip(
    "m starts at 0",
    "m starts at **0, or another finite number**: in a row whose scores all lie far below it, "
    "every exponential underflows, and 0 / 0 is NaN. Start at -∞.",
    ("-torch.inf", "0.0"),
)
slip(
    "the smallest score",
    "m is **the smallest score of a tile**, not the largest. A score more than 88 above it "
    "overflows in exp; measured from the largest, none exceeds 1.",
    ("scores.amax(-1)", "scores.amin(-1)"),
)
slip(
    "correction upside down",
    "The correction is **upside down**: exp(m_new - m) enlarges what should shrink (and is "
    "infinite at first, while m = -∞). Old sums are measured from m, new ones from m_new.",
    ("torch.exp(m - m_new)", "torch.exp(m_new - m)"),
)
slip(
    "m never renewed",
    "m **stays -∞**: after each tile it must become m_new. As it is, the correction is 0 every "
    "time, and only the last key tile counts.",
    ("            m = m_new\n", ""),
)
slip(
    "p from the tile's maximum",
    "p is measured from the **maximum of its own tile**, but l and acc from m_new. All three must "
    "be measured from the same number: m_new.",
    ("m_new[:, None]", "scores.amax(-1, keepdim=True)"),
)
slip(
    "state set up once",
    "m, l and acc are set up **once, before the loop over queries**: the second query tile "
    "continues from the first one's sums. Each query tile needs its own state.",
    ("        m = torch.full((len(q_i),), -torch.inf)\n", ""),
    ("        l, acc = torch.zeros(len(q_i)), torch.zeros(len(q_i), D)\n", ""),
    (
        "    for i",
        "    m = torch.full((block_m,), -torch.inf)\n"
        "    l, acc = torch.zeros(block_m), torch.zeros(block_m, D)\n"
        "    for i",
    ),
)
slip(
    "no logarithm",
    "lse is m + l. m is a score, l a sum of exponentials: what adds to m is **log l**.",
    ("m + l.log()", "m + l"),
)
slip(
    "log2", "lse must be a **natural** logarithm; here log2 is taken of l.", ("l.log()", "l.log2()")
)
slip(
    "one maximum for all",
    "m is **one number for the whole tile** here. A row far below it underflows to 0 / 0: each "
    "query needs its own maximum.",
    ("scores.amax(-1)", "scores.max()"),
)
slip(
    "tail dropped",
    "The last, short key tile is **never visited**: the number of tiles is Lk / block_n rounded "
    "up, not down.",
    ("math.ceil(Lk / block_n)", "Lk // block_n"),
)
slip(
    "rows never written",
    "The rows of the last, short query tile are **never written**: the number of tiles is Lq / "
    "block_m rounded up. `torch.empty` may hold anything; here it holds NaN.",
    ("math.ceil(Lq / block_m)", "Lq // block_m"),
)
slip(
    "both tails dropped",
    "The short tiles at the end are left out, **of queries and of keys**: both tile counts are "
    "rounded up, not down (`math.ceil`, not `//`).",
    ("math.ceil(Lk / block_n)", "Lk // block_n"),
    ("math.ceil(Lq / block_m)", "Lq // block_m"),
)
slip(
    "q reloaded",
    "The numbers are right, but the query tile is loaded again **for every key tile**. It doesn't "
    "change in the inner loop: load it once, before that loop.",
    ('traffic.load("q", q[rows])', "q[rows]"),
    ("scores = q_i", 'scores = traffic.load("q", q_i)'),
    see=COUNT,
)
slip(
    "nothing reported",
    "The numbers are right, but **no tile was reported**. Pass every tile through "
    "`traffic.load(name, tile)`, and give o and lse to `traffic.store(name, tile)`.",
    ("    (Lq, D), Lk", "    traffic = Traffic()\n    (Lq, D), Lk"),
    see=COUNT,
)
slip(
    "nothing stored",
    "o and lse are right, but **never reported, or under other names**: when a query tile is "
    'finished, give its rows to `traffic.store("o", …)` and `traffic.store("lse", …)`.',
    ('        traffic.store("o", o[rows]), traffic.store("lse", lse[rows])\n', ""),
    see=COUNT,
)
slip(
    "stored in every step",
    "o and lse are stored **after every key tile**. They are final only after the last one; until "
    "then the state stays in fast memory.",
    ("        o[rows], lse", "            o[rows], lse"),
    ("        traffic.store", "            traffic.store"),
    see=COUNT,
)


@mistake(
    "The numbers are right, but k and v are loaded **once and whole**: there are no tiles, so all "
    "the scores exist at once. Walk through k and v for each query tile.",
    see=TILES,
)
def no_tiles(q, k, v, block_m, block_n, traffic):
    q, k, v = (traffic.load(name, x) for name, x in (("q", q), ("k", k), ("v", v)))
    s = q @ k.T * q.shape[1] ** -0.5
    o, lse = traffic.store("o", s.softmax(-1) @ v), traffic.store("lse", s.logsumexp(-1))
    return o, lse


@mistake(
    "The numbers are right, but the loops are nested as in FlashAttention-1, **keys outside**: K "
    "and V are loaded once, and q once for every key tile.",
    see=COUNT,
)
def keys_outside(q, k, v, block_m, block_n, traffic):
    o, lse = torch.zeros_like(q), torch.full((len(q),), -torch.inf)
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


slip(
    "a small number added",
    "A small number such as 1e-6 is **added to l** before the division. It protects from nothing, "
    "since the largest score alone makes l at least 1, and it makes o wrong in the sixth digit.",
    ("acc / l[:, None]", "acc / (l[:, None] + 1e-6)"),
)
slip(
    "scale of one D",
    "The scale is **a fixed number**, right for D = 8 or another one alone. It is 1/√D, of the D "
    "that comes in.",
    ("D**-0.5", "8**-0.5"),
)
slip("divided by D", "The scores are divided by **D**; the scale is 1/√D.", ("* D**-0.5", "/ D"))
slip(
    "l not rescaled",
    "acc is corrected when the maximum moves, but **l is not**. Both are sums over the same "
    "exponentials, so both need the factor.",
    ("correction * l", "l"),
)
slip(
    "one tile too many",
    "With lengths that come out even there is **one query tile too many**, and it walks through "
    "all keys for nothing. Dividing with // and adding 1 is not rounding up.",
    ("math.ceil(Lq / block_m)", "Lq // block_m + 1"),
    see=COUNT,
)
slip(
    "no loop over keys",
    "The numbers are right, but k and v are loaded **whole** for each query tile, and all its "
    "scores exist at once. Load block_n keys at a time.",
    ("block_m, block_n, traffic", "block_m, _, traffic"),
    ("(Lq, D), Lk = q.shape, len(k)", "(Lq, D), Lk = q.shape, len(k)\n    block_n = Lk"),
    see=TILES,
)
slip(
    "acc stored",
    "The numbers returned are right, but acc is stored **before the division by l**. Store what "
    "you return.",
    ('"o", o[rows]', '"o", acc'),
    see=COUNT,
)
slip(
    "scores of all keys",
    "The numbers are right, but the scores of a query tile with **all keys** exist at once: that "
    "is the memory FlashAttention saves. Take each tile into m, l and acc, then let it go.",
    ("q_i @ k_j.T * D**-0.5", "(q_i @ k.T * D**-0.5)[:, cols]"),
    see=TILES,
)
slip(
    "fp64 instead of a maximum",
    "The exponentials are taken **in fp64 instead of from a maximum**. That only moves the limit: "
    "above 709 fp64 overflows too, and below -745 every exponential is 0.",
    ("torch.maximum(m, scores.amax(-1))", "torch.zeros(len(q_i), dtype=torch.float64)"),
    ("p @ v_j", "p @ v_j.double()"),
)

TILE_LOOP = Exercise.of(
    __name__, "4.1 tile loop", title="The tile loop of FlashAttention-2", section=TILES
)
