"""Answers to exercise 1.3: another correct one, and the mistakes people make."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def by_matmul(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Another correct answer: the rows of a group stacked, one matrix product per KV head."""
    B, Lq, Hq, width = q.shape
    Hkv, G = k.shape[2], Hq // k.shape[2]
    rows = q.reshape(B, Lq, Hkv, G, width).permute(0, 2, 3, 1, 4).reshape(B, Hkv, G * Lq, width)
    p = torch.softmax(rows @ k.permute(0, 2, 3, 1) * width**-0.5, dim=-1)
    o = (p @ v.permute(0, 2, 1, 3)).reshape(B, Hkv, G, Lq, v.shape[3])
    return o.permute(0, 3, 1, 2, 4).reshape(B, Lq, Hq, v.shape[3])


def grouped_with(scale: float | None = None, dim: int = -1) -> Callable:
    """A grouped attention with the wrong scale, or the softmax over the wrong dimension."""

    def wrong(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        factor = q.shape[-1] ** -0.5 if scale is None else q.shape[-1] ** scale
        return _weighted(torch.softmax(factor * _scores(q, k), dim), v)

    return wrong


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return torch.einsum("bqhgd,bkhd->bhgqk", q.unflatten(2, (k.shape[2], -1)), k)


def _weighted(p: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhgqk,bkhd->bqhgd", p, v).flatten(2, 3)


def scaled_after(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The scale on the weights."""
    return _weighted(q.shape[-1] ** -0.5 * torch.softmax(_scores(q, k), -1), v)


def scaled_by_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """√Hq in place of √D."""
    return _weighted(torch.softmax(q.shape[2] ** -0.5 * _scores(q, k), -1), v)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A causal mask that the task does not ask for."""
    Lq, Lk = q.shape[1], k.shape[1]
    visible = torch.ones(Lq, Lk, dtype=torch.bool).tril(Lk - Lq)
    scores = (q.shape[-1] ** -0.5 * _scores(q, k)).masked_fill(~visible, -math.inf)
    return _weighted(torch.softmax(scores, -1), v)


def joined_otherwise(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Heads split correctly, joined as (G, Hkv)."""
    p = torch.softmax(q.shape[-1] ** -0.5 * _scores(q, k), -1)
    return torch.einsum("bhgqk,bkhd->bqghd", p, v).flatten(2, 3)


def split_otherwise(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Heads split as (G, Hkv), joined as (Hkv, G)."""
    grouped = q.unflatten(2, (-1, k.shape[2]))  # (B, Lq, G, Hkv, D)
    p = torch.softmax(q.shape[-1] ** -0.5 * torch.einsum("bqghd,bkhd->bhgqk", grouped, k), -1)
    return _weighted(p, v)


def dealt_like_cards(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Head h reads KV head h % Hkv."""
    grouped = q.unflatten(2, (-1, k.shape[2]))  # (B, Lq, G, Hkv, D)
    p = torch.softmax(q.shape[-1] ** -0.5 * torch.einsum("bqghd,bkhd->bghqk", grouped, k), -1)
    return torch.einsum("bghqk,bkhd->bqghd", p, v).flatten(2, 3)


def repeated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """K and V copied for each query head."""
    G = q.shape[2] // k.shape[2]
    return grouped_with()(q, k.repeat_interleave(G, 2), v.repeat_interleave(G, 2))


def not_moved_back(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries and heads mixed up by a reshape."""
    right = grouped_with()(q, k, v)
    return right.transpose(1, 2).reshape(right.shape)
