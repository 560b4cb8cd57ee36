"""Exercise 8.2: many partials, one answer."""

import itertools
import math

import torch

from course.check.draw import integer
from course.check.lesson_08.partial import EPS
from course.check.lesson_08.partial_mistakes import RAGGED, REDUCTION
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip


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
    "plain sum",
    "The splits are **added up**. Each o is a mean already: take their weighted mean, with "
    "exp(lse) as the weights.",
    ("w[..., None] * o_partial", "o_partial"),
    (" / torch.where(total == 0, 1.0, total)[..., None]", ""),
)
slip(
    "the heaviest split alone",
    "The answer is that of **the split with the largest lse** alone. The others count too, only "
    "less.",
    ("(w[", "((lse_partial == m)["),
    (" / torch.where(total == 0, 1.0, total)[..., None]", ""),
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
    "divided by S, too",
    "The weighted sum is divided by **the number of splits**. The weights are divided by their "
    "sum, and by nothing else.",
    ("o_partial).sum(0)", "o_partial).mean(0)"),
)
slip(
    "1e-6 in the denominator",
    "A small number is **added to the sum of the weights**, so that a single split does not come "
    "out unchanged. Only a sum of 0 needs help.",
    ("torch.where(total == 0, 1.0, total)", "(total + 1e-6)"),
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
    "not the largest",
    "What is subtracted before the exponential is **not the largest** lse, but a smaller one. The "
    "exponential of a split far above it overflows, and o is NaN.",
    ("amax", "amin"),
)
slip(
    "first split as maximum",
    "What is subtracted before the exponential is the lse of **the first split**. Another split "
    "may lie far above it, and overflows: subtract the largest.",
    ("lse_partial.amax(0)", "lse_partial[0]"),
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
    "lse is the sum",
    "What you return as lse is **the sum of the shifted weights** itself. Take its logarithm, and "
    "add the maximum back.",
    ("safe + total.log()", "total"),
)
slip(
    "m + l",
    "The lse you return adds **the sum itself** to the maximum. Only its logarithm belongs there.",
    ("safe + total.log()", "safe + total"),
)
slip(
    "lse in base 2",
    "The lse you return is **in base 2**. Outside a kernel it is always the natural logarithm.",
    ("safe + total.log()", "(safe + total.log()) / math.log(2)"),
)
slip(
    "lse mean",
    "The lse you return is **the mean** of the splits' lse. It has to say how much all keys weigh "
    "together: the logarithm of the sum of exp(lse).",
    ("safe + total.log()", "lse_partial.mean(0)"),
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
    "lse safe max",
    "The lse you return is only **the safe copy of the maximum**: it lacks the logarithm of the "
    "sum, and where all splits are empty it is 0 instead of −∞.",
    ("safe + total.log()", "safe"),
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
    ("return o, safe + ", "return o, "),
)
slip(
    "empty lse 0",
    "Where all splits are empty, **lse is 0**: the logarithm is taken of the sum that was made "
    "safe for the division. Of the true sum, 0, it is −∞.",
    ("total.log()", "torch.where(total == 0, 1.0, total).log()"),
    see=RAGGED,
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
    "old o not rescaled",
    "In your loop, **the o gathered so far keeps its size** when a split is added. Its share "
    "shrinks with each: multiply it by exp(old lse − new lse).",
    ("torch.exp(lse - ruler)[..., None] * o ", "o "),
    of=one_after_the_other,
)
slip(
    "factors swapped",
    "In your loop, **the two factors are swapped**: the o gathered so far gets the weight of the "
    "new split, and the new split that of all before.",
    ("lse - ruler", "X"),
    ("lse_s - ruler", "lse - ruler"),
    ("X", "lse_s - ruler"),
    of=one_after_the_other,
)
slip(
    "loop starts at lse 0",
    "Your loop starts from **lse = 0**, which is the log of a sum of 1, as if a key had been seen "
    "already. Nothing seen is −∞.",
    ("torch.full_like(lse_partial[0], -math.inf)", "torch.zeros_like(lse_partial[0])"),
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
