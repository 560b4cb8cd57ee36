"""Figures of the lesson on benchmarks that show time against context."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course.style import COLORS, SPLITS, figure, tokens

__all__ = ["three_shapes", "tpot_curves"]

NAMED = {"Flash-Decoding": COLORS.k, "SDPA": COLORS.max, "naive": COLORS.muted}


def three_shapes(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    lines: Mapping[str, tuple[float, float]],
    told: Mapping[str, str],
    marks: Mapping[str, int] | None = None,
) -> Figure:
    """One panel per curve, each with its best straight line.

    curves: by title, contexts in tokens and milliseconds; lines: intercept and slope of the line;
    told: what to write in the panel; marks: a context to mark with a dotted line.
    """
    fig, axes = figure(1, len(curves), size=(9.6, 3.6), squeeze=False)
    for ax, (title, (contexts, ms)) in zip(axes[0], curves.items(), strict=True):
        intercept, slope = lines[title]
        ends = [contexts[0], contexts[-1]]
        ax.plot(ends, [intercept + slope * x for x in ends], "--", color=COLORS.accent, lw=1.4)
        ax.plot(contexts, ms, "o", color=COLORS.k, ms=3.5)
        ax.set(title=title, ylim=(0, 1.5 * max(ms)))
        ax.text(0.04, 0.97, told[title], transform=ax.transAxes, fontsize=9.5, va="top")
        _contexts(ax, contexts)
        if marks and title in marks:
            ax.axvline(marks[title], color=COLORS.muted, lw=1, ls=":", ymax=0.7, zorder=0)
    axes[0][0].set_ylabel("TPOT, ms (model)")
    return fig


def tpot_curves(
    contexts: Sequence[int], curves: Mapping[str, Sequence[Sequence[float]]], title: str = ""
) -> Figure:
    """TPOT against context: one line per contestant, with its quartiles as a band.

    curves: by name, for each context [first quartile, median, third quartile] in ms.
    """
    fig, ax = figure(size=(9.0, 4.2))
    ends = []
    for spare, (name, points) in zip(SPLITS[2:] * 2, curves.items(), strict=False):
        color = NAMED.get(name, spare)
        low, middle, high = zip(*points, strict=True)
        ax.fill_between(contexts, low, high, color=color, alpha=0.2, lw=0)
        ax.plot(contexts, middle, "o-", color=color, ms=4)
        ends.append((middle[-1], name, color))
    ax.set(ylabel="TPOT, ms", title=title)
    ax.set_ylim(bottom=0)
    lowest = -math.inf  # lines that end side by side have their names stacked
    for height, name, color in sorted(ends):
        lowest = max(height, lowest + 0.06 * ax.get_ylim()[1])
        ax.annotate(name, (contexts[-1], lowest), (6, 0), textcoords="offset points",
                    va="center", color=color)  # fmt: skip
    _contexts(ax, contexts)
    return fig


def _contexts(ax: Axes, contexts: Sequence[int]) -> None:
    """A linear axis of contexts: evenly spaced, so that a straight line looks straight."""
    ax.set_xlim(0, contexts[-1] * 1.02)
    step = max(1024, -(-contexts[-1] // 4 // 1024) * 1024)
    ax.set_xticks(range(0, contexts[-1] + 1, step))
    tokens(ax.xaxis)
    ax.set_xlabel("context, tokens")
