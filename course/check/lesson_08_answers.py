"""Correct and wrong answers to exercise 8.1, which the check compares with."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def truth(
    q: Tensor, k: Tensor, v: Tensor, start: int, stop: int, length: int, causal: bool
) -> tuple[Tensor, Tensor]:
    """Return (o, lse) of one split, computed in fp64, query by query: the reference."""
    o, lse = torch.zeros(len(q), v.shape[1]), torch.full((len(q),), -math.inf)
    for i in range(len(q)):
        last = min(stop, length - len(q) + i + 1) if causal else stop
        if last > start:
            scores = k[start:last].double() @ q[i].double() / math.sqrt(q.shape[1])
            o[i] = (torch.softmax(scores, 0) @ v[start:last].double()).float()
            lse[i] = torch.logsumexp(scores, 0).float()
    return o, lse


def partial(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    start: int,
    stop: int,
    length: int,
    causal: bool = True,
    wrong: str = "",
) -> tuple[Tensor, Tensor]:
    """Attention over one split, with at most one catalogued fault in it."""
    Lq, n = len(q), stop - start
    if n == 0 and wrong != "empty raises":
        lse = torch.full((Lq,), 0.0 if wrong == "empty lse 0" else -math.inf)
        return torch.zeros(Lq, v.shape[1]), lse
    if wrong == "whole row":
        start, n = 0, length
    n = {"stop included": n + 1, "stop ignored": length - start}.get(wrong, n)
    keys, values = k[start : start + n], v[start : start + n]
    power = {"no scale": 0.0, "1/D": 1.0}.get(wrong, 0.5)
    scores = q @ keys.T / q.shape[1] ** power
    if causal and wrong != "no mask":
        aligned = {"top left": Lq, "split's end": stop, "capacity": len(k)}.get(wrong, length)
        first = 0 if wrong == "local index" else start
        positions = torch.arange(first, first + len(keys))
        visible = positions <= torch.arange(aligned - Lq, aligned)[:, None]
        scores = scores.masked_fill(~visible, -1e9 if wrong == "-1e9" else -math.inf)
    m = scores.amax(-1, keepdim=True)
    if wrong != "masked row":
        m = torch.where(m == -math.inf, 0.0, m)
    if wrong == "no max":
        m = torch.zeros_like(m)
    p = torch.exp(scores - m)
    total = p.sum(-1, keepdim=True)
    o = p @ values
    if wrong != "not normalised":
        unsafe = wrong in ("masked row", "0 / 0")
        o = o / (total if unsafe else torch.where(total == 0, 1.0, total))
    lse = total.log() + (0.0 if wrong == "lse without max" else m)
    lse = {"lse is m": m, "lse is l": total, "base 2": lse / math.log(2)}.get(wrong, lse)
    return o, lse[:, 0]


def over_whole_row(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    start: int,
    stop: int,
    length: int,
    causal: bool = True,
    wrong: str = "masked, not cut",
) -> tuple[Tensor, Tensor]:
    """The whole cache goes through the products; the split is cut from the scores or later."""
    Lq, positions = len(q), torch.arange(len(k))
    late = wrong == "softmax first"
    first, end = (0, length) if late else (start, stop)
    hidden = ((positions < first) | (positions >= end)).expand(Lq, -1)
    if causal:
        hidden = hidden | (positions > torch.arange(length - Lq, length)[:, None])
    scores = (q @ k.T / math.sqrt(q.shape[1])).masked_fill(hidden, -math.inf)
    lse = torch.logsumexp(scores, -1)
    p = torch.exp(scores - torch.where(lse == -math.inf, 0.0, lse)[:, None])
    if not late:
        return p @ v, lse
    if start == stop:
        return torch.zeros(Lq, v.shape[1]), torch.full((Lq,), -math.inf)
    return p[:, start:stop] @ v[start:stop], lse


def fault(name: str) -> Callable:
    """Return `partial` with one fault in it."""

    def wrong_partial(q, k, v, start, stop, length, causal=True):
        if name in ("masked, not cut", "softmax first"):
            return over_whole_row(q, k, v, start, stop, length, causal, wrong=name)
        return partial(q, k, v, start, stop, length, causal, wrong=name)

    return wrong_partial


def key_by_key(
    q: Tensor, k: Tensor, v: Tensor, start: int, stop: int, length: int, causal: bool = True
) -> tuple[Tensor, Tensor]:
    """The online softmax of lesson 03, one key at a time: correct, but written differently."""
    o, lse = torch.zeros(len(q), v.shape[1]), torch.full((len(q),), -math.inf)
    for i in range(len(q)):
        for j in range(start, stop):
            if causal and j > length - len(q) + i:
                break
            score = q[i] @ k[j] / math.sqrt(q.shape[1])
            new = torch.logaddexp(lse[i], score)
            o[i] = torch.exp(lse[i] - new) * o[i] + torch.exp(score - new) * v[j]
            lse[i] = new
    return o, lse
