"""What shape does a curve of time against context have? Two numbers tell.

    growth   how much the time rises over the whole curve, as a share of its median
    misfit   how far the points lie from the best straight line, as a share of that rise

    flat      it grows by less than a tenth (`FLAT`)
    linear    it grows, and its misfit is below 0.025 (`STRAIGHT`), or below its noise
    bent      not linear, but two straight pieces that meet fit it that closely
    stepped   it grows and is neither; a staircase of n equal treads has a misfit of about 0.29 / n
    unclear   its misfit is above 0.3 (`UNCLEAR`), worse than any staircase's, or is hidden by
              noise above 0.1 (`BLIND`), which would hide a staircase of three treads too

Points count as on the line if they are no farther from it than from another run's points: the
latter is the `noise`. One run proves little on a shared machine, so `verdict` asks for two.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FLAT = 0.1  # grows by less than a tenth
UNCLEAR = 0.3  # the worst staircase, of two treads, is off its line by 0.17
BLIND = 0.1
ALIKE = 0.7  # correlation of two runs' residuals: by chance, one pair in a thousand exceeds it
SURE = 1.5  # times the noise: chance alone seldom leaves more
STRAIGHT = 0.025  # a staircase of up to eleven treads is off its line by more


@dataclass(frozen=True)
class Shape:
    """growth and misfit as above (misfit is 0 for a curve that does not rise); prints nicely.

    bent: the misfit of the best two straight pieces, as a share of the same rise. noise: how far
    the samples of a point lie from it, as a share of the rise; 0 if unknown.
    """

    growth: float
    misfit: float
    bent: float = 0.0
    noise: float = 0.0

    @property
    def name(self) -> str:
        """ "flat", "linear", "bent", "stepped" or "unclear"."""
        on_it = max(STRAIGHT, self.noise)
        if self.growth < FLAT:
            return "flat"
        if self.misfit < on_it:
            return "linear" if self.misfit < STRAIGHT or self.noise < BLIND else "unclear"
        if self.bent < min(on_it, self.misfit / 2):
            return "bent"
        return "unclear" if self.misfit > UNCLEAR else "stepped"

    def __str__(self) -> str:
        return f"{self.name} (growth {self.growth:.2f}, misfit {self.misfit:.3f})"


def line(contexts: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """Return intercept and slope of the least-squares line.

    >>> line([1, 2, 3], [5.0, 7.0, 9.0])
    (3.0, 2.0)

    Raises ValueError for fewer than three points, or unequal lengths.
    """
    if len(contexts) != len(times) or len(times) < 3:
        raise ValueError(
            "contexts and times must be equally many, three points or more; got "
            f"{len(contexts)} and {len(times)}"
        )
    x = torch.tensor(contexts, dtype=torch.float64)
    y = torch.tensor(times, dtype=torch.float64)
    dx = x - x.mean()
    slope = float((dx * y).sum() / (dx * dx).sum())
    return float(y.mean() - slope * x.mean()), slope


def shape_of(contexts: Sequence[float], times: Sequence[float], noise: float = 0.0) -> Shape:
    """Measure a curve: contexts in tokens, evenly spaced; times and their noise in any one unit.

    >>> shape_of(range(8), [1, 1, 2, 2, 3, 3, 4, 4]).name
    'stepped'

    Raises ValueError as `line` does.
    """
    _, slope = line(contexts, times)
    rise = slope * (max(contexts) - min(contexts))
    middle = statistics.median(times)
    if rise <= 0:
        return Shape(max(0.0, rise / middle), 0.0)
    straight, bent = (
        _size(x) / rise for x in (off_line(contexts, times), _off_knee(contexts, times))
    )
    return Shape(rise / middle, straight, bent, noise / rise)


def off_line(contexts: Sequence[float], times: Sequence[float]) -> Tensor:
    """Return how far each point lies above its best straight line (fp64)."""
    intercept, slope = line(contexts, times)
    x = torch.tensor(contexts, dtype=torch.float64)
    return torch.tensor(times, dtype=torch.float64) - intercept - slope * x


def _off_knee(contexts: Sequence[float], times: Sequence[float]) -> Tensor:
    """The same for the best two straight pieces that meet at one of the points."""
    x = torch.tensor(contexts, dtype=torch.float64)
    x = (x - x[0]) / (x[-1] - x[0])
    y = torch.tensor(times, dtype=torch.float64)
    best = off_line(contexts, times)
    for knee in x[2:-2]:
        columns = torch.stack([torch.ones_like(x), x, (x - knee).clamp(min=0)], dim=1)
        off = y - columns @ torch.linalg.lstsq(columns, y[:, None]).solution[:, 0]
        best = min(best, off, key=_size)
    return best


def _size(off: Tensor) -> float:
    return float(off.square().mean().sqrt())


def verdict(contexts: Sequence[float], runs: Sequence[Sequence[Sequence[float]]]) -> str:
    """Say what two runs agree on or, if they do not, what each of them says.

    runs: of the same curve, each [first quartile, median, third] for every context. Whatever
    differs between the two is noise. Steps and bends must be in the same places: a point that
    chance puts above the line in one run may be above or below it in the next.

    Raises ValueError unless there are two.
    """
    if len(runs) != 2:
        raise ValueError(f"runs must hold exactly two runs; got {len(runs)}")
    medians = [[median for _, median, _ in points] for points in runs]
    reach = max(contexts) - min(contexts)
    rises = [abs(line(contexts, times)[1]) * reach or 1.0 for times in medians]
    # shares of the rise: a second run that is slower throughout has the same shape
    off = torch.stack([off_line(contexts, t) / r for t, r in zip(medians, rises, strict=True)])
    noise = SURE * _size(off[0] - off[1]) / 2**0.5
    shapes = [shape_of(contexts, t, noise * r) for t, r in zip(medians, rises, strict=True)]
    names = [shape.name for shape in shapes]
    if len({*names}) > 1:
        return f"no verdict: {', then '.join(names)}"
    if names[0] in ("bent", "stepped") and torch.corrcoef(off)[0, 1] < ALIKE:
        return f"no verdict: {names[0]} in both runs, but in different places"
    return str(shapes[0])
