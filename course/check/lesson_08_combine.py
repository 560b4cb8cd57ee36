"""Exercise 8.2: the combine. Its properties and the mistakes people make."""

import itertools
import math

import torch
from torch import Generator, Tensor

from course.check.draw import integer
from course.check.lesson_08_combine_answers import fault, merged, one_after_the_other
from course.check.lesson_08_partial import EPS
from course.check.lesson_08_partial_mistakes import RAGGED
from course.check.spec import Exercise, Mistake, Property, Seen


def ask(answer: object, o: Tensor, lse: Tensor, given: str) -> Seen:
    """Call the answer on S partials; a sum of S terms is off by at most S roundings.

    An lse of size 200 is itself only known to 200 roundings, and so are the weights made from it.
    """
    finite = lse[lse.isfinite()].abs()
    size = max([1.0, *finite.flatten().tolist()]) * max(1.0, o.abs().max().item())
    return Seen(
        answer(o, lse), merged(o, lse), given, atol=EPS * (len(o) + 4) * size,
        rtol=EPS * (len(o) + 4), names=("o", "lse"), any_dtype=True,
    )  # fmt: skip


def partials(rng: Generator, *shape: int) -> tuple[Tensor, Tensor]:
    """Return random partials: o of `shape`, lse of `shape` without the last dimension, around 5."""
    o = torch.randn(*shape, generator=rng)
    return o, 5.0 + 2.0 * torch.randn(*shape[:-1], generator=rng)


def _by_hand(answer: object, rng: Generator) -> Seen:
    o, lse = torch.tensor([[4.0], [3.0], [12.0]]), torch.tensor([4.0, 10.0, 2.0]).log()
    return ask(answer, o, lse, "o = [[4], [3], [12]], lse = log [4, 10, 2]")


def _alone(answer: object, rng: Generator) -> Seen:
    return ask(answer, *partials(rng, 1, 3, 4), "a single split")


def _like_attention(answer: object, rng: Generator) -> Seen:
    """Cut 40 keys at random places, and compare with the softmax over all of them."""
    scores, values = 3 * torch.randn(40, generator=rng), torch.randn(40, 6, generator=rng)
    cuts = sorted({0, 40, *(integer(rng, 1, 39) for _ in range(4))})
    parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    o = torch.stack([torch.softmax(scores[p], 0) @ values[p] for p in parts])
    lse = torch.stack([scores[p].logsumexp(0) for p in parts])
    whole = torch.softmax(scores.double(), 0) @ values.double(), scores.double().logsumexp(0)
    wanted = tuple(x.float() for x in whole)
    bound = (
        EPS * (40 + len(parts)) * max(1.0, scores.abs().max().item()) * values.abs().max().item()
    )
    given = f"40 keys in {len(parts)} splits of unequal size"
    return Seen(answer(o, lse), wanted, given, atol=bound, rtol=bound, names=("o", "lse"),
                any_dtype=True)  # fmt: skip


def _dimensions(answer: object, rng: Generator) -> Seen:
    S, Hq = integer(rng, 3, 6), integer(rng, 2, 4)
    o, lse = partials(rng, S, 2, 3, Hq, 8)
    return ask(answer, o, lse, f"S = {S}, B = 2, Lq = 3, Hq = {Hq}, D = 8")


def _far_apart(answer: object, rng: Generator) -> Seen:
    o, lse = partials(rng, 4, 3, 8)
    shift = torch.tensor([200.0, -200.0, 0.0])
    return ask(answer, o, lse + shift, "3 rows: lse around 200, around −200, around 5")


def _some_empty(answer: object, rng: Generator) -> Seen:
    o, lse = partials(rng, 5, 4, 8)
    gone = torch.rand(5, 4, generator=rng) < 0.4
    gone[0, :2], gone[:, 0] = True, torch.arange(5) != 2  # row 0 keeps one split, not the first
    gone[3] = False
    gone[3, 0] = True
    o[gone], lse[gone] = 0.0, -math.inf
    return ask(answer, o, lse, "some empty splits: (0, −inf)")


def _all_empty(answer: object, rng: Generator) -> Seen:
    o, lse = partials(rng, 3, 2, 4)
    o[:, 0], lse[:, 0] = 0.0, -math.inf
    return ask(answer, o, lse, "only empty splits, (0, −inf), in row 0; row 1 is not empty")


COMBINE_MISTAKES = (
    (
        "mean",
        "This is the plain mean of the splits. A split whose keys match the query well must count "
        "for more: exp(lse) says how much.",
        "4 · Reduction",
    ),
    (
        "mean of non-empty",
        "This is the plain mean of the splits that are not empty. Leaving the empty ones "
        "out is right, but the others don't count equally: their weights are exp(lse).",
        "4 · Reduction",
    ),
    (
        "by lse",
        "The weights are the lse values themselves. lse is a logarithm: the amount it stands for "
        "is exp(lse).",
        "4 · Reduction",
    ),
    (
        "not divided",
        "The weights are never divided by their sum, so they don't add up to 1.",
        "4 · Reduction",
    ),
    (
        "no max",
        "exp(lse) is computed with nothing subtracted: at lse = 200 it overflows, at −200 it is "
        "0. Subtract the largest lse of the splits first: it cancels.",
        "",
    ),
    (
        "no max, safe division",
        "No maximum is subtracted before exp(lse). At 200 it overflows and o is NaN; at −200 all "
        "weights are 0, and guarding the division then turns a real row into an empty one.",
        "",
    ),
    (
        "max of all rows",
        "The maximum is taken over everything. A row whose lse values are all far below another "
        "row's then gets only zeros: each row needs its own maximum, over its splits.",
        "",
    ),
    (
        "softmax of the wrong dim",
        "The weights are a softmax over the last dimension, so they compare query heads with each "
        "other. The splits are the first dimension.",
        "",
    ),
    (
        "exp(lse)",
        "What you return as lse is the sum itself. Take its logarithm.",
        "",
    ),
    (
        "base 2",
        "The weights are powers of 2. lse is a natural logarithm, so the weights are powers of e.",
        "",
    ),
    (
        "lse max",
        "The lse you return is the largest of the splits' lse, not the log-sum-exp of all of them.",
        "",
    ),
    (
        "lse sum",
        "The lse values of the splits are added. Adding logarithms multiplies the sums: add the "
        "sums, then take the log.",
        "",
    ),
    (
        "lse without max",
        "The lse you return lacks the maximum that was subtracted before the exponential.",
        "",
    ),
    (
        "nothing",
        "A row whose splits are all empty gets NaN: the largest lse is −∞, and −∞ − (−∞) is not a "
        "number. Subtract a safe copy of the maximum.",
        RAGGED,
    ),
    (
        "pairwise from the first",
        "NaN appears where two empty splits meet in your loop: their merged lse is −∞, and −∞ − "
        "(−∞) is not a number. Where it is −∞, subtract 0 instead.",
        RAGGED,
    ),
    (
        "pairwise from nothing",
        "Your loop starts from (0, −∞), and meeting an empty split there gives NaN: the lse of "
        "both is −∞, and −∞ − (−∞) is not a number. Where the merged lse is −∞, subtract 0 "
        "instead.",
        RAGGED,
    ),
    (
        "0 / 0",
        "A row whose splits are all empty gets NaN in o: all its weights are 0, and 0 / 0 is not "
        "a number (torch.softmax of nothing but −∞ does exactly that). Its o should be 0.",
        RAGGED,
    ),
)

COMBINE = Exercise(
    id="8.2",
    name="combine",
    title="Many partials, one answer",
    section="4 · Reduction",
    solution_name="combine",
    properties=(
        Property("by hand", "the lesson's three splits: o = 4.375, lse = log 16", _by_hand),
        Property("one split", "with nothing to merge, nothing changes", _alone),
        Property(
            "like attention",
            "random cuts, compared with the softmax over all keys",
            _like_attention,
        ),
        Property("dimensions", "o (S, B, Lq, Hq, D), lse (S, B, Lq, Hq)", _dimensions),
        Property("far from zero", "rows with lse around +200 and around −200", _far_apart),
        Property("some empty", "empty splits anywhere, including the first", _some_empty, RAGGED),
        Property("all empty", "a row of empty splits gives (0, −inf)", _all_empty, RAGGED),
    ),
    mistakes=tuple(Mistake(name, says, fault(name), see) for name, says, see in COMBINE_MISTAKES),
    alternative=one_after_the_other,
)
