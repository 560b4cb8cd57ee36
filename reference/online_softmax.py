"""Softmax in one pass: keep a maximum, a sum and a weighted sum, and change rulers as you go.

A `State` summarises any set of keys by three things per query row: `m`, the largest score;
`l`, the sum of exp(score − m); `acc`, the same sum weighted by the values. Two states merge into
the state of the union, so keys may be visited in any order, in any grouping, by any worker.

Source: Milakov & Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3 and
section 3.1 (the merge operator ⊕); the weighted sum: Rabe & Staats 2021.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class State(NamedTuple):
    """What one worker knows of the keys it has seen: `m (rows,)`, `l (rows,)`, `acc (rows, D)`."""

    m: Tensor
    l: Tensor
    acc: Tensor


def softmax_three_pass(x: Tensor) -> Tensor:
    """Safe softmax of `x (n,)`, the textbook way: max, sum, divide. Reads x three times."""
    m = torch.tensor(-math.inf, dtype=x.dtype)
    for x_i in x:  # pass 1
        m = torch.maximum(m, x_i)
    l = torch.zeros((), dtype=x.dtype)
    for x_i in x:  # pass 2
        l = l + torch.exp(x_i - m)
    return torch.stack([torch.exp(x_i - m) / l for x_i in x])  # pass 3


def softmax_two_pass(x: Tensor) -> Tensor:
    """Safe softmax of `x (n,)` reading x twice: max and sum are found together.

    Milakov & Gimelshein 2018, algorithm 3.
    """
    m = torch.tensor(-math.inf, dtype=x.dtype)
    l = torch.zeros((), dtype=x.dtype)
    for x_i in x:  # pass 1
        m_new = torch.maximum(m, x_i)
        l = l * torch.exp(m - m_new) + torch.exp(x_i - m_new)
        m = m_new
    return torch.stack([torch.exp(x_i - m) / l for x_i in x])  # pass 2


def init(
    rows: int, D: int, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> State:
    """The state of "no keys yet": m = −inf, l = 0, acc = 0. It is the identity of `merge`."""
    return State(
        torch.full((rows,), -math.inf, dtype=dtype, device=device),
        torch.zeros(rows, dtype=dtype, device=device),
        torch.zeros(rows, D, dtype=dtype, device=device),
    )


def rescale(m_old: Tensor, m_new: Tensor) -> Tensor:
    """exp(m_old − m_new), the factor that moves a sum from one ruler to another; `(rows,)`.

    m_new ≥ m_old. Where both are −inf, nothing has been seen and the factor is 0, not nan: only the
    subtraction uses a safe copy of m_new; the state keeps its −inf.
    """
    safe = torch.where(m_new == -math.inf, torch.zeros_like(m_new), m_new)
    return torch.exp(m_old - safe)


def update(state: State, scores: Tensor, v: Tensor) -> State:
    """The state after seeing one more tile of keys.

    scores: (rows, n), already scaled, −inf where masked; v: (n, D). n may be 0.
    Returns a new State; nothing is modified.

    Source: Dao 2023, "FlashAttention-2", algorithm 1, lines 8–10 (acc stays unnormalised).
    """
    if scores.shape[-1] == 0:
        return state
    m = torch.maximum(state.m, scores.amax(-1))  # (rows,)
    correction = rescale(state.m, m)  # (rows,)
    p = rescale(scores, m[:, None])  # (rows, n): the new keys, measured from the new max
    l = correction * state.l + p.sum(-1)
    acc = correction[:, None] * state.acc + p @ v
    return State(m, l, acc)


def merge(x: State, y: State) -> State:
    """The state of all keys that x or y has seen. Associative, commutative, identity `init`.

    Shapes must agree: m, l (rows,), acc (rows, D).

    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> merge(State(zero, one, torch.tensor([[2.0]])), State(zero, one, torch.tensor([[4.0]])))
    State(m=tensor([0.]), l=tensor([2.]), acc=tensor([[6.]]))

    Equal maxima: the same ruler, so the sums simply add.
    """
    m = torch.maximum(x.m, y.m)
    cx, cy = rescale(x.m, m), rescale(y.m, m)
    return State(m, cx * x.l + cy * y.l, cx[:, None] * x.acc + cy[:, None] * y.acc)


def finalize(state: State) -> tuple[Tensor, Tensor]:
    """Normalise once, at the end: `o (rows, D) = acc / l`, `lse (rows,) = m + log l` (natural).

    An empty state gives o = 0 and lse = −inf.
    """
    empty = state.l == 0
    o = state.acc / torch.where(empty, torch.ones_like(state.l), state.l)[:, None]
    return o, torch.where(empty, -math.inf, state.m + state.l.log())


def merge_states(
    o: Tensor | Sequence[Tensor], lse: Tensor | Sequence[Tensor], dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Merge any number of finished partial results, over disjoint sets of keys, into one.

    Their union is a weighted mean of the o, with weights exp(lse − lse_total).

    o: (S, ..., D), or S tensors (..., D), each normalised over its own keys, of any float dtype;
    lse: (S, ...), or S tensors (...), natural log, −inf for a partial that saw no key (its o must
    be finite; it gets weight 0). flash-attn 2 marks such a partial by lse = +inf and o = 0: it gets
    weight 0 as well. +inf with any other o is no answer (a score of +inf makes a softmax NaN, by
    inf − inf), and makes the merge NaN, as a NaN does.
    Returns o (..., D) in `dtype` (default: that of o) and lse (...), fp32 (both computed in fp64
    if either input is). Raises ValueError for shapes that differ, or for no partial at all.

    Source: Dao et al. 2023, "Flash-Decoding for long-context inference", step 3; the algebra is
    Milakov & Gimelshein's ⊕ with lse = m + log l.

    >>> merge_states([torch.tensor([2.0]), torch.tensor([8.0])], torch.tensor([0.0, 0.0]))
    (tensor([5.]), tensor(0.6931))
    """
    if not isinstance(o, Tensor) and len(o) == 0:
        raise ValueError("o must hold at least one partial result; got none")
    o, lse = (x if isinstance(x, Tensor) else torch.stack(list(x)) for x in (o, lse))
    if o.shape[:-1] != lse.shape or o.shape[0] == 0:
        raise ValueError(
            f"o must be (S, ..., D) and lse (S, ...), S ≥ 1; got {tuple(o.shape)} and "
            f"{tuple(lse.shape)}"
        )
    wide = torch.promote_types(torch.promote_types(o.dtype, lse.dtype), torch.float32)
    lse = lse.to(wide)
    unmarked = torch.where((o == 0).all(-1), -math.inf, math.nan)  # what +inf stands for
    lse = torch.where(lse == math.inf, unmarked.to(wide), lse)
    m = lse.amax(0)  # (...)
    weights = rescale(lse, m)  # (S, ...)
    total = weights.sum(0)
    empty = total == 0
    merged = (weights[..., None] * o.to(wide)).sum(0) / torch.where(empty, 1.0, total)[..., None]
    merged_lse = torch.where(empty, -math.inf, m + total.log())
    return merged.to(o.dtype if dtype is None else dtype), merged_lse
