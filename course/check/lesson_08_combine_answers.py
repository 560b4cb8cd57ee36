"""Correct and wrong answers to exercise 8.2, which the check compares with."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def merged(o_partial: Tensor, lse_partial: Tensor) -> tuple[Tensor, Tensor]:
    """Return the combined (o, lse), computed in fp64: the reference."""
    lse = torch.logsumexp(lse_partial.double(), 0)
    weights = torch.exp(lse_partial.double() - torch.where(lse == -math.inf, 0.0, lse))
    return (weights[..., None] * o_partial.double()).sum(0).float(), lse.float()


def combined(o: Tensor, lse: Tensor, wrong: str = "") -> tuple[Tensor, Tensor]:
    """The combine, with at most one catalogued fault in it."""
    m = lse.amax() if wrong == "max of all rows" else lse.amax(0)
    if wrong != "nothing":
        m = torch.where(m == -math.inf, 0.0, m)
    if wrong in ("no max", "no max, safe division"):
        m = torch.zeros_like(m)
    weights = torch.exp2(lse - m) if wrong == "base 2" else torch.exp(lse - m)
    total = weights.sum(0)
    log_total = m + total.log()
    divisor = (
        total if wrong in ("nothing", "no max", "0 / 0") else torch.where(total == 0, 1.0, total)
    )
    if wrong == "mean":
        weights, divisor = torch.ones_like(lse), torch.tensor(float(len(lse)))
    if wrong == "mean of non-empty":
        weights = (lse > -math.inf).float()
        divisor = weights.sum(0).clamp(min=1)
    if wrong == "by lse":
        weights, divisor = lse, lse.sum(0)
    if wrong == "softmax of the wrong dim":
        weights, divisor = lse.softmax(-1), torch.ones_like(total)
    if wrong == "not divided":
        divisor = torch.ones_like(total)
    log_totals = {
        "lse max": lse.amax(0),
        "lse sum": lse.sum(0),
        "lse without max": total.log(),
        "exp(lse)": log_total.exp(),
        "base 2": m + total.log2(),
    }
    o = (weights[..., None] * o).sum(0) / divisor[..., None]
    return o, log_totals.get(wrong, log_total)


def pairwise(o: Tensor, lse: Tensor, wrong: str) -> tuple[Tensor, Tensor]:
    """Merge the splits pairwise, ignoring that both may be empty."""
    if wrong == "pairwise from nothing":
        o = torch.cat([torch.zeros_like(o[:1]), o])
        lse = torch.cat([torch.full_like(lse[:1], -math.inf), lse])
    so_far, total = o[0], lse[0]
    for o_s, lse_s in zip(o[1:], lse[1:], strict=True):
        new = torch.logaddexp(total, lse_s)
        so_far = (
            torch.exp(total - new)[..., None] * so_far + torch.exp(lse_s - new)[..., None] * o_s
        )
        total = new
    return so_far, total


def fault(name: str) -> Callable:
    """Return the combine with one fault in it."""
    merge = pairwise if name.startswith("pairwise") else combined
    return lambda o_partial, lse_partial: merge(o_partial, lse_partial, wrong=name)


def one_after_the_other(o_partial: Tensor, lse_partial: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the splits pairwise, in order: correct, but written differently."""
    o, lse = torch.zeros_like(o_partial[0]), torch.full_like(lse_partial[0], -math.inf)
    for o_s, lse_s in zip(o_partial, lse_partial, strict=True):
        new = torch.logaddexp(lse, lse_s)
        ruler = torch.where(new == -math.inf, 0.0, new)
        o = torch.exp(lse - ruler)[..., None] * o + torch.exp(lse_s - ruler)[..., None] * o_s
        lse = new
    return o, lse
