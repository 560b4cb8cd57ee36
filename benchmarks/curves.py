"""What shape has a curve of time against context? Two numbers say it.

    growth   how much the time rises over the whole curve, as a share of its middle
    misfit   how far the points lie from the best straight line, as a share of that rise

A curve that hardly grows is *flat*. One that grows along a line is *linear*. One that grows and
does not follow its line is *stepped*: a staircase of n equal treads has a misfit of about 0.29 / n.
One that is farther off than any staircase is *unclear*: noise, or another shape. And points
that lie as near to the line as their own samples lie to each other are on it: that is `noise`.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

FLAT = 0.1  # grows by less than a tenth
UNCLEAR = 0.3  # the worst staircase, of two treads, is off its line by 0.17
STRAIGHT = 0.025  # a staircase of up to eleven treads is off its line by more


@dataclass(frozen=True)
class Shape:
    """growth and misfit as above (misfit is 0 for a curve that does not rise); prints well.

    noise: how far the samples of a point lie from it, as a share of the rise; 0 if not known.
    """

    growth: float
    misfit: float
    noise: float = 0.0

    @property
    def name(self) -> str:
        """ "flat", "linear", "stepped" or "unclear"."""
        if self.growth < FLAT:
            return "flat"
        if self.misfit > UNCLEAR:
            return "unclear"
        return "linear" if self.misfit < max(STRAIGHT, self.noise) else "stepped"

    def __str__(self) -> str:
        return f"{self.name} (growth {self.growth:.2f}, misfit {self.misfit:.3f})"


def line(contexts: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """Return intercept and slope of the least-squares line.

    >>> line([1, 2, 3], [5.0, 7.0, 9.0])
    (3.0, 2.0)

    Raises ValueError for fewer than three points, or unequal lengths.
    """
    if len(contexts) != len(times) or len(times) < 3:
        raise ValueError(f"three points or more; got {len(contexts)} and {len(times)}")
    x = torch.tensor(contexts, dtype=torch.float64)
    y = torch.tensor(times, dtype=torch.float64)
    dx = x - x.mean()
    slope = float((dx * y).sum() / (dx * dx).sum())
    return float(y.mean() - slope * x.mean()), slope


def noise_of(points: Sequence[Sequence[float]]) -> float:
    """Return half the typical distance between the quartiles, of [first, median, third] each.

    >>> noise_of([[1.0, 2.0, 3.0], [2.0, 4.0, 9.0], [3.0, 4.0, 5.5]])
    1.25
    """
    return statistics.median((third - first) / 2 for first, _, third in points)


def shape_of(contexts: Sequence[float], times: Sequence[float], noise: float = 0.0) -> Shape:
    """Measure a curve: contexts in tokens, evenly spaced, times and their noise in any unit.

    >>> shape_of(range(8), [1, 1, 2, 2, 3, 3, 4, 4]).name
    'stepped'

    Raises ValueError as `line` does.
    """
    intercept, slope = line(contexts, times)
    rise = slope * (max(contexts) - min(contexts))
    middle = statistics.median(times)
    if rise <= 0:
        return Shape(max(0.0, rise / middle), 0.0)
    off = [t - intercept - slope * x for x, t in zip(contexts, times, strict=True)]
    misfit = (sum(d * d for d in off) / len(off)) ** 0.5 / rise
    return Shape(rise / middle, misfit, noise / rise)
