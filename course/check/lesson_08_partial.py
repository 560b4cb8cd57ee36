"""Exercise 8.1: the partial result of one split, and what must hold for it."""

import math

import torch
from torch import Generator, Tensor

from course.check.draw import integer
from course.check.lesson_08_answers import key_by_key, truth
from course.check.lesson_08_partial_mistakes import MISTAKES, RAGGED
from course.check.spec import Exercise, Property, Seen

D = 16
EPS = torch.finfo(torch.float32).eps


def ask(
    answer: object,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    start: int,
    stop: int,
    length: int,
    causal: bool,
) -> Seen:
    """Call the answer on one split.

    A score is a sum of D products, and o a sum over the split's keys: each term may be off by
    one rounding, relative to the largest score and value involved.
    """
    scores = k[start:stop] @ q.T / math.sqrt(q.shape[1])
    scores, values = scores[scores.isfinite()].abs(), v[start:stop].abs()
    largest = max([1.0, *scores.flatten().tolist()]) * max([1.0, *values.flatten().tolist()])
    return Seen(
        answer(q, k, v, start, stop, length, causal),
        truth(q, k, v, start, stop, length, causal),
        f"Lq = {len(q)}, keys {start} to {stop} of {length}, capacity {len(k)}, causal = {causal}",
        atol=EPS * (q.shape[1] + stop - start) * largest,
        rtol=EPS * (q.shape[1] + stop - start),
        names=("o", "lse"),
        any_dtype=True,
    )


def inputs(rng: Generator, Lq: int, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return random q (Lq, D) and k, v (capacity, D)."""
    return tuple(torch.randn(rows, D, generator=rng) for rows in (Lq, capacity, capacity))


def _by_hand(answer: object, rng: Generator) -> Seen:
    weights = torch.tensor([1.0, 2, 1, 6, 2, 2, 1, 1])
    values = torch.tensor([0.0, 4, 8, 1, 3, 9, 10, 14])
    return ask(answer, torch.ones(1, 1), weights.log()[:, None], values[:, None], 3, 6, 8, True)


def _a_middle_split(answer: object, rng: Generator) -> Seen:
    length = integer(rng, 20, 30)
    start = integer(rng, 3, 8)
    return ask(answer, *inputs(rng, 1, length + 5), start, start + integer(rng, 5, 9), length, True)


def _nan_around(answer: object, rng: Generator) -> Seen:
    start, stop, length = integer(rng, 2, 5), integer(rng, 9, 14), 20
    q, k, v = inputs(rng, 2, 32)
    for x in (k, v):
        x[:start], x[stop:] = math.nan, math.nan
    return ask(answer, q, k, v, start, stop, length, False)


def _far_from_zero(answer: object, rng: Generator) -> list[Seen]:
    seen = []
    for shift in (200.0, -200.0):
        q, k, v = inputs(rng, 1, 24)
        q[:, 0], k[:, 0] = math.sqrt(D), shift  # adds `shift` to every score
        seen.append(ask(answer, q, k, v, 6, 12, 24, True))
    return seen


def _several_queries(answer: object, rng: Generator) -> list[Seen]:
    """A long last split, where keys numbered from 0 show, and one that ends before the row does."""
    length, Lq = integer(rng, 24, 30), integer(rng, 4, 6)
    ranges = [(integer(rng, 1, 2), length), (integer(rng, 10, 15), length - 2)]
    return [ask(answer, *inputs(rng, Lq, length + 7), a, b, length, True) for a, b in ranges]


def _sees_nothing(answer: object, rng: Generator) -> Seen:
    length = integer(rng, 20, 30)
    return ask(answer, *inputs(rng, 5, length + 3), length - 3, length, length, True)


def _without_mask(answer: object, rng: Generator) -> Seen:
    length = integer(rng, 20, 30)
    return ask(answer, *inputs(rng, 4, length), length - 6, length, length, False)


def _no_keys(answer: object, rng: Generator) -> list[Seen]:
    at, Lq = integer(rng, 3, 9), integer(rng, 1, 3)
    return [
        ask(answer, *inputs(rng, Lq, 12), n, n, n, causal)
        for n in (at, 0)
        for causal in (True, False)
    ]


PARTIAL = Exercise(
    id="8.1",
    name="partial",
    title="One worker's share",
    section="3 · Local attention",
    solution_name="partial",
    properties=(
        Property("by hand", "the lesson's split 1: weights 6, 2, 2, values 1, 3, 9", _by_hand),
        Property("one query", "a split in the middle of the row", _a_middle_split),
        Property("only its own", "all cells outside the split are NaN", _nan_around, RAGGED),
        Property("far from zero", "scores around +200 and around −200", _far_from_zero),
        Property("several queries", "Lq > 1 and causal, two splits", _several_queries, RAGGED),
        Property(
            "sees nothing", "the first queries see no key in this split", _sees_nothing, RAGGED
        ),
        Property("causal=False", "every query sees the whole split", _without_mask, RAGGED),
        Property("empty split", "start == stop gives (0, −inf)", _no_keys, RAGGED),
    ),
    mistakes=MISTAKES,
    alternative=key_by_key,
)
