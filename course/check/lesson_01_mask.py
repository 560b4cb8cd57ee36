"""Exercise 1.2: the causal mask, aligned bottom-right."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen


def _seen(answer: Callable, Lq: int, Lk: int) -> Seen:
    rows = [[j - (Lk - 1) <= i - (Lq - 1) for j in range(Lk)] for i in range(Lq)]
    wanted = torch.tensor(rows, dtype=torch.bool).reshape(Lq, Lk)
    return Seen.of(answer, (Lq, Lk), wanted=wanted)


def _square(answer: Callable, rng: Generator) -> Seen:
    n = integer(rng, 2, 8)
    return _seen(answer, n, n)


def _one_new_token(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, 1, integer(rng, 2, 8))


def _some_new_tokens(answer: Callable, rng: Generator) -> Seen:
    Lq = integer(rng, 2, 4)
    return _seen(answer, Lq, Lq + integer(rng, 1, 4))


def _more_queries(answer: Callable, rng: Generator) -> Seen:
    Lk = integer(rng, 1, 3)
    return _seen(answer, Lk + integer(rng, 1, 3), Lk)


def _nothing(answer: Callable, rng: Generator) -> list[Seen]:
    n = integer(rng, 1, 4)
    return [_seen(answer, n, 0), _seen(answer, 0, n)]


def _by_tril(Lq: int, Lk: int) -> Tensor:
    """Another correct answer: a triangle, moved to the correct corner."""
    return torch.ones(Lq, Lk, dtype=torch.bool).tril(diagonal=Lk - Lq)


def _i_and_j(Lq: int, Lk: int) -> tuple[Tensor, Tensor]:
    return torch.arange(Lq)[:, None], torch.arange(Lk)[None, :]


def _top_left(Lq: int, Lk: int) -> Tensor:
    i, j = _i_and_j(Lq, Lk)
    return j <= i


def _upside_down(Lq: int, Lk: int) -> Tensor:
    return ~_by_tril(Lq, Lk)


def _not_itself(Lq: int, Lk: int) -> Tensor:
    i, j = _i_and_j(Lq, Lk)
    return j < i + Lk - Lq


def _wrong_sign(Lq: int, Lk: int) -> Tensor:
    i, j = _i_and_j(Lq, Lk)
    return j <= i + Lq - Lk


def _never_empty(Lq: int, Lk: int) -> Tensor:
    i, j = _i_and_j(Lq, Lk)
    return j <= i + max(Lk - Lq, 0)


def _one_of_the_future(Lq: int, Lk: int) -> Tensor:
    return torch.ones(Lq, Lk, dtype=torch.bool).tril(diagonal=Lk - Lq + 1)


def _upper_triangle(Lq: int, Lk: int) -> Tensor:
    return torch.ones(Lq, Lk, dtype=torch.bool).triu(diagonal=Lk - Lq)


def _transposed(Lq: int, Lk: int) -> Tensor:
    return _by_tril(Lq, Lk).T


def _in_floats(Lq: int, Lk: int) -> Tensor:
    return _by_tril(Lq, Lk).float()


def _in_integers(Lq: int, Lk: int) -> Tensor:
    return _by_tril(Lq, Lk).long()


def _to_be_added(Lq: int, Lk: int) -> Tensor:
    return torch.zeros(Lq, Lk).masked_fill(~_by_tril(Lq, Lk), -math.inf)


CAUSAL_MASK = Exercise(
    id="1.2",
    name="causal mask",
    title="The causal mask, bottom-right",
    section="4 · Many queries, and what each may see",
    solution_name="causal_mask",
    properties=(
        Property("square", "as many queries as keys", _square),
        Property("one new token", "Lq = 1: it sees the whole cache", _one_new_token),
        Property("some new tokens", "1 < Lq < Lk: they continue a cache", _some_new_tokens),
        Property("more queries", "Lq > Lk: the first queries see nothing", _more_queries),
        Property("nothing", "Lk = 0 or Lq = 0: an empty mask of the right shape", _nothing),
    ),
    mistakes=(
        Mistake(
            "top-left",
            "This is the **top-left** mask: query i is treated as token i. With keys in a cache, "
            "query 0 is not the first token, and would see almost nothing of its past.",
            _top_left,
        ),
        Mistake(
            "upside down",
            "Every cell is **the opposite** of what it should be: here True means that a query "
            "may see a key, not that the key is hidden.",
            _upside_down,
        ),
        Mistake(
            "not itself",
            "Each query has **its own token hidden** from it. The last query should see every key, "
            "including the newest: look again at < and ≤.",
            _not_itself,
        ),
        Mistake(
            "one token of the future",
            "Each query sees **one token of the future**: the triangle starts one column too far "
            "to the right. The last query is at key Lk - 1, not at Lk.",
            _one_of_the_future,
        ),
        Mistake(
            "upper triangle",
            "This is the **upper** triangle: each query sees its own token and all later ones. "
            "The past is the lower one, with the same diagonal.",
            _upper_triangle,
        ),
        Mistake(
            "wrong sign",
            "The distance between queries and keys has the **wrong sign**: with more keys than "
            "queries the triangle has to move to the right.",
            _wrong_sign,
        ),
        Mistake(
            "never empty",
            "With more queries than keys the distance is negative, and it **must stay negative** "
            "(yours was clamped at 0): the first queries came before any key and see nothing.",
            _never_empty,
        ),
        Mistake(
            "transposed",
            "**Rows and columns are swapped**: you need one row per query, one column per key.",
            _transposed,
        ),
        Mistake(
            "in floats",
            "The zeros and ones are in the right places, but they are **floats**. `~mask` and "
            "`masked_fill` need a mask of dtype bool.",
            _in_floats,
        ),
        Mistake(
            "in integers",
            "The zeros and ones are in the right places, but they are **integers**: `~1` is -2. "
            "Make it a mask of dtype bool.",
            _in_integers,
        ),
        Mistake(
            "to be added",
            "This is a mask **to be added to the scores**: 0 where a query may see, -inf where "
            "not. The task asks for a bool mask, True where it may see.",
            _to_be_added,
        ),
    ),
    alternative=_by_tril,
)
