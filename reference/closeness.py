"""How close is close enough? A result is judged by its distance from fp64, against a baseline's.

A fixed tolerance says nothing: 1e-2 is generous for fp32 and impossible for bf16 with large
values. So we ask a question that has an answer: is this result about as close to the truth as
plain PyTorch gets *in the same dtype*? It passes if its worst error is at most 2 × and its mean
error at most 1.5 × the baseline's, plus a band for what rounding costs anyone: two roundings of
the largest true value (eps/2 each) for the worst error, one for the mean.

Source: the rule of the flash-attention test suite (max error at most 2 × that of PyTorch),
with a mean and a band added.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Closeness:
    """Errors of a result and of its baseline against the fp64 oracle (absolute, unitless)."""

    name: str
    max_error: float
    mean_error: float
    baseline_max: float
    baseline_mean: float
    band: float
    max_ratio: float
    mean_ratio: float

    @property
    def ok(self) -> bool:
        """True when both errors are within their allowance."""
        return (
            self.max_error <= self.max_ratio * self.baseline_max + self.band
            and self.mean_error <= self.mean_ratio * self.baseline_mean + self.band / 2
        )

    def __str__(self) -> str:
        """One line: worst and mean error, and what is allowed for each."""
        most = self.max_ratio * self.baseline_max + self.band
        mean = self.mean_ratio * self.baseline_mean + self.band / 2
        return (
            f"{self.name}: max error {self.max_error:.2e} (allowed {most:.2e}), "
            f"mean {self.mean_error:.2e} (allowed {mean:.2e}) → {'ok' if self.ok else 'too far'}"
        )


def rounding_band(oracle: Tensor, dtype: torch.dtype) -> float:
    """Two roundings in `dtype` at the magnitude of the oracle's largest finite value.

    One rounding is off by at most eps/2 of the value, two by eps.
    """
    finite = oracle[oracle.isfinite()]
    largest = finite.abs().max().item() if finite.numel() else 0.0
    return torch.finfo(dtype).eps * largest


def compare(
    got: Tensor,
    baseline: Tensor,
    oracle: Tensor,
    *,
    name: str = "o",
    max_ratio: float = 2.0,
    mean_ratio: float = 1.5,
) -> Closeness:
    """Measure `got` and `baseline` (same dtype) against the fp64 `oracle`, all of one shape.

    Where the oracle is -inf (the lse of an empty row), `got` must be -inf too; elsewhere it must
    be finite. Raises ValueError for shapes that differ, AssertionError for a wrong inf or nan.
    """
    if not (got.shape == baseline.shape == oracle.shape):
        raise ValueError(
            f"{name}: shapes must agree; got {tuple(got.shape)}, baseline "
            f"{tuple(baseline.shape)}, oracle {tuple(oracle.shape)}"
        )
    oracle = oracle.to(got.device)
    empty = oracle == -math.inf
    if not torch.equal(got == -math.inf, empty) or not got[~empty].isfinite().all():
        wrong = (~empty & ~got.isfinite()).sum().item() + (empty & (got != -math.inf)).sum().item()
        raise AssertionError(
            f"{name}: {wrong} of {got.numel()} values are inf or nan, or should be"
        )
    error = (got.double() - oracle)[~empty].abs()
    base = (baseline.double().to(got.device) - oracle)[~empty].abs()
    base = base.nan_to_num(0.0, 0.0, 0.0)  # a baseline that overflows buys no allowance
    worst = [x.max().item() if x.numel() else 0.0 for x in (error, base)]
    mean = [x.mean().item() if x.numel() else 0.0 for x in (error, base)]
    band = rounding_band(oracle, got.dtype)
    return Closeness(name, worst[0], mean[0], worst[1], mean[1], band, max_ratio, mean_ratio)


def assert_close_to_oracle(
    got: Tensor,
    baseline: Tensor,
    oracle: Tensor,
    *,
    name: str = "o",
    max_ratio: float = 2.0,
    mean_ratio: float = 1.5,
) -> Closeness:
    """Assert that `got` is about as close to the fp64 `oracle` as the same-dtype `baseline`.

    Arguments as in `compare`. Returns the `Closeness`; raises an AssertionError that shows it.
    """
    closeness = compare(
        got, baseline, oracle, name=name, max_ratio=max_ratio, mean_ratio=mean_ratio
    )
    assert closeness.ok, str(closeness)
    return closeness
