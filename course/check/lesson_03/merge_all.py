"""Exercise 3.3: merge many partials at once, some of them empty."""

import torch

from course.check.draw import integer
from course.check.lesson_03.merge import partial, tolerance
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from reference import online_softmax as reference

HALVES = "3 · Two halves make a whole"


@right
def merge_all(m, l, acc):
    m_max = m.amax(0)  # (rows,)
    safe = torch.where(m_max == -torch.inf, 0.0, m_max)
    c = torch.exp(m - safe)  # (S, rows); 0 for whoever saw nothing
    return m_max, (c * l).sum(0), (c[..., None] * acc).sum(0)


@also_right
def merge_all_one_by_one(m, l, acc):
    """A fold in which an empty partial is skipped row by row."""
    total = [m[0], l[0], acc[0]]
    for i in range(1, len(m)):
        top = torch.maximum(total[0], m[i])
        c = torch.where(total[1] > 0, torch.exp(total[0] - top), torch.zeros_like(top))
        d = torch.where(l[i] > 0, torch.exp(m[i] - top), torch.zeros_like(top))
        total = [top, c * total[1] + d * l[i], c[:, None] * total[2] + d[:, None] * acc[i]]
    return tuple(total)


def seen(answer, states, given):
    wanted = states[0]
    for state in states[1:]:
        wanted = reference.merge(wanted, state)
    stacked = [torch.stack(parts) for parts in zip(*states, strict=True)]
    return Seen.of(answer, stacked, wanted=wanted, given=given, **tolerance(states, wanted))


@holds("S partials at once, none empty", see=HALVES)
def many_workers(answer, rng):
    S = 2 * integer(rng, 1, 5) - 1  # odd: pairs don't come out even
    return seen(answer, [partial(rng, rows=3, D=2) for _ in range(S)], f"S = {S}, 3 rows, D = 2")


@holds("an empty partial changes nothing")
def some_are_empty(answer, rng):
    states = [partial(rng, rows=3, D=2) for _ in range(2)]
    states.insert(integer(rng, 0, 2), reference.init(3, 2))
    return seen(answer, states, "S = 3, one worker saw nothing")


@holds("nothing and nothing is nothing: (-inf, 0, 0)")
def all_are_empty(answer, rng):
    return seen(answer, [reference.init(1, 2)] * 3, "S = 3, no worker saw any key")


@holds("one row without keys, one with")
def one_row_is_empty(answer, rng):
    states = [partial(rng, rows=2, D=2) for _ in range(3)]
    for m, l, acc in states:
        m[0], l[0], acc[0] = -torch.inf, 0.0, 0.0
    return seen(answer, states, "S = 3, 2 rows; row 0 has no key anywhere")


@holds("near -200 nothing underflows")
def very_low_scores(answer, rng):
    states = [partial(rng, -200.0, rows=2, D=2) for _ in range(2)]
    return seen(answer, [*states, reference.init(2, 2)], "S = 3, scores near -200, one empty")


slip(
    "-inf minus -inf",
    "Where no worker saw a key, this computes **-inf - (-inf)**, which is NaN. Subtract a safe "
    "copy of the maximum, one that is finite.",
    ("m - safe", "m - m_max"),
)
slip(
    "m lost its -inf",
    "The sums are right, but a row without keys gets **m = 0**: that claims a largest score of 0. "
    "Use the safe copy in the subtraction only; the state keeps its -inf.",
    ("return m_max", "return safe"),
)
slip(
    "maximum never below a floor",
    "The exponentials are measured **from a floor**, such as max(m, 0): with scores near -200 all "
    "of them underflow. Only -inf needs replacing.",
    ("torch.where(m_max == -torch.inf, 0.0, m_max)", "m_max.clamp(min=0.0)"),
)
slip(
    "safe copy for every m",
    "Every -inf became 0, **even in the m of each worker** and not only in what is subtracted. "
    "Near -200 an empty worker's factor is then exp(200), which overflows; from -inf it would be "
    "0.",
    ("m - safe", "torch.where(m == -torch.inf, 0.0, m) - safe"),
)
slip(
    "nothing subtracted",
    "The factors are exp(m), with **no common maximum subtracted**: they move the sums to a ruler "
    "that starts at 0, while the m you return is the largest.",
    ("m - safe", "m"),
    see=HALVES,
)
slip(
    "just added",
    "l and acc are summed over the workers **without any factor**: each worker measured from its "
    "own maximum.",
    ("c * l", "l"),
    ("c[..., None] * acc", "acc"),
    see=HALVES,
)
slip(
    "l not rescaled",
    "acc is right, but l is summed **without the factors**: both are sums of the same "
    "exponentials.",
    ("c * l", "l"),
    see=HALVES,
)
slip(
    "acc not rescaled",
    "l is right, but acc is summed **without the factors**; c needs one more dimension there, "
    "nothing else.",
    ("c[..., None] * acc", "acc"),
    see=HALVES,
)
slip(
    "softmax as factors",
    "The factors are a **softmax of m**, so they add up to 1. A factor moves a sum to the common "
    "ruler: the worker whose maximum is the largest keeps a factor of exactly 1.",
    ("torch.exp(m - safe)", "torch.softmax(m, 0)"),
    see=HALVES,
)
slip(
    "one maximum for all rows",
    "One maximum is taken **over all workers and rows**; take it over the workers only, since "
    "every query row has its own ruler.",
    ("m.amax(0)", "m.max().expand_as(m[0])"),
    see="2 · One pass: carry the weighted sum along",
)
slip(
    "acc already divided",
    "acc comes out **divided by l**. A state stays unnormalised, so that it can be merged again; "
    "the division is the very last step.",
    ("acc).sum(0)", "acc).sum(0) / (c * l).sum(0).clamp(min=1e-30)[:, None]"),
)
slip(
    "the odd one left out",
    "The partials are merged in pairs, and **the odd one at the end is lost**.",
    ("range(1, len(m))", "range(1, len(m) // 2 * 2)"),
    of=merge_all_one_by_one,
)

MERGE_ALL = Exercise.of(
    __name__,
    "3.3 merge all",
    title="Merge many, some of them empty",
    section="5 · The worker that saw nothing",
)
