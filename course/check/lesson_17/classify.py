"""Exercise 17.3: is a curve of time against context flat, linear or stepped?"""

import torch

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip

NOISE = 0.005  # standard deviation, as a share of the time


@right
def classify(contexts, times):
    dx, dy = contexts - contexts.mean(), times - times.mean()
    slope = (dx * dy).sum() / (dx * dx).sum()
    rise = slope * (contexts[-1] - contexts[0])
    if rise < 0.1 * times.median():
        return "flat"
    misfit = (dy - slope * dx).square().mean().sqrt() / rise
    return "linear" if misfit < 0.025 else "stepped"


@also_right
def by_jumps(contexts, times):
    """Does most of the rise happen in a few places?

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


def contexts_of(rng):
    """Return 40 to 64 evenly spaced contexts, which begin far from 0."""
    count = integer(rng, 40, 64)
    return (torch.arange(count, dtype=torch.float64) + integer(rng, 3, 4) * count) * 1024


def uniform(rng, low, high):
    """Return a number between low and high."""
    return low + (high - low) * torch.rand((), generator=rng).item()


def ramp(contexts):
    """Return 0 … 1 along a line."""
    return (contexts - contexts[0]) / (contexts[-1] - contexts[0])


def staircase(contexts, steps, rise):
    """Return 1 … 1 + rise in `steps` equal steps, the last as long as the others."""
    done = ramp(contexts) * (steps + 1)
    return 1 + rise * done.floor().clamp(max=steps) / steps


def seen(answer, rng, contexts, clean, wanted, given):
    """Add noise to a clean curve, and ask what it is."""
    noise = 1 + NOISE * torch.randn(clean.shape, generator=rng, dtype=clean.dtype)

    def tidy(contexts, times):
        name = answer(contexts, times)
        return name.strip().lower() if isinstance(name, str) else name

    given = f"{len(contexts)} points, {given}"
    return Seen.of(tidy, (contexts, clean * noise), wanted=wanted, given=given)


@holds("rises by a few per cent, or falls")
def flat(answer, rng):
    x, unit = contexts_of(rng), uniform(rng, 2, 20)
    gentle = unit * (1 + uniform(rng, 0.02, 0.06) * ramp(x))
    falling = unit * (1 - 0.3 * ramp(x))
    pairs = ((gentle, "rising by a few per cent"), (falling, "falling by 30 %"))
    return [seen(answer, rng, x, y, "flat", given) for y, given in pairs]


@holds("rises along a line, a little or a lot")
def linear(answer, rng):
    x, several = contexts_of(rng), []
    for rise in (uniform(rng, 0.5, 0.7), uniform(rng, 8.0, 40.0)):
        y = uniform(rng, 2, 20) * (1 + rise * ramp(x))
        given = f"rising to {1 + rise:.1f} times the start"
        several.append(seen(answer, rng, x, y, "linear", given))
    return several


@holds("rises in one to five equal steps")
def stepped(answer, rng):
    x, several = contexts_of(rng), []
    for steps in (integer(rng, 1, 2), integer(rng, 3, 4), 5):
        y = uniform(rng, 2, 20) * staircase(x, steps, uniform(rng, 1.0, 3.0))
        several.append(seen(answer, rng, x, y, "stepped", f"rising in {steps} steps"))
    return several


@holds("steps that add a quarter to the time")
def high_floor(answer, rng):
    """A staircase on a high floor: the weights of a large model below, attention on top."""
    x = contexts_of(rng)
    rise = uniform(rng, 0.22, 0.3)
    y = uniform(rng, 2, 20) * staircase(x, 3, rise)
    return seen(answer, rng, x, y, "stepped", f"3 steps, to {1 + rise:.2f} times the start in all")


@holds("seconds, nanoseconds, thousands of tokens")
def any_units(answer, rng):
    x = contexts_of(rng)
    units = (1.0, 1e-4, "in seconds"), (1e-3, 1e5, "in ns, and thousands of tokens")
    curves = {"flat": 1 + 0.03 * ramp(x), "linear": 1 + 2 * ramp(x), "stepped": staircase(x, 3, 2)}
    return [
        seen(answer, rng, x * scale, y * unit, wanted, given)
        for scale, unit, given in units
        for wanted, y in curves.items()
    ]


slip(
    "flat forgotten",
    "**Flat curves are not tested for first.** Their rise is nearly nothing, and dividing "
    "what is left over by nearly nothing makes any noise look like steps.",
    ("if rise < 0.1 * times.median():", "if False:"),
)
slip(
    "falls",
    "A curve that **falls** comes out as linear. Either its rise has lost its sign, or the "
    "misfit is tested first: divided by a negative rise, it is below any bound.",
    ("rise = slope", "rise = slope.abs()"),
)
slip(
    "slope",
    "Flatness is judged by **the slope itself**, which is the rise per token. Take the rise "
    "over the whole curve, as a share of its middle value.",
    ("slope * (contexts[-1] - contexts[0])", "slope"),
)
slip(
    "last context",
    "The rise is **slope times the last context**: that is the rise from context 0. But the "
    "curve begins later: take the distance from its first context to its last.",
    ("(contexts[-1] - contexts[0])", "contexts[-1]"),
)
slip(
    "origin",
    "The line is drawn **through the origin**: subtract their means from contexts and times "
    "before taking the sums. A floor that every token pays is not part of the slope.",
    ("contexts - contexts.mean(), times - times.mean()", "contexts, times"),
)
slip(
    "no mean",
    "Every curve that rises comes out as **stepped**. Is the mean missing from your root mean "
    "square? The root of the sum grows with the number of points.",
    ("square().mean()", "square().sum()"),
)
slip(
    "loose",
    "Your bound lets **staircases pass as lines**; is it a misfit of 0.1, or an R² of 0.9? A "
    "staircase of three steps has a misfit of 0.07, and an R² of 0.94. Take 0.02 to 0.04 (or "
    "an R² of 0.98 or more).",
    ("0.025", "0.1"),
)
slip(
    "a little loose",
    "Your bound for the misfit is **a little too large**, perhaps 0.05: a staircase of five "
    "steps is just below that. Take 0.02 to 0.04.",
    ("0.025", "0.05"),
)
slip(
    "absolute",
    "What the line leaves over is compared with **a fixed number of milliseconds**. In other "
    "units, or on a faster machine, the verdict would be different: divide by the rise.",
    ("sqrt() / rise", "sqrt()"),
)
slip(
    "of the time",
    "What the line leaves over is divided by **the time, not by the rise**. Steps on top of a "
    "high floor are then lost, though they are all that the context adds.",
    ("sqrt() / rise", "sqrt() / times.median()"),
)

SHAPE = Exercise.of(
    __name__, "17.3 classify", title="Flat, linear or stepped", section="8 · Three shapes"
)
