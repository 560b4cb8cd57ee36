"""Exercise 1.1: a softmax that cannot overflow, and its log-sum-exp."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from course.check import lesson_01_softmax_answers as answers
from course.check.spec import Exercise, Mistake, Property, Seen

# fp32. A sum of at most 9 terms with exponents down to -16 costs under 32 eps. Computing p as
# exp(scores - lse) adds the rounding of lse: eps/2 · 256 for scores around 200. Twice both.
TOLERANCE = 512 * torch.finfo(torch.float32).eps


def _seen(answer: Callable, scores: Tensor) -> Seen:
    exact = scores.double()
    lse = torch.logsumexp(exact, -1)
    p = torch.exp(exact - torch.where(lse == -math.inf, 0.0, lse)[..., None])
    return Seen.of(
        answer,
        (scores,),
        wanted=(p.float(), lse.float()),
        names=("p", "lse"),
        atol=TOLERANCE,
        rtol=TOLERANCE,
    )


def _one_row(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, torch.randn(4, generator=rng))


def _many_rows(answer: Callable, rng: Generator) -> list[Seen]:
    shapes = (3, 7), (2, 3, 2, 5)
    return [_seen(answer, 2 * torch.randn(shape, generator=rng)) for shape in shapes]


def _large_scores(answer: Callable, rng: Generator) -> list[Seen]:
    scores = torch.randn(2, 4, generator=rng)
    return [_seen(answer, scores + 200), _seen(answer, scores - 200)]


def _rows_apart(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, torch.randn(3, 2, generator=rng) + torch.tensor([[-200.0], [0], [200]]))


def _hidden_keys(answer: Callable, rng: Generator) -> Seen:
    scores = torch.randn(2, 4, generator=rng)
    for row in scores:
        row[torch.randperm(4, generator=rng)[:2]] = -math.inf
    return _seen(answer, scores)


def _empty_row(answer: Callable, rng: Generator) -> Seen:
    scores = torch.randn(2, 3, generator=rng)
    scores[int(torch.randint(2, (), generator=rng))] = -math.inf
    return _seen(answer, scores)


SAFE_SOFTMAX = Exercise(
    id="1.1",
    name="safe softmax",
    title="Safe softmax with its lse",
    section="3 · A denominator you can carry",
    solution_name="safe_softmax",
    properties=(
        Property("one row", "four scores of ordinary size", _one_row),
        Property("many rows", "any number of dimensions; each row on its own", _many_rows),
        Property("large scores", "scores near 200 and near -200", _large_scores),
        Property("rows far apart", "one row near -200, one near 0, one near 200", _rows_apart),
        Property("hidden keys", "some scores are -inf: their weight is 0", _hidden_keys),
        Property("a row without keys", "all scores are -inf: p = 0, lse = -inf", _empty_row),
    ),
    mistakes=(
        Mistake(
            "not shifted",
            "The scores go into exp **as they are**. In fp32 that overflows above 88.7, and far "
            "below zero everything rounds to 0, which gives 0 / 0.",
            answers.not_shifted,
            see="2 · When exp overflows",
        ),
        Mistake(
            "one maximum for all rows",
            "This is what you get with **one maximum for the whole tensor**. A row that lies "
            "far below it then has nothing but zeros to divide: each row needs its own.",
            answers.one_maximum_for_all,
            see="2 · When exp overflows",
        ),
        Mistake(
            "one maximum, divided safely",
            "This is what you get with **one maximum for the whole tensor**: a row far below it "
            "gets weights of 0, as if all its keys were hidden. Each row needs its own maximum.",
            answers.one_maximum_divided_safely,
            see="2 · When exp overflows",
        ),
        Mistake(
            "maximum at least 0",
            "The maximum is **never allowed below 0**. Rows of very negative scores are then not "
            "shifted, and all their weights round to 0. Only -inf needs a stand-in.",
            answers.maximum_at_least_0,
            see="2 · When exp overflows",
        ),
        Mistake(
            "over the first dimension",
            "The softmax runs over the **first** dimension. Keys are in the last one; the first "
            "holds queries, heads or batch, which have nothing to do with each other.",
            answers.first_dimension,
        ),
        Mistake(
            "-inf - (-inf)",
            "Everything is right except in a row without keys. Its maximum is -inf, and **-inf "
            "minus -inf is not a number**: subtract a finite stand-in there.",
            answers.empty_row_is_nan,
        ),
        Mistake(
            "lse of an empty row is 0",
            "Here **the lse of an empty row is 0**. Either the guarded sum (1 instead of 0) went "
            "into the logarithm, or NaN was replaced by 0. Take the log of the unguarded sum.",
            answers.empty_row_has_lse_0,
        ),
        Mistake(
            "a little added to the sum",
            "**A small number was added to the sum** to avoid dividing by 0. The lse of an "
            "empty row is then finite instead of -inf: it claims a weight.",
            answers.a_little_added,
        ),
        Mistake(
            "0 / 0",
            "The maximum is safe, but a row without keys has a **sum of 0, and is divided by it**. "
            "Its lse is right already; only the division needs care.",
            answers.division_by_zero,
        ),
        Mistake(
            "a huge number for -inf",
            "This is what you get if -inf is replaced by a **huge negative number**. It is still "
            "a score: a row of nothing else spreads its weight evenly over hidden keys.",
            answers.huge_for_infinite,
        ),
        Mistake(
            "lse without the maximum",
            "p is right. For lse the **maximum was not added back**: this is the logarithm of the "
            "denominator of the shifted scores, not of the true ones.",
            answers.lse_without_maximum,
        ),
        Mistake(
            "maximum subtracted",
            "p is right. For lse the maximum was **subtracted instead of added**: the sum had "
            "lost a factor of e to the m, so the logarithm needs m added back.",
            answers.lse_minus_maximum,
        ),
        Mistake(
            "logarithm of base 2",
            "p is right. The logarithm of the sum was taken **to base 2**, and the maximum, which "
            "belongs to base e, was added to it.",
            answers.logarithm_of_base_2,
        ),
        Mistake(
            "lse in base 2",
            "p is right. The whole lse is **in base 2**; in this course it is a natural "
            "logarithm, and code that merges it relies on that.",
            answers.lse_in_base_2,
        ),
        Mistake(
            "lse keeps a dimension",
            "The values are right, but lse still has the **last dimension, of length 1**, which "
            "keepdim left in place: it should have the shape of scores without that dimension.",
            answers.lse_keeps_dimension,
        ),
    ),
    alternative=answers.by_logsumexp,
)
