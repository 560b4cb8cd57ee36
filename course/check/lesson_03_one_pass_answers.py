"""Answers to exercise 3.1: a correct one, written differently, and the mistakes people make."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Parts = tuple[Tensor, Tensor, Tensor]  # m, l, acc


def _start(rows: int, D: int, m: float = -math.inf) -> Parts:
    return torch.full((rows,), m), torch.zeros(rows), torch.zeros(rows, D)


def _measured(m: Tensor, scores: Tensor) -> Parts:
    """The new maximum, the factor for the old sums, the exponentials of the new keys."""
    m_new = torch.maximum(m, scores.amax(-1))
    return m_new, torch.exp(m - m_new), torch.exp(scores - m_new[:, None])


def _right(state: Parts, scores: Tensor, v: Tensor) -> Parts:
    m, c, p = _measured(state[0], scores)
    return m, c * state[1] + p.sum(-1), c[:, None] * state[2] + p @ v


def _all(tiles, state: Parts, step: Callable = _right) -> Parts:
    for scores, v in tiles:
        state = step(state, scores, v)
    return state


def with_step(step: Callable) -> Callable:
    """The whole answer, with one step replaced."""

    def one_pass(tiles, rows, D):
        m, l, acc = _all(tiles, _start(rows, D), step)
        return acc / l[:, None], m + l.log()

    return one_pass


def by_lse(tiles, rows, D):
    """Another correct answer: carries a finished (o, lse) instead of (m, l, acc)."""
    o, lse = torch.zeros(rows, D), torch.full((rows,), -math.inf)
    for scores, v in tiles:
        lse_tile = torch.logsumexp(scores, -1)
        lse_new = torch.logaddexp(lse, lse_tile)
        old, p = torch.exp(lse - lse_new), torch.exp(scores - lse_new[:, None])
        o, lse = old[:, None] * o + p @ v, lse_new
    return o, lse


def nothing_rescaled(state, scores, v):
    """Neither l nor acc is rescaled when the maximum grows."""
    m, _, p = _measured(state[0], scores)
    return m, state[1] + p.sum(-1), state[2] + p @ v


def acc_not_rescaled(state, scores, v):
    """l is rescaled when the maximum grows, acc is not."""
    m, c, p = _measured(state[0], scores)
    return m, c * state[1] + p.sum(-1), state[2] + p @ v


def l_not_rescaled(state, scores, v):
    """acc is rescaled when the maximum grows, l is not."""
    m, c, p = _measured(state[0], scores)
    return m, state[1] + p.sum(-1), c[:, None] * state[2] + p @ v


def divided_in_the_loop(state, scores, v):
    """A correct step, then the division that belongs after the loop."""
    m, l, acc = _right(state, scores, v)
    return m, l, acc / l[:, None]


def factor_upside_down(state, scores, v):
    """exp(m_new − m_old), which is infinite at the first tile."""
    m, _, p = _measured(state[0], scores)
    c = torch.exp(m - state[0])
    return m, c * state[1] + p.sum(-1), c[:, None] * state[2] + p @ v


def tile_on_its_own_ruler(state, scores, v):
    """The new keys measured from their own tile's maximum."""
    m, c, _ = _measured(state[0], scores)
    p = torch.exp(scores - scores.amax(-1, keepdim=True))
    return m, c * state[1] + p.sum(-1), c[:, None] * state[2] + p @ v


def last_maximum(state, scores, v):
    """The ruler follows every tile, down as well as up."""
    m = scores.amax(-1)
    c, p = torch.exp(state[0] - m), torch.exp(scores - m[:, None])
    return m, c * state[1] + p.sum(-1), c[:, None] * state[2] + p @ v


def one_maximum(state, scores, v):
    """One ruler for all rows."""
    m = torch.maximum(state[0], scores.max())
    c, p = torch.exp(state[0] - m), torch.exp(scores - m[:, None])
    return m, c * state[1] + p.sum(-1), c[:, None] * state[2] + p @ v


def never_divided(tiles, rows, D):
    """Returns acc for o."""
    m, l, acc = _all(tiles, _start(rows, D))
    return acc, m + l.log()


def m_stays_behind(tiles, rows, D):
    """Never sets m to the new maximum; lse takes the last one found."""
    m, l, acc = _start(rows, D)
    for scores, v in tiles:
        m_new, l, acc = _right((m, l, acc), scores, v)
    return acc / l[:, None], m_new + l.log()


def m_never_set(tiles, rows, D):
    """Never sets m to the new maximum, and returns that m."""
    m, l, acc = _start(rows, D)
    for scores, v in tiles:
        _, l, acc = _right((m, l, acc), scores, v)
    return acc / l[:, None], m + l.log()


def no_maximum(tiles, rows, D):
    """Sums the plain exponentials."""
    _, l, acc = _start(rows, D)
    for scores, v in tiles:
        p = torch.exp(scores)
        l, acc = l + p.sum(-1), acc + p @ v
    return acc / l[:, None], l.log()


def swapped(tiles, rows, D):
    """Returns (lse, o)."""
    o, lse = by_lse(tiles, rows, D)
    return lse, o


def lse_without_m(tiles, rows, D):
    """Returns log l for lse."""
    _, l, acc = _all(tiles, _start(rows, D))
    return acc / l[:, None], l.log()


def starting_at(first: float) -> Callable:
    """The maximum starts at a finite number instead of −inf."""

    def one_pass(tiles, rows, D):
        m, l, acc = _all(tiles, _start(rows, D, m=first))
        return acc / l[:, None], m + l.log()

    return one_pass


def averaged(tiles, rows, D):
    """The mean of the tiles' own attention outputs."""
    finished = [(torch.softmax(s, -1) @ v, torch.logsumexp(s, -1)) for s, v in tiles]
    o, lse = (torch.stack(parts) for parts in zip(*finished, strict=True))
    return o.mean(0), torch.logsumexp(lse, 0)


def read_twice(tiles, rows, D):
    """A loop for the maximum, then one for the sums."""
    m, l, acc = _start(rows, D)
    for scores, _ in tiles:
        m = torch.maximum(m, scores.amax(-1))
    for scores, v in tiles:
        p = torch.exp(scores - m[:, None])
        l, acc = l + p.sum(-1), acc + p @ v
    return acc / l[:, None], m + l.log()


def copies_kept(tiles, rows, D):
    """Collects copies of the tiles: right, while memory lasts."""
    return tiles_kept([(scores.clone(), v.clone()) for scores, v in tiles], rows, D)


def tiles_kept(tiles, rows, D):
    """Collects the tiles and looks at them once all have arrived."""
    kept = list(tiles)
    scores, v = torch.cat([s for s, _ in kept], -1), torch.cat([v for _, v in kept])
    return torch.softmax(scores, -1) @ v, torch.logsumexp(scores, -1)
