"""Exercise 3.3: merge many partials at once, some of them empty."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from course.check.lesson_03_merge import partial, tolerance
from course.check.spec import Exercise, Mistake, Property, Seen
from reference import online_softmax as reference
from reference.online_softmax import State


def _stack(states: list[State]) -> State:
    return State(*(torch.stack(parts) for parts in zip(*states, strict=True)))


def _merged(states: list[State]) -> State:
    total = states[0]
    for state in states[1:]:
        total = reference.merge(total, state)
    return total


def _many(answer: Callable, states: list[State], given: str) -> Seen:
    wanted = _merged(states)
    near = tolerance(states, wanted)
    return Seen.of(answer, tuple(_stack(states)), wanted=wanted, given=given, **near)


def _many_workers(answer: Callable, rng: Generator) -> Seen:
    S = int(torch.randint(1, 6, (), generator=rng)) * 2 - 1  # odd: pairs don't come out even
    return _many(answer, [partial(rng, rows=3, D=2) for _ in range(S)], f"S = {S}, 3 rows, D = 2")


def _some_empty(answer: Callable, rng: Generator) -> Seen:
    states = [partial(rng, rows=3, D=2) for _ in range(2)]
    states.insert(int(torch.randint(0, 3, (), generator=rng)), reference.init(3, 2))
    return _many(answer, states, "S = 3, one worker saw nothing")


def _all_empty(answer: Callable, rng: Generator) -> Seen:
    return _many(answer, [reference.init(1, 2)] * 3, "S = 3, no worker saw any key")


def _one_row_empty(answer: Callable, rng: Generator) -> Seen:
    states = [partial(rng, rows=2, D=2) for _ in range(3)]
    for m, l, acc in states:
        m[0], l[0], acc[0] = -math.inf, 0.0, 0.0
    return _many(answer, states, "S = 3, 2 rows; row 0 has no key anywhere")


def _very_low(answer: Callable, rng: Generator) -> Seen:
    states = [partial(rng, -200.0, rows=2, D=2) for _ in range(2)]
    return _many(answer, [*states, reference.init(2, 2)], "S = 3, scores near -200, one empty")


def _merge_all_one_by_one(m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, ...]:
    """Another correct answer: a fold in which an empty partial is skipped row by row."""
    total = [m[0], l[0], acc[0]]
    for i in range(1, len(m)):
        top = torch.maximum(total[0], m[i])
        c = torch.where(total[1] > 0, torch.exp(total[0] - top), torch.zeros_like(top))
        d = torch.where(l[i] > 0, torch.exp(m[i] - top), torch.zeros_like(top))
        total = [top, c * total[1] + d * l[i], c[:, None] * total[2] + d[:, None] * acc[i]]
    return tuple(total)


def _weighted(m: Tensor, l: Tensor, acc: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    c = torch.exp(m - top)
    return (c * l).sum(0), (c[..., None] * acc).sum(0)


def _trap(m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, ...]:
    top = m.amax(0)
    return top, *_weighted(m, l, acc, top)


def _zero_for_minus_inf(m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, ...]:
    top = torch.where(m.amax(0) == -math.inf, torch.zeros_like(m[0]), m.amax(0))
    return top, *_weighted(m, l, acc, top)


def _maximum_at_least_zero(m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, ...]:
    top = m.clamp(min=0.0).amax(0)
    return m.amax(0), *_weighted(m, l, acc, top)


def _right(m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, ...]:
    top = m.amax(0)
    return top, *_weighted(m, l, acc, torch.where(top == -math.inf, 0.0, top))


def _safe_everywhere(m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, ...]:
    top = m.amax(0)
    finite, safe = (torch.where(x == -math.inf, 0.0, x) for x in (m, top))
    return top, *_weighted(finite, l, acc, safe)


def _nothing_subtracted(m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, ...]:
    return m.amax(0), *_weighted(m, l, acc, torch.zeros_like(m[0]))


def _just_added(m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, ...]:
    return m.amax(0), l.sum(0), acc.sum(0)


def _l_just_added(m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, ...]:
    top, _, acc = _right(m, l, acc)
    return top, l.sum(0), acc


def _acc_just_added(m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, ...]:
    top, l, _ = _right(m, l, acc)
    return top, l, acc.sum(0)


def _softmax_of_m(m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, ...]:
    c = torch.softmax(m, 0)
    return m.amax(0), (c * l).sum(0), (c[..., None] * acc).sum(0)


def _one_maximum(m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, ...]:
    top = m.max().expand_as(m[0])
    return top, *_weighted(m, l, acc, top)


def _normalised(m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, ...]:
    top, l_sum, acc_sum = _right(m, l, acc)
    return top, l_sum, acc_sum / l_sum.clamp(min=1e-30)[:, None]


def _pairs_only(m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, ...]:
    keep = len(m) if len(m) == 1 else len(m) // 2 * 2
    return _merge_all_one_by_one(m[:keep], l[:keep], acc[:keep])


MERGE_ALL = Exercise(
    id="3.3",
    name="merge all",
    title="Merge many, some of them empty",
    section="5 · The worker that saw nothing",
    solution_name="merge_all",
    properties=(
        Property(
            "many workers",
            "S partials at once, none empty",
            _many_workers,
            see="3 · Two halves make a whole",
        ),
        Property("some are empty", "an empty partial changes nothing", _some_empty),
        Property("all are empty", "nothing and nothing is nothing: (-inf, 0, 0)", _all_empty),
        Property("one row is empty", "one row without keys, one with", _one_row_empty),
        Property("very low scores", "near -200 nothing underflows", _very_low),
    ),
    mistakes=(
        Mistake(
            "-inf minus -inf",
            "Where no worker saw a key, this computes **-inf - (-inf)**, which is NaN. Subtract "
            "a safe copy of the maximum, one that is finite.",
            _trap,
        ),
        Mistake(
            "m lost its -inf",
            "The sums are right, but a row without keys gets **m = 0**: that claims a largest "
            "score of 0. Use the safe copy in the subtraction only; the state keeps its -inf.",
            _zero_for_minus_inf,
        ),
        Mistake(
            "maximum never below a floor",
            "The exponentials are measured **from a floor**, such as max(m, 0): with scores near "
            "-200 all of them underflow. Only -inf needs replacing.",
            _maximum_at_least_zero,
        ),
        Mistake(
            "safe copy for every m",
            "Every -inf became 0, **even in the m of each worker** and not only in what is "
            "subtracted. Near -200 an empty worker's factor is then exp(200), which overflows; "
            "from -inf it would be 0.",
            _safe_everywhere,
        ),
        Mistake(
            "nothing subtracted",
            "The factors are exp(m), with **no common maximum subtracted**: they move the sums to "
            "a ruler that starts at 0, while the m you return is the largest.",
            _nothing_subtracted,
            see="3 · Two halves make a whole",
        ),
        Mistake(
            "just added",
            "l and acc are summed over the workers **without any factor**: each worker measured "
            "from its own maximum.",
            _just_added,
            see="3 · Two halves make a whole",
        ),
        Mistake(
            "l not rescaled",
            "acc is right, but l is summed **without the factors**: both are sums of the same "
            "exponentials.",
            _l_just_added,
            see="3 · Two halves make a whole",
        ),
        Mistake(
            "acc not rescaled",
            "l is right, but acc is summed **without the factors**; c needs one more dimension "
            "there, nothing else.",
            _acc_just_added,
            see="3 · Two halves make a whole",
        ),
        Mistake(
            "softmax as factors",
            "The factors are a **softmax of m**, so they add up to 1. A factor moves a sum to "
            "the common ruler: the worker whose maximum is the largest keeps a factor of exactly "
            "1.",
            _softmax_of_m,
            see="3 · Two halves make a whole",
        ),
        Mistake(
            "one maximum for all rows",
            "One maximum is taken **over all workers and rows**; take it over the workers only, "
            "since every query row has its own ruler.",
            _one_maximum,
            see="2 · One pass: carry the weighted sum along",
        ),
        Mistake(
            "acc already divided",
            "acc comes out **divided by l**. A state stays unnormalised, so that it can be merged "
            "again; the division is the very last step.",
            _normalised,
        ),
        Mistake(
            "the odd one left out",
            "The partials are merged in pairs, and **the odd one at the end is lost**.",
            _pairs_only,
        ),
    ),
    alternative=_merge_all_one_by_one,
)
