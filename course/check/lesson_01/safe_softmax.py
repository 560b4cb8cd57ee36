"""Exercise 1.1: a softmax that cannot overflow, and its log-sum-exp."""

import math

import torch

from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip

FLOORS = -1e4, -6e4, -1e9, -1e30, torch.finfo(torch.float32).min  # taken for -inf
OVERFLOW = "2 · When exp overflows"
# fp32. A sum of at most 9 terms with exponents down to -16 costs under 32 eps. Computing p as
# exp(scores - lse) adds the rounding of lse: eps/2 · 256 for scores around 200. Twice both.
TOLERANCE = 512 * torch.finfo(torch.float32).eps


@right
def safe_softmax(scores):
    m = scores.amax(-1, keepdim=True)
    safe_m = torch.where(m == -math.inf, 0.0, m)  # -inf - (-inf) would be nan
    weights = torch.exp(scores - safe_m)
    total = weights.sum(-1, keepdim=True)
    p = weights / torch.where(total == 0, 1.0, total)
    return p, (safe_m + total.log()).squeeze(-1)


@also_right
def by_logsumexp(scores):
    """The weights from the finished lse."""
    lse = torch.logsumexp(scores, dim=-1)
    empty = torch.isinf(lse) & (lse < 0)
    return torch.exp(scores - lse.masked_fill(empty, 0.0).unsqueeze(-1)), lse


def seen(answer, scores, tolerance=TOLERANCE):
    exact = scores.double()
    lse = torch.logsumexp(exact, -1)
    p = torch.exp(exact - torch.where(lse == -math.inf, 0.0, lse)[..., None])
    wanted, near = (p.float(), lse.float()), {"atol": tolerance, "rtol": tolerance}
    return Seen.of(answer, (scores,), wanted=wanted, names=("p", "lse"), **near)


@holds("four scores of ordinary size")
def one_row(answer, rng):
    return seen(answer, torch.randn(4, generator=rng))


@holds("any number of dimensions; each row on its own")
def many_rows(answer, rng):
    shapes = (3, 7), (2, 3, 2, 5), (1, 4, 1)
    found = [seen(answer, 2 * torch.randn(shape, generator=rng)) for shape in shapes]
    return [*found, seen(answer, torch.randn(9, 3, generator=rng).T)]


@holds("scores near 200 and near -200, and of both signs")
def large_scores(answer, rng):
    scores = torch.randn(2, 4, generator=rng)
    spread = torch.tensor([0.0, 60, -60, 0])  # only the smallest lies 88 or more below another
    return [seen(answer, scores + shift) for shift in (200, -200, spread)]


@holds("one row near -200, one near 0, one near 200")
def rows_far_apart(answer, rng):
    return seen(answer, torch.randn(3, 2, generator=rng) + torch.tensor([[-200.0], [0], [200]]))


@holds("some scores are -inf: their weight is 0")
def hidden_keys(answer, rng):
    scores = torch.randn(2, 4, generator=rng)
    for row in scores:
        row[torch.randperm(4, generator=rng)[:2]] = -math.inf
    return seen(answer, scores)


@holds("near 1000, near -1000, and far beyond")
def scores_of_any_size(answer, rng):
    """In the second half one key has all the weight: p and lse are exact."""
    found = [seen(answer, torch.randn(2, 4, generator=rng) + near) for near in (1000, -1000)]
    for largest, other in ((3e4, 29e3), (-3e4, -31e3), (1e30, 0.0), (-1e32, -2e32)):
        row = torch.tensor([largest, other, other, -math.inf])
        row = row[torch.randperm(4, generator=rng)]
        found.append(seen(answer, row, 2 * torch.finfo(torch.float32).eps))
    return found


@holds("all scores are -inf: p = 0, lse = -inf")
def a_row_without_keys(answer, rng):
    scores = torch.randn(2, 3, generator=rng)
    empty = int(torch.randint(2, (), generator=rng))
    scores[empty] = -math.inf
    return [seen(answer, scores), seen(answer, scores[empty])]


slip(
    "not shifted",
    "The scores go into exp **as they are**. In fp32 that overflows above 88.7, and far "
    "below zero everything rounds to 0, which gives 0 / 0.",
    ("torch.where(m == -math.inf, 0.0, m)", "0.0"),
    ("torch.where(total == 0, 1.0, total)", "total"),
    see=OVERFLOW,
)
slip(
    "one maximum for all rows",
    "This is what you get with **one maximum for the whole tensor**. A row that lies "
    "far below it then has nothing but zeros to divide: each row needs its own.",
    ("torch.where(m == -math.inf, 0.0, m)", "scores.max()"),
    ("torch.where(total == 0, 1.0, total)", "total"),
    see=OVERFLOW,
)
slip(
    "one maximum, divided safely",
    "This is what you get with **one maximum for the whole tensor**: a row far below it "
    "gets weights of 0, as if all its keys were hidden. Each row needs its own maximum.",
    ("torch.where(m == -math.inf, 0.0, m)", "scores.max()"),
    see=OVERFLOW,
)
slip(
    "maximum at least 0",
    "The maximum is **never allowed below 0**. Rows of very negative scores are then not "
    "shifted, and all their weights round to 0. Only -inf needs a stand-in.",
    ("torch.where(m == -math.inf, 0.0, m)", "m.clamp(min=0)"),
    see=OVERFLOW,
)
slip(
    "over the first dimension",
    "The softmax runs over the **first** dimension. Keys are in the last one; the first "
    "holds queries, heads or batch, which have nothing to do with each other.",
    ("(-1", "(0"),
)
slip(
    "-inf - (-inf)",
    "Everything is right except in a row without keys. Its maximum is -inf, and **-inf "
    "minus -inf is not a number**: subtract a finite stand-in there.",
    ("torch.where(m == -math.inf, 0.0, m)", "m"),
)
slip(
    "lse of an empty row is 0",
    "Here **the lse of an empty row is 0**. Either the guarded sum (1 instead of 0) went "
    "into the logarithm, or NaN was replaced by 0. Take the log of the unguarded sum.",
    ("total.log()", "torch.where(total == 0, 1.0, total).log()"),
)
slip(
    "a little added to the sum",
    "**A small number was added to the sum** to avoid dividing by 0. The lse of an "
    "empty row is then finite instead of -inf: it claims a weight.",
    ("weights.sum(-1, keepdim=True)", "weights.sum(-1, keepdim=True) + 1e-6"),
)
slip(
    "0 / 0",
    "The maximum is safe, but a row without keys has a **sum of 0, and is divided by it**. "
    "Its lse is right already; only the division needs care.",
    ("torch.where(total == 0, 1.0, total)", "total"),
)
for floor in FLOORS:
    slip(
        f"{floor:,.5g} for -inf",
        f"This is what you get if -inf is replaced by **{floor:,.5g}**, or by a number like it. It "
        "is still a score: a row of nothing else spreads its weight evenly over hidden keys.",
        ("    m =", f"    scores = scores.masked_fill(scores == -math.inf, {floor})\n    m ="),
    )
slip(
    "lse without the maximum",
    "p is right. For lse the **maximum was not added back**: this is the logarithm of the "
    "denominator of the shifted scores, not of the true ones.",
    ("safe_m + total", "total"),
)
slip(
    "maximum subtracted",
    "p is right. For lse the maximum was **subtracted instead of added**: the sum had "
    "lost a factor of e to the m, so the logarithm needs m added back.",
    ("safe_m + total", "-safe_m + total"),
)
slip(
    "logarithm of base 2",
    "p is right. The logarithm of the sum was taken **to base 2**, and the maximum, which "
    "belongs to base e, was added to it.",
    ("log()", "log2()"),
)
slip(
    "lse in base 2",
    "p is right. The whole lse is **in base 2**; in this course it is a natural "
    "logarithm, and code that merges it relies on that.",
    ("safe_m + total.log()", "safe_m / math.log(2) + total.log2()"),
)
slip(
    "lse keeps a dimension",
    "The values are right, but lse still has the **last dimension, of length 1**, which "
    "keepdim left in place: it should have the shape of scores without that dimension.",
    (".squeeze(-1)", ""),
)
slip(
    "not shifted, divided safely",
    "The scores go into exp **as they are**: it overflows above 88.7. Guarding the division helps "
    "only where all weights round to 0, and there it takes a row for empty that is not.",
    ("torch.where(m == -math.inf, 0.0, m)", "0.0"),
    see=OVERFLOW,
)
slip(
    "64 bits instead of a maximum",
    "The exponentials are taken in **fp64 instead of being shifted**: that only moves the limit, "
    "to scores above 709. Each row's own maximum has to be subtracted.",
    ("torch.where(m == -math.inf, 0.0, m)", "0.0"),
    ("torch.exp(scores", "torch.exp(scores.double()"),
    ("p, (safe_m + total.log()).squeeze(-1)", "p.float(), total.log().squeeze(-1).float()"),
    see=OVERFLOW,
)
for name, stand_in in (
    ("mean", "scores.mean(-1, keepdim=True)"),
    ("minimum", "scores.amin(-1, keepdim=True)"),
    ("first score", "scores[..., :1]"),
):
    slip(
        f"shifted by the {name}",
        f"Each row is shifted by its **{name}**. A score far above that still overflows in exp: "
        "only the maximum leaves nothing above 0.",
        ("scores.amax(-1, keepdim=True)", stand_in),
        see=OVERFLOW,
    )
for floor in (-1e4, -1e9):
    slip(
        f"no maximum below {floor:,.5g}",
        f"The maximum is **never allowed below some number**, such as {floor:,.5g}. Rows of scores "
        "below that are then not shifted enough, and all their weights round to 0. Only -inf "
        "needs a stand-in.",
        ("torch.where(m == -math.inf, 0.0, m)", f"m.clamp(min={floor})"),
        see=OVERFLOW,
    )
for floor in FLOORS[:-1]:  # the last is below every other score
    slip(
        f"nothing below {floor:,.5g}",
        f"Every score below **{floor:,.5g}**, or a number like it, is raised to it. -inf then is a "
        "score like others, and true scores may lie lower still.",
        ("    m =", f"    scores = scores.clamp(min={floor})\n    m ="),
    )
    slip(
        f"{floor:,.5g} beside keys",
        f"Rows without keys are right, but elsewhere -inf is replaced by **{floor:,.5g}**, or by a "
        "number like it. A true score may lie below, and then the hidden key gets all the weight.",
        ("    m =", "    empty = (scores == -math.inf).all(-1, keepdim=True)\n    m ="),
        ("    m =", "    hidden = ~empty & (scores == -math.inf)\n    m ="),
        ("    m =", f"    scores = scores.masked_fill(hidden, {floor})\n    m ="),
    )
slip(
    "a little added before dividing",
    "lse is right. For p **a small number was added to the sum**: the weights no longer sum to 1. "
    "Only a sum of 0 needs care.",
    ("torch.where(total == 0, 1.0, total)", "(total + 1e-6)"),
)
slip(
    "not divided",
    "p is **not divided** by the sum of the exponentials: the weights of a row must sum to 1.",
    ("weights / torch.where(total == 0, 1.0, total)", "weights"),
)
slip(
    "not divided, and NaN",
    "p is **not divided** by the sum of the exponentials, though the weights of a row must sum to "
    "1. And a row without keys has no number in p: it should be 0 there.",
    ("weights / torch.where(total == 0, 1.0, total)", "torch.exp(scores - m)"),
)
slip(
    "powers of two",
    "The weights are powers of **2 instead of e**. If you use exp2, the scores have to be "
    "multiplied by log2(e) first.",
    ("torch.exp(", "torch.exp2("),
)
slip(
    "the maximum for lse",
    "p is right. lse is **only the maximum**: the logarithm of the sum is missing.",
    ("safe_m + total.log()", "m"),
)
slip(
    "no logarithm",
    "p is right. In lse the **sum itself** is added to the maximum, not its logarithm.",
    ("total.log()", "total"),
)
slip(
    "the second dimension",
    "The softmax runs over **dimension 1**. Keys are in the last one, whatever its number: "
    "count from the end, with -1.",
    ("(-1", "(1"),
)
slip(
    "all dimensions of length 1 removed",
    "squeeze() removes **every** dimension of length 1 from lse. Only the last has to go.",
    ("squeeze(-1)", "squeeze()"),
)
slip(
    "lse first",
    "The two results come in the **other order**: p first, then lse.",
    ("p, (safe_m + total.log()).squeeze(-1)", "(safe_m + total.log()).squeeze(-1), p"),
)
slip(
    "in double",
    "The values are right, but in **fp64**: p and lse have the dtype of scores, fp32.",
    ("scores.amax", "scores.double().amax"),
)

SAFE_SOFTMAX = Exercise.of(
    __name__,
    "1.1 safe softmax",
    title="Safe softmax with its lse",
    section="3 · A denominator you can carry",
)
