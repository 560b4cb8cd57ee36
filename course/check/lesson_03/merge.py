"""Exercise 3.2: merge two partials."""

import math

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
    scores = (around + torch.randn(rows, 5, generator=rng)).clamp(-6e4, 6e4)
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


def single(m, l, acc):
    """A partial of one row, D = 1."""
    return State(torch.tensor([m]), torch.tensor([l]), torch.tensor([[acc]]))


@holds("the table's examples, (-200, 1, [9]) with (0, 1, [4]), a NaN")
def by_hand(answer, rng):
    """Within a few roundings: here nothing may be added to l, not even 1e-6.

    A NaN among the values leaves a NaN in acc alone.
    """
    log2, inf, nan = math.log(2), math.inf, math.nan
    cases = (
        ((0.0, 1.0, 2.0), (0.0, 1.0, 4.0), (0.0, 2.0, 6.0)),
        ((0.0, 1.0, 2.0), (log2, 1.0, 4.0), (log2, 1.5, 5.0)),
        ((-inf, 0.0, 0.0), (5.0, 1.0, 3.0), (5.0, 1.0, 3.0)),
        ((-200.0, 1.0, 9.0), (0.0, 1.0, 4.0), (0.0, 1.0, 4.0)),
        ((-inf, 0.0, 0.0), (5.0, 1.0, nan), (5.0, 1.0, nan)),
    )
    triples = [[single(*part) for part in case] for case in cases]
    return [Seen.of(answer, (x, y), wanted=w, atol=0.0, rtol=5e-7) for x, y, w in triples]


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
    x, low, nothing = partial(rng), partial(rng, -200.0), reference.init(1, 1)
    pairs = ((x, nothing, x), (nothing, x, x), (low, nothing, low))
    return [seen(answer, *three) for three in pairs]


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


@holds("near ±200, both near -2000, 2000, -60000")
def far_apart(answer, rng):
    """Even in fp64, exp overflows above 709 and underflows below -745."""
    pairs = [
        [partial(rng, around) for around in both]
        for both in ((-200.0, 200.0), (-2e3, -2e3), (2e3, 2e3), (-6e4, -6e4))
    ]
    return [seen(answer, x, y, reference.merge(x, y)) for x, y in pairs]


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


@mistake(
    "Which maximum is the larger is decided **once for all rows**. In each row it may be the other "
    "one: take the larger row by row (`torch.maximum`).",
)
def decided_once(x, y):
    if x[0].max() < y[0].max():
        x, y = y, x
    c = torch.exp(y[0] - x[0])
    return x[0].clone(), x[1] + c * y[1], x[2] + c[:, None] * y[2]


slip(
    "the smaller maximum",
    "The common ruler is **the smaller** of the two maxima. Then factors exceed 1 and overflow, "
    "and next to an empty partial it is -inf.",
    ("torch.maximum", "torch.minimum"),
)
slip(
    "a floor under the maximum",
    "The maximum **never gets below 0**. Where both lie below, say near -2000, every "
    "factor underflows: only the two maxima may decide.",
    ("torch.maximum(x[0], y[0])", "torch.maximum(x[0], y[0]).clamp(min=0.0)"),
)
for name, old, new in (
    ("the maximum", "torch.maximum(x[0], y[0])", "torch.maximum(x[0], y[0]).clamp(min=-1e4)"),
    ("either m", "    m =", "    x, y = ((z[0].clamp(min=-1e4), *z[1:]) for z in (x, y))\n    m ="),
):
    slip(
        f"-10,000 under {name}",
        f"Nothing below **-10,000** is taken for {name}. A partial may lie lower, near -60000, and "
        "its sums are then measured from a number that they don't belong to.",
        (old, new),
    )
slip(
    "a NaN repaired",
    "A NaN in acc is **replaced by a number**. The two partials bring no NaN by being empty; one "
    "that comes in with the values has to stay visible, or a wrong answer looks healthy.",
    ("y[2]", "y[2].nan_to_num(0.0)"),
    ("x[2]", "x[2].nan_to_num(0.0)"),
    see=EMPTY,
)
slip(
    "0 in place of -inf",
    "The -inf of an empty partial is **replaced by 0** before it is subtracted from. If the other "
    "lies near -200, its factor is then exp(200), which overflows; from -inf it would be 0.",
    ("exp(x[0] -", "exp(x[0].nan_to_num(neginf=0.0) -"),
    ("exp(y[0] -", "exp(y[0].nan_to_num(neginf=0.0) -"),
)
slip(
    "two exponentials",
    "exp(x's m) and exp(m) are computed **separately** and then divided: far from 0 both overflow, "
    "or both are 0. Subtract first, then take one exponential.",
    (
        "torch.exp(x[0] - m), torch.exp(y[0] - m)",
        "torch.exp(x[0]) / torch.exp(m), torch.exp(y[0]) / torch.exp(m)",
    ),
)
slip(
    "two exponentials in fp64",
    "Two exponentials are divided, **in fp64**. That only moves the limit: below -745 and above "
    "709 it is 0 / 0 or inf / inf again. Subtract first, then take one exponential.",
    (
        "torch.exp(x[0] - m), torch.exp(y[0] - m)",
        "[(z[0].double().exp() / m.double().exp()).float() for z in (x, y)]",
    ),
)
slip(
    "a small number added",
    "A small number such as 1e-6 is **added to l**. Nothing is divided here that it could protect, "
    "and with every merge l becomes a little more wrong.",
    ("cx * x[1] + cy * y[1]", "cx * x[1] + cy * y[1] + 1e-6"),
)
slip(
    "factors cut off",
    "The exponents are **clamped**, so a partial that lies far below still counts a little. Its "
    "factor must be allowed to become 0.",
    ("exp(x[0] - m)", "exp((x[0] - m).clamp(min=-10))"),
    ("exp(y[0] - m)", "exp((y[0] - m).clamp(min=-10))"),
)
slip(
    "acc already divided",
    "acc comes out **divided by l**. A state stays unnormalised, so that it can be merged again; "
    "the division is the very last step.",
    (
        "cx[:, None] * x[2] + cy[:, None] * y[2]",
        "(cx[:, None] * x[2] + cy[:, None] * y[2]) / (cx * x[1] + cy * y[1])[:, None]",
    ),
)
slip(
    "acc times l",
    "acc is multiplied by l **as well**, as one would weight a mean. But acc is not divided by l "
    "yet: it needs the same factor as l, and nothing more.",
    ("cx[:, None] * x[2]", "(cx * x[1])[:, None] * x[2]"),
    ("cy[:, None] * y[2]", "(cy * y[1])[:, None] * y[2]"),
)
slip(
    "acc averaged",
    "The two acc are **averaged**. They are sums: add them.",
    ("cx[:, None] * x[2] + cy[:, None] * y[2]", "(cx[:, None] * x[2] + cy[:, None] * y[2]) / 2"),
)
slip(
    "softmax as factors",
    "The factors are a **softmax of the two m**, so they add up to 1. A factor moves a sum to the "
    "common ruler: the partial with the larger m keeps a factor of exactly 1.",
    (
        "torch.exp(x[0] - m), torch.exp(y[0] - m)",
        "torch.softmax(torch.stack([x[0], y[0]]), 0)",
    ),
)
slip(
    "powers of 2",
    "The factors are **powers of 2**, but l and acc are sums of powers of e.",
    ("torch.exp(", "torch.exp2("),
)
slip(
    "m and l swapped",
    "The parts come **in another order**: m first, then l, then acc.",
    ("return m, cx * x[1] + cy * y[1],", "return cx * x[1] + cy * y[1], m,"),
)
slip(
    "m of both together",
    "m comes out as **the logarithm of both sums**. l and acc are measured from the larger of the "
    "two maxima, so that is the m to return.",
    ("return m,", "return m + (cx * x[1] + cy * y[1]).log(),"),
)
slip(
    "factors along D",
    "The factors belong to the rows, but here they are multiplied **along D**, the last dimension "
    "of acc: they need one more dimension.",
    ("cx[:, None]", "cx"),
    ("cy[:, None]", "cy"),
)
slip(
    "half precision",
    "The factors are rounded to **fp16**, which keeps three digits: all here is fp32.",
    (
        "torch.exp(x[0] - m), torch.exp(y[0] - m)",
        "torch.exp(x[0] - m).half().float(), torch.exp(y[0] - m).half().float()",
    ),
)

MERGE = Exercise.of(
    __name__, "3.2 merge", title="Merge two partials", section="3 · Two halves make a whole"
)
