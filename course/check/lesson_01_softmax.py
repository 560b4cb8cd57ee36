"""Exercise 1.1: a softmax that cannot overflow, and its log-sum-exp."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from course.check.spec import Exercise, Mistake, Property, Seen

# fp32. A sum of at most 9 terms with exponents down to -16 costs under 32 eps. Who computes p as
# exp(scores - lse) also carries the rounding of lse: eps/2 · 256 for scores around 200. Twice both.
TOLERANCE = 512 * torch.finfo(torch.float32).eps

Pair = tuple[Tensor, Tensor]


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


def _by_logsumexp(scores: Tensor) -> Pair:
    """Another right answer: the weights from the finished lse."""
    lse = torch.logsumexp(scores, dim=-1)
    empty = torch.isinf(lse) & (lse < 0)
    return torch.exp(scores - lse.masked_fill(empty, 0.0).unsqueeze(-1)), lse


def _parts(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest score (safe), the exponentials and their sum, each with the last dimension."""
    m = scores.amax(-1, keepdim=True)
    m = torch.where(m == -math.inf, 0.0, m)
    weights = torch.exp(scores - m)
    return m, weights, weights.sum(-1, keepdim=True)


def _shares(weights: Tensor, total: Tensor) -> Tensor:
    return weights / torch.where(total == 0, 1.0, total)


def _not_shifted(scores: Tensor) -> Pair:
    weights = torch.exp(scores)
    total = weights.sum(-1, keepdim=True)
    return weights / total, total.log().squeeze(-1)


def _one_maximum_for_all(scores: Tensor) -> Pair:
    m = scores.max()
    weights = torch.exp(scores - m)
    total = weights.sum(-1, keepdim=True)
    return weights / total, (m + total.log()).squeeze(-1)


def _first_dimension(scores: Tensor) -> Pair:
    m = scores.amax(0, keepdim=True)
    m = torch.where(m == -math.inf, 0.0, m)
    weights = torch.exp(scores - m)
    total = weights.sum(0, keepdim=True)
    return _shares(weights, total), (m + total.log()).squeeze(0)


def _empty_row_is_nan(scores: Tensor) -> Pair:
    m = scores.amax(-1, keepdim=True)
    weights = torch.exp(scores - m)
    total = weights.sum(-1, keepdim=True)
    return weights / total, (m + total.log()).squeeze(-1)


def _nan_swept_away(scores: Tensor) -> Pair:
    p, lse = _empty_row_is_nan(scores)
    return p.nan_to_num(0.0), lse.nan_to_num(0.0)


def _division_by_zero(scores: Tensor) -> Pair:
    m, weights, total = _parts(scores)
    return weights / total, (m + total.log()).squeeze(-1)


def _huge_for_infinite(scores: Tensor) -> Pair:
    return _empty_row_is_nan(scores.masked_fill(scores == -math.inf, -1e9))


def _lse_without_maximum(scores: Tensor) -> Pair:
    _, weights, total = _parts(scores)
    return _shares(weights, total), total.log().squeeze(-1)


def _lse_in_base_2(scores: Tensor) -> Pair:
    m, weights, total = _parts(scores)
    return _shares(weights, total), (m + total.log2()).squeeze(-1)


def _lse_keeps_dimension(scores: Tensor) -> Pair:
    m, weights, total = _parts(scores)
    return _shares(weights, total), m + total.log()


SAFE_SOFTMAX = Exercise(
    id="1.1",
    name="safe softmax",
    title="Safe softmax with its lse",
    section="3 · A denominator you can carry",
    solution_name="safe_softmax",
    properties=(
        Property("one row", "four scores of ordinary size", _one_row),
        Property("many rows", "any number of dimensions; each row by itself", _many_rows),
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
            _not_shifted,
            see="2 · When exp overflows",
        ),
        Mistake(
            "one maximum for all rows",
            "This is what comes out with **one maximum for the whole tensor**. A row that lies "
            "far below it then has nothing but zeros to divide: each row needs its own.",
            _one_maximum_for_all,
            see="2 · When exp overflows",
        ),
        Mistake(
            "over the first dimension",
            "The softmax runs over the **first** dimension. Keys are in the last one; the first "
            "is queries, heads or batch, and they have nothing to do with each other.",
            _first_dimension,
        ),
        Mistake(
            "-inf - (-inf)",
            "All is well except in a row without keys. Its maximum is -inf, and **-inf minus -inf "
            "is not a number**: subtract a finite stand-in there.",
            _empty_row_is_nan,
        ),
        Mistake(
            "nan swept away",
            "NaN is replaced by 0 **at the end**. That happens to be right for p, but it makes "
            "lse = 0, and e to the 0 is a denominator of 1: the empty row claims a weight.",
            _nan_swept_away,
        ),
        Mistake(
            "0 / 0",
            "The maximum is safe, but a row without keys has a **sum of 0, and is divided by it**. "
            "Its lse is right already; only the division needs care.",
            _division_by_zero,
        ),
        Mistake(
            "a huge number for -inf",
            "This is what comes out if -inf is replaced by a **huge negative number**. It is still "
            "a score: a row of nothing else shares its weight evenly among hidden keys.",
            _huge_for_infinite,
        ),
        Mistake(
            "lse without the maximum",
            "p is right. For lse the **maximum was not added back**: this is the logarithm of the "
            "denominator of the shifted scores, not of the true ones.",
            _lse_without_maximum,
        ),
        Mistake(
            "lse in base 2",
            "p is right. The logarithm in lse was taken **to base 2**; in this course lse is a "
            "natural logarithm, and whoever merges it relies on that.",
            _lse_in_base_2,
        ),
        Mistake(
            "lse keeps a dimension",
            "The values are right, but lse still has the **last dimension, of length 1**, which "
            "keepdim left behind: it should have the shape of scores without the last dimension.",
            _lse_keeps_dimension,
        ),
    ),
    alternative=_by_logsumexp,
)
