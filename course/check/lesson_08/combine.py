"""Exercise 8.2: many partials, one answer."""

import itertools
import math

import torch

from course.check.draw import integer
from course.check.lesson_08.partial import EPS, RAGGED
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip

REDUCTION = "4 · Reduction"


@right
def combine(o_partial, lse_partial):
    m = lse_partial.amax(0)  # (...)
    safe = torch.where(m == -torch.inf, 0.0, m)
    w = torch.exp(lse_partial - safe)  # (S, ...), 0 for an empty split
    total = w.sum(0)
    o = (w[..., None] * o_partial).sum(0) / torch.where(total == 0, 1.0, total)[..., None]
    return o, safe + total.log()


@also_right
def one_after_the_other(o_partial, lse_partial):
    o, lse = torch.zeros_like(o_partial[0]), torch.full_like(lse_partial[0], -math.inf)
    for o_s, lse_s in zip(o_partial, lse_partial, strict=True):
        new = torch.logaddexp(lse, lse_s)
        ruler = torch.where(new == -math.inf, 0.0, new)
        o = torch.exp(lse - ruler)[..., None] * o + torch.exp(lse_s - ruler)[..., None] * o_s
        lse = new
    return o, lse


def merged(o_partial, lse_partial):
    """Return the combined (o, lse), computed in fp64: the reference."""
    lse = torch.logsumexp(lse_partial.double(), 0)
    weights = torch.exp(lse_partial.double() - torch.where(lse == -math.inf, 0.0, lse))
    return (weights[..., None] * o_partial.double()).sum(0).float(), lse.float()


def tolerance(o, lse):
    """The `atol` and `rtol` that a correct merge of these partials needs.

    A sum of S terms is off by at most S roundings. An lse of size 200 is itself only known to
    200 roundings, and so are the weights made from it.
    """
    finite = lse[lse.isfinite()].abs()
    size = max([1.0, *finite.flatten().tolist()]) * max(1.0, o.abs().max().item())
    roundings = EPS * (len(o) + 4)
    return {"atol": roundings * size, "rtol": roundings}


def seen(answer, o, lse, given, wanted=None, **near):
    """Call the answer on S partials. near: the tolerances, if those of `tolerance` don't do."""
    wanted, near = wanted or merged(o, lse), near or tolerance(o, lse)
    names = "o", "lse"
    return Seen.of(
        answer, (o, lse), wanted=wanted, given=given, names=names, any_dtype=True, **near
    )


def partials(rng, *shape):
    """Return random partials: o of `shape`, lse of `shape` without the last dimension, around 5."""
    o = torch.randn(*shape, generator=rng)
    return o, 5.0 + 2.0 * torch.randn(*shape[:-1], generator=rng)


@holds("the lesson's three splits: o = 4.375, lse = log 16")
def by_hand(answer, rng):
    o, lse = torch.tensor([[4.0], [3.0], [12.0]]), torch.tensor([4.0, 10.0, 2.0]).log()
    return seen(answer, o, lse, "o = [[4], [3], [12]], lse = log [4, 10, 2]")


@holds("with nothing to merge, nothing changes")
def one_split(answer, rng):
    """Not even by 1e-6 in a denominator."""
    return seen(answer, *partials(rng, 1, 3, 4), "a single split", atol=1e-7, rtol=4 * EPS)


@holds("random cuts, compared with the softmax over all keys")
def like_attention(answer, rng):
    scores, values = 3 * torch.randn(40, generator=rng), torch.randn(40, 6, generator=rng)
    cuts = sorted({0, 40, *(integer(rng, 1, 39) for _ in range(4))})
    parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    o = torch.stack([torch.softmax(scores[p], 0) @ values[p] for p in parts])
    lse = torch.stack([scores[p].logsumexp(0) for p in parts])
    whole = torch.softmax(scores.double(), 0) @ values.double(), scores.double().logsumexp(0)
    size = max(1.0, scores.abs().max().item()) * values.abs().max().item()
    bound = EPS * (40 + len(parts)) * size
    given = f"40 keys in {len(parts)} splits of unequal size"
    return seen(answer, o, lse, given, tuple(x.float() for x in whole), atol=bound, rtol=bound)


@holds("o (S, B, Lq, Hq, D), lse (S, B, Lq, Hq)")
def dimensions(answer, rng):
    S, Hq = integer(rng, 3, 6), integer(rng, 2, 4)
    o, lse = partials(rng, S, 2, 3, Hq, 8)
    return seen(answer, o, lse, f"S = {S}, B = 2, Lq = 3, Hq = {Hq}, D = 8")


@holds("lse around ±1000, in all splits of a row or in one")
def far_from_zero(answer, rng):
    """Too far for fp64; and where one split lies far from the first, that one is no ruler."""
    o, lse = partials(rng, 4, 3, 8)
    shift = torch.tensor([1000.0, -1000.0, 0.0])
    alone = torch.zeros(4, 3)
    alone[0, 0], alone[2, 1], alone[3, 2] = -1000.0, 1000.0, -1000.0
    return [
        seen(answer, o, lse + shift, "3 rows: lse around 1000, around −1000, around 5"),
        seen(answer, o, lse + alone, "in each row, one split's lse is around 1000 or −1000"),
    ]


@holds("empty splits anywhere, including the first", see=RAGGED)
def some_empty(answer, rng):
    o, lse = partials(rng, 5, 4, 8)
    gone = torch.rand(5, 4, generator=rng) < 0.4
    gone[0, :2], gone[:, 0] = True, torch.arange(5) != 2  # row 0 keeps one split, not the first
    gone[3] = False
    gone[3, 0] = True
    o[gone], lse[gone] = 0.0, -math.inf
    return seen(answer, o, lse, "some empty splits: (0, −inf)")


@holds("a row of empty splits gives (0, −inf)", see=RAGGED)
def all_empty(answer, rng):
    o, lse = partials(rng, 3, 2, 4)
    o[:, 0], lse[:, 0] = 0.0, -math.inf
    return seen(answer, o, lse, "only empty splits, (0, −inf), in row 0; row 1 is not empty")


slip(
    "mean",
    "This is the plain mean of the splits. A split whose keys match the query well must count "
    "for more: exp(lse) says how much.",
    ("(w[..., None] * o_partial).sum(0)", "o_partial.mean(0)"),
    (" / torch.where(total == 0, 1.0, total)[..., None]", ""),
    see=REDUCTION,
)
slip(
    "mean of non-empty",
    "This is the plain mean of the splits that are not empty. Leaving the empty ones "
    "out is right, but the others don't count equally: their weights are exp(lse).",
    ("    o = (w", "    there = (lse_partial > -torch.inf).float()\n    o = (there"),
    ("torch.where(total == 0, 1.0, total)", "there.sum(0).clamp(min=1)"),
    see=REDUCTION,
)
slip(
    "by lse",
    "The weights are the lse values themselves. lse is a logarithm: the amount it stands for "
    "is exp(lse).",
    ("(w[", "(lse_partial["),
    ("torch.where(total == 0, 1.0, total)", "lse_partial.sum(0)"),
    see=REDUCTION,
)
slip(
    "not divided",
    "The weights are never divided by their sum, so they don't add up to 1.",
    (" / torch.where(total == 0, 1.0, total)[..., None]", ""),
    see=REDUCTION,
)
slip(
    "no max",
    "exp(lse) is computed with nothing subtracted: at lse = 1000 it overflows, at −1000 it "
    "is 0, in fp64 as well. Subtract the largest lse of the splits first: it cancels.",
    ("torch.where(m == -torch.inf, 0.0, m)", "torch.zeros_like(m)"),
    ("torch.where(total == 0, 1.0, total)", "total"),
)
slip(
    "no max, safe division",
    "No maximum is subtracted before exp(lse). At 1000 it overflows and o is NaN; at −1000 all "
    "weights are 0, and guarding the division then turns a real row into an empty one.",
    ("torch.where(m == -torch.inf, 0.0, m)", "torch.zeros_like(m)"),
)
slip(
    "max of all rows",
    "The maximum is taken over everything. A row whose lse values are all far below another "
    "row's then gets only zeros: each row needs its own maximum, over its splits.",
    ("amax(0)", "amax()"),
)
slip(
    "softmax of the wrong dim",
    "The weights are a softmax over the last dimension, so they compare query heads with each "
    "other. The splits are the first dimension.",
    ("(w[", "(lse_partial.softmax(-1)["),
    (" / torch.where(total == 0, 1.0, total)[..., None]", ""),
)
slip(
    "exp(lse)",
    "What you return as lse is the sum itself. Take its logarithm.",
    ("safe + total.log()", "(safe + total.log()).exp()"),
)
slip(
    "base 2",
    "The weights are powers of 2. lse is a natural logarithm, so the weights are powers of e.",
    ("exp(", "exp2("),
    ("log(", "log2("),
)
slip(
    "lse max",
    "The lse you return is the largest of the splits' lse, not the log-sum-exp of all of them.",
    ("safe + total.log()", "m"),
)
slip(
    "lse sum",
    "The lse values of the splits are added. Adding logarithms multiplies the sums: add the "
    "sums, then take the log.",
    ("safe + total.log()", "lse_partial.sum(0)"),
)
slip(
    "lse without max",
    "The lse you return lacks the maximum that was subtracted before the exponential.",
    ("safe + total.log()", "total.log()"),
)
slip(
    "nothing",
    "A row whose splits are all empty gets NaN: the largest lse is −∞, and −∞ − (−∞) is not a "
    "number. Subtract a safe copy of the maximum.",
    ("torch.where(m == -torch.inf, 0.0, m)", "m"),
    see=RAGGED,
)
slip(
    "pairwise from the first",
    "NaN appears where two empty splits meet in your loop: their merged lse is −∞, and −∞ − "
    "(−∞) is not a number. Where it is −∞, subtract 0 instead.",
    ("torch.zeros_like(o_partial[0])", "o_partial[0]"),
    ("torch.full_like(lse_partial[0], -math.inf)", "lse_partial[0]"),
    ("zip(o_partial, lse_partial", "zip(o_partial[1:], lse_partial[1:]"),
    ("torch.where(new == -math.inf, 0.0, new)", "new"),
    see=RAGGED,
    of=one_after_the_other,
)
slip(
    "pairwise from nothing",
    "Your loop starts from (0, −∞), and meeting an empty split there gives NaN: the lse of both is "
    "−∞, and −∞ − (−∞) is not a number. Where the merged lse is −∞, subtract 0 instead.",
    ("torch.where(new == -math.inf, 0.0, new)", "new"),
    see=RAGGED,
    of=one_after_the_other,
)
slip(
    "0 / 0",
    "A row whose splits are all empty gets NaN in o: all its weights are 0, and 0 / 0 is not "
    "a number (torch.softmax of nothing but −∞ does exactly that). Its o should be 0.",
    ("torch.where(total == 0, 1.0, total)", "total"),
    see=RAGGED,
)

COMBINE = Exercise.of(__name__, "8.2 combine", title="Many partials, one answer", section=REDUCTION)
