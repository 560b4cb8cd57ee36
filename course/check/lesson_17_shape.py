"""Exercise 17.3: is a curve of time against context flat, linear or stepped?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen

SECTION = "8 · Three shapes"
NOISE = 0.005  # standard deviation, as a share of the time


def contexts_of(rng: Generator) -> Tensor:
    """Return 40 to 64 evenly spaced contexts, which begin far from 0."""
    count = integer(rng, 40, 64)
    return (torch.arange(count, dtype=torch.float64) + integer(rng, 3, 4) * count) * 1024


def uniform(rng: Generator, low: float, high: float) -> float:
    """Return a number between low and high."""
    return low + (high - low) * torch.rand((), generator=rng).item()


def _ask(
    answer: Callable, rng: Generator, contexts: Tensor, clean: Tensor, wanted: str, given: str
) -> Seen:
    noise = 1 + NOISE * torch.randn(clean.shape, generator=rng, dtype=clean.dtype)

    def tidy(contexts: Tensor, times: Tensor) -> object:
        name = answer(contexts, times)
        return name.strip().lower() if isinstance(name, str) else name

    return Seen.of(
        tidy, (contexts, clean * noise), wanted=wanted, given=f"{len(contexts)} points, {given}"
    )


def staircase(contexts: Tensor, steps: int, rise: float) -> Tensor:
    """Return 1 … 1 + rise in `steps` equal steps, the last as long as the others."""
    done = (contexts - contexts[0]) / (contexts[-1] - contexts[0]) * (steps + 1)
    return 1 + rise * done.floor().clamp(max=steps) / steps


def _flat(answer: Callable, rng: Generator) -> list[Seen]:
    x, unit = contexts_of(rng), uniform(rng, 2, 20)
    ramp = (x - x[0]) / (x[-1] - x[0])
    gentle = unit * (1 + uniform(rng, 0.02, 0.06) * ramp)
    falling = unit * (1 - 0.3 * ramp)
    pairs = ((gentle, "rising by a few per cent"), (falling, "falling by 30 %"))
    return [_ask(answer, rng, x, y, "flat", given) for y, given in pairs]


def _linear(answer: Callable, rng: Generator) -> list[Seen]:
    x, seen = contexts_of(rng), []
    for rise in (uniform(rng, 0.5, 0.7), uniform(rng, 8.0, 40.0)):
        y = uniform(rng, 2, 20) * (1 + rise * (x - x[0]) / (x[-1] - x[0]))
        seen.append(_ask(answer, rng, x, y, "linear", f"rising to {1 + rise:.1f} times the start"))
    return seen


def _stepped(answer: Callable, rng: Generator) -> list[Seen]:
    x, seen = contexts_of(rng), []
    for steps in (integer(rng, 1, 2), integer(rng, 3, 4), 5):
        y = uniform(rng, 2, 20) * staircase(x, steps, uniform(rng, 1.0, 3.0))
        seen.append(_ask(answer, rng, x, y, "stepped", f"rising in {steps} steps"))
    return seen


def _units(answer: Callable, rng: Generator) -> list[Seen]:
    x = contexts_of(rng)
    ramp = (x - x[0]) / (x[-1] - x[0])
    return [
        _ask(answer, rng, x * scale, y * unit, wanted, given)
        for scale, unit, given in (
            (1.0, 1e-4, "in seconds"),
            (1e-3, 1e5, "in ns, and thousands of tokens"),
        )
        for wanted, y in (
            ("flat", 1 + 0.03 * ramp),
            ("linear", 1 + 2 * ramp),
            ("stepped", staircase(x, 3, 2.0)),
        )
    ]


def _high_floor(answer: Callable, rng: Generator) -> Seen:
    """A staircase on a high floor: the weights of a large model below, attention on top."""
    x = contexts_of(rng)
    rise = uniform(rng, 0.22, 0.3)
    y = uniform(rng, 2, 20) * staircase(x, 3, rise)
    return _ask(answer, rng, x, y, "stepped", f"3 steps, to {1 + rise:.2f} times the start in all")


def by_jumps(contexts: Tensor, times: Tensor) -> str:
    """Another way: does most of the rise happen in a few places?

    Medians over windows of three points calm the noise, and a jump stays a jump.
    """
    n = len(times)
    calm = torch.stack([times[max(0, i - 1) : i + 2].median() for i in range(n)])
    rise = calm[-3:].median() - calm[:3].median()
    if rise < 0.15 * times.median():
        return "flat"
    jumps = (calm[2:] - calm[:-2]).abs()  # over two points: a step is never cut in half
    largest = jumps.max() / rise
    return "stepped" if largest > 4.5 / (n - 1) + 0.03 else "linear"


def fit(contexts: Tensor, times: Tensor, wrong: str = "") -> str:
    """The straight line and what it leaves over, with at most one fault in the verdict."""
    dx, dy = contexts - contexts.mean(), times - times.mean()
    if wrong == "origin":
        dx, dy = contexts, times
    slope = (dx * dy).sum() / (dx * dx).sum()
    rise = slope * (contexts[-1] - contexts[0])
    if wrong == "slope":
        rise = slope
    elif wrong == "last context":
        rise = slope * contexts[-1]
    elif wrong == "falls":
        rise = rise.abs()
    off = (dy - slope * dx).square().mean().sqrt()
    if wrong == "no mean":
        off = (dy - slope * dx).square().sum().sqrt()
    if wrong != "flat forgotten" and rise < 0.1 * times.median():
        return "flat"
    of = {"absolute": 1.0, "of the time": times.median()}.get(wrong, rise)
    bound = {"loose": 0.1, "a little loose": 0.05}.get(wrong, 0.025)
    return "linear" if off / of < bound else "stepped"


def fault(name: str) -> Callable[[Tensor, Tensor], str]:
    """Return `classify` with one fault."""
    return lambda contexts, times: fit(contexts, times, name)


FAULTS = (
    (
        "flat forgotten",
        "**Flat curves are not tested for first.** Their rise is nearly nothing, and dividing "
        "what is left over by nearly nothing makes any noise look like steps.",
        "",
    ),
    (
        "falls",
        "A curve that **falls** comes out as linear. Either its rise has lost its sign, or the "
        "misfit is tested first: divided by a negative rise, it is below any bound.",
        "",
    ),
    (
        "slope",
        "Flatness is judged by **the slope itself**, which is the rise per token. Take the rise "
        "over the whole curve, as a share of its middle value.",
        "",
    ),
    (
        "last context",
        "The rise is **slope times the last context**: that is the rise from context 0. But the "
        "curve begins later: take the distance from its first context to its last.",
        "",
    ),
    (
        "origin",
        "The line is drawn **through the origin**: subtract their means from contexts and times "
        "before taking the sums. A floor that every token pays is not part of the slope.",
        "",
    ),
    (
        "no mean",
        "Every curve that rises comes out as **stepped**. Is the mean missing from your root mean "
        "square? The root of the sum grows with the number of points.",
        "",
    ),
    (
        "loose",
        "Your bound lets **staircases pass as lines**; is it a misfit of 0.1, or an R² of 0.9? A "
        "staircase of three steps has a misfit of 0.07, and an R² of 0.94. Take 0.02 to 0.04 (or "
        "an R² of 0.98 or more).",
        "",
    ),
    (
        "a little loose",
        "Your bound for the misfit is **a little too large**, perhaps 0.05: a staircase of five "
        "steps is just below that. Take 0.02 to 0.04.",
        "",
    ),
    (
        "absolute",
        "What the line leaves over is compared with **a fixed number of milliseconds**. In other "
        "units, or on a faster machine, the verdict would be different: divide by the rise.",
        "",
    ),
    (
        "of the time",
        "What the line leaves over is divided by **the time, not by the rise**. Steps on top of a "
        "high floor are then lost, though they are all that the context adds.",
        "",
    ),
)

SHAPE = Exercise(
    id="17.3",
    name="classify",
    title="Flat, linear or stepped",
    section=SECTION,
    solution_name="classify",
    properties=(
        Property("flat", "rises by a few per cent, or falls", _flat),
        Property("linear", "rises along a line, a little or a lot", _linear),
        Property("stepped", "rises in one to five equal steps", _stepped),
        Property("high floor", "steps that add a quarter to the time", _high_floor),
        Property("any units", "seconds, nanoseconds, thousands of tokens", _units),
    ),
    mistakes=tuple(Mistake(name, says, fault(name), see) for name, says, see in FAULTS),
    alternative=by_jumps,
)
