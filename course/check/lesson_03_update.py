"""Exercise 3.1: take in one more key, in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from course.check.spec import Exercise, Mistake, Property, Seen
from reference.online_softmax import State


def _key_by_key(scores: Tensor, values: Tensor) -> State:
    """The state after these keys: m, l () and acc (D,), from the definition."""
    m = scores.max()
    p = torch.exp(scores - m)
    return State(m, p.sum(), p @ values)


def _nothing_seen(D: int) -> State:
    return State(torch.tensor(-math.inf), torch.tensor(0.0), torch.zeros(D))


def _one_more(answer: Callable, old: Tensor, new: float, rng: Generator) -> Seen:
    values = torch.randn(len(old) + 1, 2, generator=rng)
    score = torch.tensor(new)
    wanted = _key_by_key(torch.cat([old, score[None]]), values)
    state = _key_by_key(old, values[:-1]) if len(old) else _nothing_seen(2)
    return Seen.of(answer, (state, score, values[-1]), wanted=wanted)


def _first_key(answer: Callable, rng: Generator) -> Seen:
    new = torch.randn((), generator=rng).item()
    return _one_more(answer, torch.empty(0), new, rng)


def _smaller(answer: Callable, rng: Generator) -> Seen:
    old = torch.randn(3, generator=rng)
    return _one_more(answer, old, old.max().item() - 1.5, rng)


def _larger(answer: Callable, rng: Generator) -> Seen:
    old = torch.randn(3, generator=rng)
    return _one_more(answer, old, old.max().item() + 1.5, rng)


def _whole_row(answer: Callable, rng: Generator) -> Seen:
    n = int(torch.randint(5, 20, (), generator=rng))
    scores, values = 3 * torch.randn(n, generator=rng), torch.randn(n, 4, generator=rng)
    state = _nothing_seen(4)
    for score, value in zip(scores, values, strict=True):
        state = answer(state, score, value)
    m, l, acc = state
    wanted = (scores.max(), torch.logsumexp(scores, 0), torch.softmax(scores, 0) @ values)
    given = f"{n} keys, one after the other; shown: m, m + log l, acc / l"
    return Seen((m, m + l.log(), acc / l), wanted, given, names=("m", "m + log l", "acc / l"))


def _huge_scores(answer: Callable, rng: Generator) -> Seen:
    old = 200 + torch.randn(3, generator=rng)
    return _one_more(answer, old, 203.0, rng)


def _update_as_merge(state: State, score: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    """Another right answer: the new key is a state of its own, merged in by lse arithmetic."""
    m, l, acc = state
    m_new = torch.stack([m, score]).max()
    weights = torch.exp(torch.stack([m, score]) - m_new)
    l_new = (weights * torch.stack([l, torch.ones_like(l)])).sum()
    return m_new, l_new, weights @ torch.stack([acc, value])


def _no_rescaling(state: State, score: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    m = torch.maximum(state[0], score)
    p = torch.exp(score - m)
    return m, state[1] + p, state[2] + p * value


def _only_l_rescaled(state: State, score: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    m = torch.maximum(state[0], score)
    c, p = torch.exp(state[0] - m), torch.exp(score - m)
    return m, c * state[1] + p, state[2] + p * value


def _factor_upside_down(state: State, score: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    m = torch.maximum(state[0], score)
    c, p = torch.exp(m - state[0]), torch.exp(score - m)
    return m, c * state[1] + p, c * state[2] + p * value


def _new_key_from_old_max(state: State, score: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    m = torch.maximum(state[0], score)
    c, p = torch.exp(state[0] - m), torch.exp(score - state[0])
    return m, c * state[1] + p, c * state[2] + p * value


def _latest_is_max(state: State, score: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    c = torch.exp(state[0] - score)
    return score, c * state[1] + 1, c * state[2] + value


UPDATE = Exercise(
    id="3.1",
    name="update",
    title="One key more",
    section="2 · One pass",
    solution_name="update",
    properties=(
        Property("first key", "the first key, after nothing", _first_key),
        Property("smaller score", "the new score is below the maximum", _smaller),
        Property("larger score", "the new score becomes the maximum", _larger),
        Property("a whole row", "key after key, the row's softmax comes out", _whole_row),
        Property("huge scores", "scores near 200 don't overflow", _huge_scores),
    ),
    mistakes=(
        Mistake(
            "nothing rescaled",
            "This is what comes out if l and acc are carried over **without rescaling** when the "
            "maximum changes: the old keys are still measured from the old maximum.",
            _no_rescaling,
        ),
        Mistake(
            "acc not rescaled",
            "This is what comes out if l is rescaled to the new maximum but **acc is not**: "
            "both are sums over the same exponentials, so both need the factor.",
            _only_l_rescaled,
        ),
        Mistake(
            "factor upside down",
            "The correction factor is **upside down**: going from a smaller maximum to a larger "
            "one, the old sums must shrink.",
            _factor_upside_down,
        ),
        Mistake(
            "new key on the old ruler",
            "The new key is measured **from the old maximum**, and the rest from the new one: "
            "one ruler for all.",
            _new_key_from_old_max,
        ),
        Mistake(
            "the latest score as maximum",
            "m is simply **the latest score** here, not the largest so far: a small score after "
            "a large one makes the factor explode.",
            _latest_is_max,
        ),
    ),
    alternative=_update_as_merge,
)
