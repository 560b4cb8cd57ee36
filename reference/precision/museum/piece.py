"""What a museum piece is, and how far a version of it is from the truth."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reference.precision.rounding import unit_roundoff

U32 = unit_roundoff(torch.float32)


@dataclass(frozen=True)
class Piece:
    """A bug of public code, rebuilt.

    name: short and unique. project, link: where it was reported. what: the symptom, one sentence.
    why: what goes wrong. fix: what the mended version does about it.
    broken, mended: the same function twice, of the arguments that `make_input()` returns; each
    gives a tensor or a tuple of tensors. wanted: the truth for these, in fp64 or integers.
    bound: the largest absolute error that rounding explains, for these arguments.
    """

    name: str
    project: str
    link: str
    what: str
    why: str
    fix: str
    broken: Callable[..., Any]
    mended: Callable[..., Any]
    make_input: Callable[[], tuple]
    wanted: Callable[..., Any]
    bound: Callable[..., float]

    def error(self, version: Callable[..., Any]) -> float:
        """The largest absolute error of a version on the piece's input; nan if it gives a nan."""
        return distance(version(*self.make_input()), self.wanted(*self.make_input()))

    @property
    def allowed(self) -> float:
        """The bound for the piece's input."""
        return self.bound(*self.make_input())

    def shows(self) -> bool:
        """True if the broken version is outside the bound, or nan, and the mended one inside."""
        return (
            not self.error(self.broken) <= self.allowed and self.error(self.mended) <= self.allowed
        )


def distance(got: Any, wanted: Any) -> float:
    """The largest |got − wanted| of two tensors, or of two tuples of tensors; nan if any is nan.

    Equal infinities are at distance 0. Raises ValueError for shapes or lengths that differ.
    """
    if isinstance(wanted, tuple):
        if not isinstance(got, tuple) or len(got) != len(wanted):
            raise ValueError(f"wanted {len(wanted)} tensors; got {type(got).__name__}")
        found = [distance(g, w) for g, w in zip(got, wanted, strict=True)]
        return math.nan if any(map(math.isnan, found)) else max(found)
    if got.shape != wanted.shape:
        raise ValueError(f"wanted shape {tuple(wanted.shape)}; got {tuple(got.shape)}")
    if not wanted.is_floating_point():
        return float((got.long() - wanted.long()).abs().max())
    got, wanted = got.double(), wanted.double()
    return torch.where(got == wanted, 0.0, (got - wanted).abs()).max().item()


def attend(scores: Tensor, v: Tensor) -> Tensor:
    """The truth for one row: softmax(scores) v in fp64; scores (n,), v (n, D)."""
    return torch.softmax(scores.double(), 0) @ v.double()


def sums_bound(scores: Tensor, v: Tensor) -> float:
    """The error of a softmax-weighted sum of n keys in fp32, in any order of adding, at most.

    Counted as in `rounding.split_bound`, for every element alike: 2u (n + R + 4) max |v|.
    """
    seen = scores[scores.isfinite()].double()
    spread = (seen.max() - seen.min()).item()
    return 2 * U32 * (len(seen) + spread + 4) * v[v.isfinite()].abs().max().item()


def generator(seed: int) -> torch.Generator:
    """Return a generator, so that a piece's input is the same each time it is made."""
    return torch.Generator().manual_seed(seed)
