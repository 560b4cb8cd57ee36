"""Exercise 3.2: merge two partials."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from course.check.spec import Exercise, Mistake, Property, Seen
from reference import online_softmax as reference
from reference.online_softmax import State


def partial(rng: Generator, around: float = 0.0, rows: int = 1, D: int = 1) -> State:
    """A worker's state after five random keys with scores near `around`."""
    scores = around + torch.randn(rows, 5, generator=rng)
    return reference.update(reference.init(rows, D), scores, torch.randn(5, D, generator=rng))


def _equal_rulers(answer: Callable, rng: Generator) -> Seen:
    x, y = partial(rng), partial(rng)._replace(m=torch.zeros(1))
    x = x._replace(m=torch.zeros(1))
    return Seen.of(answer, (x, y), wanted=State(x.m, x.l + y.l, x.acc + y.acc))


def _different_rulers(answer: Callable, rng: Generator) -> list[Seen]:
    x, y = partial(rng, -1.5), partial(rng, 1.5)
    wanted = reference.merge(x, y)
    return [Seen.of(answer, pair, wanted=wanted) for pair in ((x, y), (y, x))]


def _each_row_its_own(answer: Callable, rng: Generator) -> Seen:
    x, y = partial(rng, rows=6, D=4), partial(rng, rows=6, D=4)
    return Seen.of(answer, (x, y), wanted=reference.merge(x, y))


def _one_is_empty(answer: Callable, rng: Generator) -> list[Seen]:
    x, nothing = partial(rng), reference.init(1, 1)
    return [Seen.of(answer, pair, wanted=x) for pair in ((x, nothing), (nothing, x))]


def _any_grouping(answer: Callable, rng: Generator) -> Seen:
    a, b, c = (partial(rng, around) for around in (-2.0, 0.0, 2.0))
    got = answer(answer(a, b), c), answer(a, answer(b, c))
    wanted = reference.merge(reference.merge(a, b), c)
    names = ("(a + b) + c", "a + (b + c)")
    return Seen(got, (wanted, wanted), "three partials, merged in two groupings", names=names)


def _far_apart(answer: Callable, rng: Generator) -> Seen:
    x, y = partial(rng, -200.0), partial(rng, 200.0)
    return Seen.of(answer, (x, y), wanted=reference.merge(x, y))


def _merge_by_lse(x: State, y: State) -> tuple[Tensor, ...]:
    """Another right answer: the factors taken from softmax and logsumexp over the pair."""
    m = torch.stack([x[0], y[0]]).amax(0)
    l, acc = torch.zeros_like(x[1]), torch.zeros_like(x[2])
    for part in (x, y):
        factor = (part[0] - m).exp()
        l, acc = l + factor * part[1], acc + factor.unsqueeze(-1) * part[2]
    return m, l, acc


def _just_added(x: State, y: State) -> tuple[Tensor, ...]:
    return torch.maximum(x[0], y[0]), x[1] + y[1], x[2] + y[2]


def _acc_just_added(x: State, y: State) -> tuple[Tensor, ...]:
    m = torch.maximum(x[0], y[0])
    return m, torch.exp(x[0] - m) * x[1] + torch.exp(y[0] - m) * y[1], x[2] + y[2]


def _only_x_rescaled(x: State, y: State) -> tuple[Tensor, ...]:
    c = torch.exp(x[0] - y[0])
    return y[0], c * x[1] + y[1], c[:, None] * x[2] + y[2]


def _wrong_sign(x: State, y: State) -> tuple[Tensor, ...]:
    m = torch.maximum(x[0], y[0])
    cx, cy = torch.exp(m - x[0]), torch.exp(m - y[0])
    return m, cx * x[1] + cy * y[1], cx[:, None] * x[2] + cy[:, None] * y[2]


def _one_maximum_for_all_rows(x: State, y: State) -> tuple[Tensor, ...]:
    m = torch.maximum(x[0], y[0]).max().expand_as(x[0])
    cx, cy = torch.exp(x[0] - m), torch.exp(y[0] - m)
    return m, cx * x[1] + cy * y[1], cx[:, None] * x[2] + cy[:, None] * y[2]


MERGE = Exercise(
    id="3.2",
    name="merge",
    title="Merge two partials",
    section="3 · Two halves make a whole",
    solution_name="merge",
    properties=(
        Property("equal rulers", "partials whose maxima agree", _equal_rulers),
        Property("different rulers", "partials whose maxima differ, either way", _different_rulers),
        Property("each row its own", "six rows, D = 4", _each_row_its_own),
        Property("one is empty", "m = -inf, l = 0, acc = 0 changes nothing", _one_is_empty),
        Property("any grouping", "(a + b) + c is a + (b + c)", _any_grouping),
        Property("far apart", "maxima near -200 and 200", _far_apart),
    ),
    mistakes=(
        Mistake(
            "no rescaling",
            "This is what comes out if acc and l are added **without rescaling** to the common "
            "maximum.",
            _just_added,
        ),
        Mistake(
            "acc not rescaled",
            "l is right, but acc is added **without rescaling**: it is a sum of the same "
            "exponentials, measured from the same two maxima.",
            _acc_just_added,
        ),
        Mistake(
            "y taken for the larger",
            "Only x is moved, to y's ruler: this assumes that **y's maximum is the larger**. "
            "Where it is not, the factor is above 1 and overflows.",
            _only_x_rescaled,
        ),
        Mistake(
            "wrong sign",
            "The exponent has the **wrong sign**: exp(m_new - m_old) grows what has to shrink.",
            _wrong_sign,
        ),
        Mistake(
            "one maximum for all rows",
            "One maximum is taken **over all rows**; every query row has a ruler of its own.",
            _one_maximum_for_all_rows,
        ),
    ),
    alternative=_merge_by_lse,
)
