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


def tolerance(states: list[State], wanted: State) -> dict[str, float]:
    """The `atol` and `rtol` that a correct merge of these states needs.

    Each rescaling is a subtraction, an exp and two products, 4 roundings; going by way of
    lse adds a rounding at the size of m. All relative to the sums of absolute values, which are
    at most l times the largest value, and that is below 5.
    """
    finite = [m[m.isfinite()].abs().max().item() for m, _, _ in states if m.isfinite().any()]
    roundings = len(states) * (4 + max(finite, default=0.0))
    size = 5 * max(1.0, wanted.l.max().item())
    return {"atol": roundings * torch.finfo(torch.float32).eps * size, "rtol": 0.0}


def _seen(answer: Callable, x: State, y: State, wanted: State) -> Seen:
    return Seen.of(answer, (x, y), wanted=wanted, **tolerance([x, y], wanted))


def _equal_rulers(answer: Callable, rng: Generator) -> Seen:
    x, y = (partial(rng)._replace(m=torch.zeros(1)) for _ in range(2))
    return _seen(answer, x, y, State(x.m, x.l + y.l, x.acc + y.acc))


def _different_rulers(answer: Callable, rng: Generator) -> list[Seen]:
    x, y = partial(rng, -1.5), partial(rng, 1.5)
    wanted = reference.merge(x, y)
    return [_seen(answer, x, y, wanted), _seen(answer, y, x, wanted)]


def _each_row_its_own(answer: Callable, rng: Generator) -> Seen:
    x, y = partial(rng, rows=6, D=4), partial(rng, rows=6, D=4)
    return _seen(answer, x, y, reference.merge(x, y))


def _one_is_empty(answer: Callable, rng: Generator) -> list[Seen]:
    x, nothing = partial(rng), reference.init(1, 1)
    return [_seen(answer, x, nothing, x), _seen(answer, nothing, x, x)]


def _rows_empty(answer: Callable, rng: Generator) -> list[Seen]:
    x, y = partial(rng, rows=2, D=2), partial(rng, rows=2, D=2)
    for state, row in ((x, 0), (y, 1)):
        state.m[row], state.l[row], state.acc[row] = -torch.inf, 0.0, 0.0
    wanted = State(*(torch.stack([b[0], a[1]]) for a, b in zip(x, y, strict=True)))
    return [_seen(answer, x, y, wanted), _seen(answer, y, x, wanted)]


def _any_grouping(answer: Callable, rng: Generator) -> Seen:
    a, b, c = (partial(rng, around) for around in (-2.0, 0.0, 2.0))
    got = answer(answer(a, b), c), answer(a, answer(b, c))
    wanted = reference.merge(reference.merge(a, b), c)
    names, near = ("(a + b) + c", "a + (b + c)"), tolerance([a, b, c], wanted)
    return Seen(got, (wanted, wanted), "three partials, in two groupings", names=names, **near)


def _far_apart(answer: Callable, rng: Generator) -> Seen:
    x, y = partial(rng, -200.0), partial(rng, 200.0)
    return _seen(answer, x, y, reference.merge(x, y))


def _merge_by_lse(x: State, y: State) -> tuple[Tensor, ...]:
    """Another correct answer: by way of lse, from which l and acc are then recovered."""
    lse = torch.stack([x[0] + x[1].log(), y[0] + y[1].log()])
    weights = torch.softmax(lse, 0)[..., None]  # (2, rows, 1)
    o = [part[2] / part[1].clamp(min=1)[:, None] for part in (x, y)]  # l ≥ 1, or nothing was seen
    m = torch.stack([x[0], y[0]]).amax(0)
    l = torch.exp(torch.logsumexp(lse, 0) - m)
    return m, l, l[:, None] * (weights * torch.stack(o)).sum(0)


def _just_added(x: State, y: State) -> tuple[Tensor, ...]:
    return torch.maximum(x[0], y[0]), x[1] + y[1], x[2] + y[2]


def _acc_just_added(x: State, y: State) -> tuple[Tensor, ...]:
    m = torch.maximum(x[0], y[0])
    return m, torch.exp(x[0] - m) * x[1] + torch.exp(y[0] - m) * y[1], x[2] + y[2]


def _only_x_rescaled(x: State, y: State) -> tuple[Tensor, ...]:
    c = torch.exp(x[0] - y[0])
    return y[0], c * x[1] + y[1], c[:, None] * x[2] + y[2]


def _only_y_rescaled(x: State, y: State) -> tuple[Tensor, ...]:
    return _only_x_rescaled(y, x)


def _l_just_added(x: State, y: State) -> tuple[Tensor, ...]:
    m, _, acc = reference.merge(State(*x), State(*y))
    return m, x[1] + y[1], acc


def _factors_swapped(x: State, y: State) -> tuple[Tensor, ...]:
    m = torch.maximum(x[0], y[0])
    cx, cy = torch.exp(y[0] - m), torch.exp(x[0] - m)
    return m, cx * x[1] + cy * y[1], cx[:, None] * x[2] + cy[:, None] * y[2]


def _one_factor(x: State, y: State) -> tuple[Tensor, ...]:
    m = torch.maximum(x[0], y[0])
    c = torch.exp(x[0] - m)
    return m, c * (x[1] + y[1]), c[:, None] * (x[2] + y[2])


def _empty_as_a_whole(x: State, y: State) -> tuple[Tensor, ...]:
    for one, other in ((x, y), (y, x)):
        if (one[1] == 0).any():
            return tuple(part.clone() for part in other)
    return tuple(reference.merge(State(*x), State(*y)))


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
        Property(
            "some rows are empty",
            "x saw nothing in row 0, y nothing in row 1",
            _rows_empty,
            see="5 · The worker that saw nothing",
        ),
        Property("any grouping", "(a + b) + c is a + (b + c)", _any_grouping),
        Property("far apart", "maxima near -200 and 200", _far_apart),
    ),
    mistakes=(
        Mistake(
            "no rescaling",
            "This is what you get if acc and l are added **without rescaling** to the common "
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
            "l not rescaled",
            "acc is right, but l is added **without rescaling**: it is a sum of exponentials "
            "measured from two maxima, as acc is.",
            _l_just_added,
        ),
        Mistake(
            "factors swapped",
            "The factors are **swapped**: x was measured from x's maximum, so exp(x's m - m) goes "
            "with x, and the other with y.",
            _factors_swapped,
        ),
        Mistake(
            "one factor for both",
            "x and y are multiplied by **the same factor**, that of x. Each was measured with its "
            "own ruler, so each needs its own factor.",
            _one_factor,
        ),
        Mistake(
            "empty as a whole",
            "As soon as one row of a partial is empty, **the whole partial is skipped**, and "
            "its other rows are lost. Decide row by row; with exp(-inf - m) = 0 there is nothing "
            "to decide.",
            _empty_as_a_whole,
            see="5 · The worker that saw nothing",
        ),
        Mistake(
            "y taken for the larger",
            "Only x is moved, to y's ruler: this assumes that **y's maximum is the larger**. "
            "Where it is not, the factor is above 1 and overflows.",
            _only_x_rescaled,
        ),
        Mistake(
            "x taken for the larger",
            "Only y is moved, to x's ruler: this assumes that **x's maximum is the larger**. "
            "Where it is not, the factor is above 1 and overflows.",
            _only_y_rescaled,
        ),
        Mistake(
            "wrong sign",
            "The exponent has the **wrong sign**: exp(m_new - m_old) enlarges what should shrink.",
            _wrong_sign,
        ),
        Mistake(
            "one maximum for all rows",
            "One maximum is taken **over all rows**; every query row has its own ruler.",
            _one_maximum_for_all_rows,
        ),
    ),
    alternative=_merge_by_lse,
)
