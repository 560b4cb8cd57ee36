"""Exercise 3.2: merge two partials."""

import torch

from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip
from reference import online_softmax as reference
from reference.online_softmax import State

EMPTY = "5 · The worker that saw nothing"


@right
def merge(x, y):
    m = torch.maximum(x[0], y[0])
    cx, cy = torch.exp(x[0] - m), torch.exp(y[0] - m)
    return m, cx * x[1] + cy * y[1], cx[:, None] * x[2] + cy[:, None] * y[2]


@also_right
def merge_by_lse(x, y):
    lse = torch.stack([x[0] + x[1].log(), y[0] + y[1].log()])
    weights = torch.softmax(lse, 0)[..., None]  # (2, rows, 1)
    o = [part[2] / part[1].clamp(min=1)[:, None] for part in (x, y)]  # l ≥ 1, or nothing was seen
    m = torch.stack([x[0], y[0]]).amax(0)
    l = torch.exp(torch.logsumexp(lse, 0) - m)
    return m, l, l[:, None] * (weights * torch.stack(o)).sum(0)


def partial(rng, around=0.0, rows=1, D=1):
    """A worker's state after five random keys with scores near `around`."""
    scores = around + torch.randn(rows, 5, generator=rng)
    return reference.update(reference.init(rows, D), scores, torch.randn(5, D, generator=rng))


def tolerance(states, wanted):
    """The `atol` and `rtol` that a correct merge of these states needs.

    Each rescaling is a subtraction, an exp and two products, 4 roundings; going by way of
    lse adds a rounding at the size of m. All relative to the sums of absolute values, which are
    at most l times the largest value, and that is below 5.
    """
    finite = [m[m.isfinite()].abs().max().item() for m, _, _ in states if m.isfinite().any()]
    roundings = len(states) * (4 + max(finite, default=0.0))
    size = 5 * max(1.0, wanted.l.max().item())
    return {"atol": roundings * torch.finfo(torch.float32).eps * size, "rtol": 0.0}


def seen(answer, x, y, wanted):
    return Seen.of(answer, (x, y), wanted=wanted, **tolerance([x, y], wanted))


@holds("partials whose maxima agree")
def equal_rulers(answer, rng):
    x, y = (partial(rng)._replace(m=torch.zeros(1)) for _ in range(2))
    return seen(answer, x, y, State(x.m, x.l + y.l, x.acc + y.acc))


@holds("partials whose maxima differ, either way")
def different_rulers(answer, rng):
    x, y = partial(rng, -1.5), partial(rng, 1.5)
    wanted = reference.merge(x, y)
    return [seen(answer, x, y, wanted), seen(answer, y, x, wanted)]


@holds("six rows, D = 4")
def each_row_its_own(answer, rng):
    x, y = partial(rng, rows=6, D=4), partial(rng, rows=6, D=4)
    return seen(answer, x, y, reference.merge(x, y))


@holds("m = -inf, l = 0, acc = 0 changes nothing")
def one_is_empty(answer, rng):
    x, nothing = partial(rng), reference.init(1, 1)
    return [seen(answer, x, nothing, x), seen(answer, nothing, x, x)]


@holds("x saw nothing in row 0, y nothing in row 1", see=EMPTY)
def some_rows_are_empty(answer, rng):
    x, y = partial(rng, rows=2, D=2), partial(rng, rows=2, D=2)
    for state, row in ((x, 0), (y, 1)):
        state.m[row], state.l[row], state.acc[row] = -torch.inf, 0.0, 0.0
    wanted = State(*(torch.stack([b[0], a[1]]) for a, b in zip(x, y, strict=True)))
    return [seen(answer, x, y, wanted), seen(answer, y, x, wanted)]


@holds("(a + b) + c is a + (b + c)")
def any_grouping(answer, rng):
    a, b, c = (partial(rng, around) for around in (-2.0, 0.0, 2.0))
    got = answer(answer(a, b), c), answer(a, answer(b, c))
    wanted = reference.merge(reference.merge(a, b), c)
    names, near = ("(a + b) + c", "a + (b + c)"), tolerance([a, b, c], wanted)
    return Seen(got, (wanted, wanted), "three partials, in two groupings", names=names, **near)


@holds("maxima near -200 and 200")
def far_apart(answer, rng):
    x, y = partial(rng, -200.0), partial(rng, 200.0)
    return seen(answer, x, y, reference.merge(x, y))


slip(
    "no rescaling",
    "This is what you get if acc and l are added **without rescaling** to the common maximum.",
    ("torch.exp(x[0] - m), torch.exp(y[0] - m)", "torch.ones_like(m), torch.ones_like(m)"),
)
slip(
    "acc not rescaled",
    "l is right, but acc is added **without rescaling**: it is a sum of the same exponentials, "
    "measured from the same two maxima.",
    ("cx[:, None] * x[2] + cy[:, None] * y[2]", "x[2] + y[2]"),
)
slip(
    "l not rescaled",
    "acc is right, but l is added **without rescaling**: it is a sum of exponentials measured from "
    "two maxima, as acc is.",
    ("cx * x[1] + cy * y[1]", "x[1] + y[1]"),
)
slip(
    "factors swapped",
    "The factors are **swapped**: x was measured from x's maximum, so exp(x's m - m) goes with x, "
    "and the other with y.",
    ("cx, cy =", "cy, cx ="),
)
slip(
    "one factor for both",
    "x and y are multiplied by **the same factor**, that of x. Each was measured with its own "
    "ruler, so each needs its own factor.",
    ("cy * y[1]", "cx * y[1]"),
    ("cy[:, None]", "cx[:, None]"),
)


@mistake(
    "As soon as one row of a partial is empty, **the whole partial is skipped**, and its other "
    "rows are lost. Decide row by row; with exp(-inf - m) = 0 there is nothing to decide.",
    see=EMPTY,
)
def empty_as_a_whole(x, y):
    for one, other in ((x, y), (y, x)):
        if (one[1] == 0).any():
            return tuple(part.clone() for part in other)
    return merge(x, y)


slip(
    "y taken for the larger",
    "Only x is moved, to y's ruler: this assumes that **y's maximum is the larger**. Where it is "
    "not, the factor is above 1 and overflows.",
    ("torch.maximum(x[0], y[0])", "y[0].clone()"),
    ("torch.exp(y[0] - m)", "torch.ones_like(m)"),
)
slip(
    "x taken for the larger",
    "Only y is moved, to x's ruler: this assumes that **x's maximum is the larger**. Where it is "
    "not, the factor is above 1 and overflows.",
    ("torch.maximum(x[0], y[0])", "x[0].clone()"),
    ("torch.exp(x[0] - m)", "torch.ones_like(m)"),
)
slip(
    "wrong sign",
    "The exponent has the **wrong sign**: exp(m_new - m_old) enlarges what should shrink.",
    ("torch.exp(x[0] - m), torch.exp(y[0] - m)", "torch.exp(m - x[0]), torch.exp(m - y[0])"),
)
slip(
    "one maximum for all rows",
    "One maximum is taken **over all rows**; every query row has its own ruler.",
    ("torch.maximum(x[0], y[0])", "torch.maximum(x[0], y[0]).max().expand_as(x[0])"),
)

MERGE = Exercise.of(
    __name__, "3.2 merge", title="Merge two partials", section="3 · Two halves make a whole"
)
