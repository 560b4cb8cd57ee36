"""Figures of the lesson on precision: sums in many orders, stalls, gaps, splits, cuts."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from course.style import COLORS, SPLITS, figure, tokens

__all__ = [
    "cuts_of_a_row",
    "errors_by_order",
    "errors_by_splits",
    "merge_errors",
    "stalling_sums",
]

FORMATS = {"fp16": COLORS.max, "bf16": COLORS.p, "fp32": COLORS.k}


def errors_by_order(errors: Sequence[float], marked: Mapping[str, float], unit: str) -> Figure:
    """A histogram of what many orders of one sum make of it, and a few orders marked by name.

    errors: signed, in `unit`, a whole number of it apart: a bar for every two values; marked: the
    error of each named order. Names hang at three heights, so that neighbours can be read.
    """
    fig, ax = figure(size=(9.0, 3.4))
    first, last = min(errors) - 0.5, max(errors)
    edges = [first + 2 * i for i in range(math.ceil((last - first) / 2) + 1)]
    counts, _, _ = ax.hist(errors, bins=edges, color=COLORS.score, ec="white", lw=0.5)
    top = max(counts)
    for i, (name, error) in enumerate(sorted(marked.items(), key=lambda pair: pair[1])):
        height = (1.12 + 0.16 * (i % 3)) * top
        ax.plot([error, error], [0, height], color=COLORS.ink, lw=1.2)
        label = {"facecolor": COLORS.card, "edgecolor": "none", "pad": 1}
        ax.text(error + 0.4, height, name, va="center", fontsize=9.5, bbox=label)
    ax.axvline(0, color=COLORS.v, lw=2)
    ax.set(xlabel=f"error, {unit}", ylabel="orders", ylim=(0, 1.6 * top))
    ax.yaxis.set_major_locator(FixedLocator([0, 50, 100]))
    return fig


def stalling_sums(
    keys: Sequence[int], totals: Mapping[str, Sequence[float]], truth: Sequence[float], title: str
) -> Figure:
    """Running denominators against the number of keys, one line per format, beside the truth.

    keys: how many have been added at each point; totals: by format, "fp16", "bf16", "fp32".
    """
    fig, ax = figure(size=(9.0, 3.8))
    ax.plot(keys, truth, color=COLORS.ink, lw=5, alpha=0.25)
    for name, line in totals.items():
        ax.plot(keys, line, color=FORMATS[name], lw=2)
        told = f" {name}: {line[-1]:,.0f}"
        ax.text(keys[-1], line[-1], told, color=FORMATS[name], va="center", fontsize=9.5)
    told = f"truth: {truth[-1]:,.0f}"
    ax.text(keys[-1], 1.7 * truth[-1], told, color=COLORS.muted, ha="right", fontsize=9.5)
    ax.set(xscale="log", yscale="log", xlabel="keys added", ylabel="l so far", title=title)
    ax.set(xlim=(keys[0], keys[-1] * 2.4), ylim=(None, 4 * truth[-1]))
    _marks(ax, [2**i for i in range(4, 21, 2) if keys[0] <= 2**i <= keys[-1]])
    tokens(ax.xaxis)
    ax.grid(axis="y", lw=0.6)
    return fig


def merge_errors(
    lse: Sequence[float],
    errors: Mapping[str, Sequence[float]],
    bounds: Mapping[str, Sequence[float]],
) -> Figure:
    """The worst error of a merge against the size of the lse that was stored: dots under stairs.

    errors: by format, what was measured; bounds: by format, what is possible.
    """
    fig, ax = figure(size=(9.0, 3.8))
    for name, bound in bounds.items():
        ax.step(lse, bound, where="post", color=FORMATS[name], lw=1.6)
        ax.plot(lse, errors[name], "o", color=FORMATS[name], ms=3.5, alpha=0.75, mew=0)
        ax.text(lse[-1] * 1.05, bound[-1], name, color=FORMATS[name], va="center", fontsize=10)
    ax.set(xscale="log", yscale="log", xlim=(lse[0], lse[-1] * 1.3))
    ax.set(xlabel="lse of a split", ylabel="worst error in o")
    _marks(ax, [2**i for i in range(11) if lse[0] <= 2**i <= lse[-1] * 1.01])
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.grid(lw=0.6)
    return fig


def errors_by_splits(
    splits: Sequence[int],
    measured: Sequence[float],
    chain: Sequence[float],
    bound: Sequence[float],
    expected: Sequence[float],
) -> Figure:
    """Error against the number of splits: measured, what coin flips give, and the worst case.

    measured: with a merge that adds in a tree; chain: with one that adds one after the other.
    """
    fig, ax = figure(size=(9.0, 4.0))
    lines = {
        "worst case": (bound, COLORS.accent, "-"),
        "coin flips": (expected, COLORS.muted, "--"),
        "in a chain": (chain, COLORS.v, "s-"),
        "measured": (measured, COLORS.k, "o-"),
    }
    for name, (line, color, style) in lines.items():
        ax.plot(splits, line, style, color=color, ms=5, lw=1.8)
        ax.text(splits[-1] * 1.15, line[-1], name, color=color, va="center", fontsize=10)
    ax.set(xscale="log", yscale="log", xlim=(splits[0] * 0.8, splits[-1] * 4.5))
    ax.set(xlabel="number of splits S", ylabel="worst error in o")
    _marks(ax, splits[::2])
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    ax.grid(axis="y", lw=0.6)
    return fig


def cuts_of_a_row(
    length: int, rows: Mapping[str, Sequence[tuple[int, int]]], notes: Mapping[str, str]
) -> Figure:
    """Where one row is cut, a bar per way of cutting; splits alternate between two blues.

    rows: by label, the (start, stop) of every split. notes: by label, what stands to the right.
    """
    fig, ax = figure(size=(9.0, 0.5 * len(rows) + 1.0))
    for y, (label, bounds) in enumerate(rows.items()):
        for i, (start, stop) in enumerate(bounds):
            color = (SPLITS[0], SPLITS[4])[i % 2]
            ax.barh(y, stop - start, left=start, height=0.62, color=color)
        ax.text(length * 1.015, y, notes.get(label, ""), va="center", fontsize=9.5)
    ax.set(yticks=range(len(rows)), yticklabels=list(rows), xlim=(0, length * 1.28))
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="keys of row 0")
    ax.xaxis.set_major_locator(FixedLocator([0, length // 2, length]))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.tick_params(left=False)
    return fig


def _marks(ax: Axes, at: Sequence[int]) -> None:
    """Ticks of a logarithmic x axis at these numbers and nowhere else."""
    ax.xaxis.set_major_locator(FixedLocator(at))
    ax.xaxis.set_minor_locator(NullLocator())
