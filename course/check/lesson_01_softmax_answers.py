"""Answers to exercise 1.1: another correct one, and the mistakes people make."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def by_logsumexp(scores: Tensor) -> Pair:
    """Another correct answer: the weights from the finished lse."""
    lse = torch.logsumexp(scores, dim=-1)
    empty = torch.isinf(lse) & (lse < 0)
    return torch.exp(scores - lse.masked_fill(empty, 0.0).unsqueeze(-1)), lse


def _parts(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest score (safe), the exponentials and their sum, each with the last dimension."""
    m = scores.amax(-1, keepdim=True)
    m = torch.where(m == -math.inf, 0.0, m)
    weights = torch.exp(scores - m)
    return m, weights, weights.sum(-1, keepdim=True)


def _shares(weights: Tensor, total: Tensor) -> Tensor:
    return weights / torch.where(total == 0, 1.0, total)


def not_shifted(scores: Tensor) -> Pair:
    """The formula as written."""
    weights = torch.exp(scores)
    total = weights.sum(-1, keepdim=True)
    return weights / total, total.log().squeeze(-1)


def one_maximum_for_all(scores: Tensor) -> Pair:
    """The maximum of the whole tensor, empty rows divided by 0."""
    m = scores.max()
    weights = torch.exp(scores - m)
    total = weights.sum(-1, keepdim=True)
    return weights / total, (m + total.log()).squeeze(-1)


def one_maximum_divided_safely(scores: Tensor) -> Pair:
    """The maximum of the whole tensor, and rows of zeros divided by 1."""
    weights = torch.exp(scores - scores.max())
    total = weights.sum(-1, keepdim=True)
    return _shares(weights, total), (scores.max() + total.log()).squeeze(-1)


def first_dimension(scores: Tensor) -> Pair:
    """Everything over dimension 0."""
    m = scores.amax(0, keepdim=True)
    m = torch.where(m == -math.inf, 0.0, m)
    weights = torch.exp(scores - m)
    total = weights.sum(0, keepdim=True)
    return _shares(weights, total), (m + total.log()).squeeze(0)


def empty_row_is_nan(scores: Tensor) -> Pair:
    """-inf minus -inf in a row without keys."""
    m = scores.amax(-1, keepdim=True)
    weights = torch.exp(scores - m)
    total = weights.sum(-1, keepdim=True)
    return weights / total, (m + total.log()).squeeze(-1)


def empty_row_has_lse_0(scores: Tensor) -> Pair:
    """The logarithm of the guarded sum."""
    m, weights, total = _parts(scores)
    total = torch.where(total == 0, 1.0, total)
    return weights / total, (m + total.log()).squeeze(-1)


def maximum_at_least_0(scores: Tensor) -> Pair:
    """Rows below 0 are not shifted."""
    m = scores.amax(-1, keepdim=True).clamp(min=0)
    weights = torch.exp(scores - m)
    total = weights.sum(-1, keepdim=True)
    return _shares(weights, total), (m + total.log()).squeeze(-1)


def a_little_added(scores: Tensor) -> Pair:
    """1e-6 added to avoid a division by 0."""
    m, weights, total = _parts(scores)
    total = total + 1e-6
    return weights / total, (m + total.log()).squeeze(-1)


def division_by_zero(scores: Tensor) -> Pair:
    """A safe maximum, but an unguarded division."""
    m, weights, total = _parts(scores)
    return weights / total, (m + total.log()).squeeze(-1)


def huge_for_infinite(scores: Tensor) -> Pair:
    """-1e9 in place of -inf."""
    return empty_row_is_nan(scores.masked_fill(scores == -math.inf, -1e9))


def lse_without_maximum(scores: Tensor) -> Pair:
    """The maximum is not added back."""
    _, weights, total = _parts(scores)
    return _shares(weights, total), total.log().squeeze(-1)


def lse_minus_maximum(scores: Tensor) -> Pair:
    """The maximum is subtracted once more."""
    m, weights, total = _parts(scores)
    return _shares(weights, total), (total.log() - m).squeeze(-1)


def logarithm_of_base_2(scores: Tensor) -> Pair:
    """Base 2 for the sum alone."""
    m, weights, total = _parts(scores)
    return _shares(weights, total), (m + total.log2()).squeeze(-1)


def lse_in_base_2(scores: Tensor) -> Pair:
    """Base 2 for everything."""
    m, weights, total = _parts(scores)
    return _shares(weights, total), (m / math.log(2) + total.log2()).squeeze(-1)


def lse_keeps_dimension(scores: Tensor) -> Pair:
    """A last dimension of 1 remains."""
    m, weights, total = _parts(scores)
    return _shares(weights, total), m + total.log()
