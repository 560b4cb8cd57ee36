"""Figures of the lesson on the quantised cache: grids, errors, scales, channels, perplexities."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MultipleLocator,
    NullLocator,
    PercentFormatter,
)
from torch import Tensor

from course.style import COLORS, arrow, bare, box, cells, figure

__all__ = [
    "channel_maxima",
    "channel_spreads",
    "fold_scales",
    "key_and_value_errors",
    "number_lines",
    "perplexity_ratios",
    "quantized_matrices",
    "rotary_pairs",
    "rounding_errors",
]

FORMATS = {"int8": COLORS.k, "e4m3": COLORS.max, "e5m2": COLORS.p, "bf16": COLORS.muted}


def _format_color(name: str) -> str:
    """The colour of a format, by the dtype that its name begins with."""
    return FORMATS.get(name.split()[0], COLORS.ink)


def number_lines(numbers: Mapping[str, Sequence[float]], zoom: float) -> Figure:
    """All numbers of each format from 0 to 1, where 1 is the largest; below, those up to `zoom`.

    numbers: by format, its numbers divided by the largest; those below 0 are not drawn.
    """
    fig, axes = figure(2, 1, size=(9.0, 3.6))
    for ax, top in zip(axes, (1.0, zoom), strict=True):
        for y, (name, line) in enumerate(reversed(numbers.items())):
            shown = [x for x in line if 0 <= x <= top]
            ax.hlines(y, 0, top, color=COLORS.grid, lw=1)
            ax.vlines(shown, y - 0.32, y + 0.32, color=_format_color(name), lw=1)
            told = f"{len(shown)} numbers"
            ax.text(1.01 * top, y, told, va="center", fontsize=9, color=COLORS.muted)
        ax.set(xlim=(-0.01 * top, 1.12 * top), ylim=(-0.6, len(numbers) - 0.4))
        ax.set_yticks(range(len(numbers)), list(reversed(numbers)))
        ax.tick_params(left=False)
        ax.spines[["left", "bottom"]].set_visible(False)
    axes[0].set_title("from 0 to the largest")
    axes[1].set_title(f"from 0 to {zoom:g} of the largest")
    return fig


def rounding_errors(x: Sequence[float], errors: Mapping[str, Sequence[float]]) -> Figure:
    """The error of rounding |x| in each format, where 1 is the largest number; both logarithmic.

    errors: by format, the largest error of all numbers up to x.
    """
    fig, ax = figure(size=(9.0, 3.6))
    for name, line in errors.items():
        ax.plot(x, line, color=_format_color(name), lw=1.8)
        ax.text(1.06, line[-1], name, color=_format_color(name), va="center", weight="bold")
    ax.set(xscale="log", yscale="log", xlim=(min(x), 1.6))
    ax.set(xlabel="|x|, as a share of the largest", ylabel="largest error")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.grid(lw=0.6)
    return fig


def quantized_matrices(matrices: Mapping[str, Tensor], rows: Sequence[str]) -> Figure:
    """Small matrices side by side: the first is the truth, the others what comes back of it.

    matrices: by title, (rows, columns). A number is the darker, the more it is off, as a share of
    itself: from white, below 2 %, to orange, 50 % and more.
    """
    (title, truth), *others = matrices.items()
    fig, ax = figure(size=(9.0, 2.3))
    n = truth.shape[1]
    bare(ax).set(xlim=(-2.0, (n + 0.6) * len(matrices)), ylim=(-truth.shape[0] - 0.1, 0.8))
    ax.set_aspect("equal")
    for y, name in enumerate(rows):
        ax.text(-0.15, -y - 0.5, name, ha="right", va="center", fontsize=9, color=COLORS.muted)
    cells(ax, truth.tolist(), color=COLORS.card, fmt="{:.2f}", label=title, fontsize=8)
    for i, (name, back) in enumerate(others, 1):
        off = ((back - truth) / truth).abs()
        colors = [[_shade(share) for share in row] for row in off.tolist()]
        at = (i * (n + 0.6), 0.0)
        cells(ax, back.tolist(), origin=at, colors=colors, fmt="{:.2f}", label=name, fontsize=8)
    return fig


def _shade(share: float) -> str:
    """From the card's white (below 0.02) by way of light steps to orange (0.5 and more)."""
    steps = {0.02: COLORS.card, 0.1: "#FBE9C6", 0.5: "#F3C566"}
    return next((color for limit, color in steps.items() if share < limit), COLORS.max)


def fold_scales(G: int, Lk: int, D: int) -> Figure:
    """Where the scales of K and of V meet the scores and p: boxes with their sizes."""
    fig, ax = figure(size=(9.0, 3.5))
    bare(ax).set(xlim=(0, 12), ylim=(-0.6, 4.1))
    boxes = [
        (0.0, "q", f"{G} × {D}", COLORS.q),
        (2.6, "scores", f"{G} × {Lk}", COLORS.score),
        (5.2, "p", f"{G} × {Lk}", COLORS.p),
        (7.8, "p · v_scale", f"{G} × {Lk}", COLORS.p),
        (10.4, "o", f"{G} × {D}", COLORS.out),
    ]
    for x, name, size, color in boxes:
        box(ax, x, 1.5, 1.6, 0.9, f"{name}\n{size}", color)
    for x, name, size, color in (
        (1.2, "K, eight bits", f"{Lk} × {D}", COLORS.k),
        (9.0, "V, eight bits", f"{Lk} × {D}", COLORS.v),
    ):
        box(ax, x, 3.0, 2.0, 0.9, f"{name}\n{size}", color)
        arrow(ax, (x + 1.0, 3.0), (x + 1.0, 2.05), color=color)
    for (x, *_), (y, *_) in pairwise(boxes):
        arrow(ax, (x + 1.6, 1.95), (y, 1.95), color=COLORS.ink)
    for x, name, color in ((3.4, "k_scale", COLORS.k), (8.6, "v_scale", COLORS.v)):
        box(ax, x - 0.8, 0.0, 1.6, 0.7, f"{name}\n1 × {Lk}", color)
        arrow(ax, (x, 0.7), (x, 1.5), " × ", color=color)
    ax.text(4.75, 2.55, "softmax", ha="center", fontsize=9, color=COLORS.muted)
    arrow(ax, (6.0, 1.5), (6.0, 0.7))
    ax.text(6.0, 0.35, "l = Σ p\nno scale here", ha="center", va="center", fontsize=9.5)
    ax.plot([6.0, 6.0, 11.2], [0.0, -0.35, -0.35], color=COLORS.muted, lw=1.6)
    arrow(ax, (11.2, -0.38), (11.2, 1.5), " ÷ l", color=COLORS.muted)
    return fig


def key_and_value_errors(
    spreads: Sequence[float],
    predicted: Mapping[str, Sequence[float]],
    measured: Mapping[str, Sequence[float]],
) -> Figure:
    """The error of o when only K, and when only V, is rounded: lines predicted, dots measured.

    spreads: the standard deviation of the scores. predicted, measured: by "keys" and "values".
    """
    fig, ax = figure(size=(9.0, 3.5))
    for name, color in (("keys", COLORS.k), ("values", COLORS.v)):
        ax.plot(spreads, predicted[name], color=color, lw=1.6)
        ax.plot(spreads, measured[name], "o", color=color, ms=6)
        told = f"  only {name} rounded"
        ax.text(spreads[-1], predicted[name][-1], told, color=color, va="center", fontsize=9.5)
    ax.set(xscale="log", yscale="log", xlim=(0.9 * spreads[0], 2.4 * spreads[-1]))
    ax.set(xlabel="standard deviation of the scores", ylabel="rms error of o")
    ax.xaxis.set_major_locator(FixedLocator(spreads))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(lw=0.6)
    return fig


def channel_maxima(k: Tensor, v: Tensor, title: str) -> Figure:
    """The largest |x| of each channel of one layer: keys left, values right, a row per KV head.

    k, v: (Hkv, D). All panels have one axis, so that K and V can be compared. Dashed: the median
    of all channels of K, or of V.
    """
    Hkv, D = k.shape
    top = 1.08 * max(k.max().item(), v.max().item())
    fig, axes = figure(Hkv, 2, size=(9.0, 1.1 * Hkv + 1.0), sharex=True, sharey=True, squeeze=False)
    for h in range(Hkv):
        for ax, x, color in zip(axes[h], (k, v), (COLORS.k, COLORS.v), strict=True):
            ax.bar(range(D), x[h].tolist(), width=0.85, color=color)
            ax.axhline(x.median().item(), color=COLORS.ink, lw=1.6, ls=(0, (4, 1.5)))
            ax.set(ylim=(0, top), xlim=(-1, D))
        axes[h, 0].set_ylabel(f"KV head {h}")
    axes[0, 0].set_title("keys")
    axes[0, 1].set_title("values")
    for ax in axes[-1]:
        ax.set_xlabel("channel")
    fig.suptitle(title, x=0.01, ha="left", fontsize=10.5, color=COLORS.muted)
    return fig


def channel_spreads(k: Sequence[float], v: Sequence[float]) -> Figure:
    """Largest over median channel in every layer, for keys and for values."""
    fig, ax = figure(size=(9.0, 3.0))
    layers = range(len(k))
    for name, line, color, marker in (("keys", k, COLORS.k, "o"), ("values", v, COLORS.v, "s")):
        ax.plot(layers, line, marker=marker, color=color, ms=5, lw=1.2)
        ax.text(len(k) - 0.6, line[-1], name, color=color, va="center", weight="bold")
    ax.set(xlabel="layer", ylabel="largest / median channel", xlim=(-0.5, len(k) + 2))
    ax.set_ylim(bottom=0)
    ax.grid(axis="y", lw=0.6)
    return fig


def rotary_pairs(k: Tensor, turns: Sequence[float], limit: float) -> Figure:
    """The largest |x| of channel i against that of channel i + D/2, with which it is rotated.

    k: (Hkv, D). turns: by pair, how far it rotates over a window. From `limit` on it is a full
    marker: both channels see all angles.
    """
    fig, ax = figure(size=(5.6, 4.4))
    first, second = k.chunk(2, -1)
    top = 1.4 * k.max().item()
    ax.plot([0.5, top], [0.5, top], color=COLORS.mask, lw=1)
    for full, name in ((True, "rotates fast"), (False, "hardly rotates")):
        chosen = [i for i, turn in enumerate(turns) if (turn >= limit) == full]
        ax.plot(
            first[:, chosen].flatten().tolist(), second[:, chosen].flatten().tolist(), "o",
            color=COLORS.k if full else COLORS.max, mfc=COLORS.k if full else "none",
            ms=5, mew=1.3, label=name,
        )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlim=(0.6, top), ylim=(0.6, top))
    ax.set(xlabel="largest |k| of channel i", ylabel="largest |k| of channel i + D/2")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(FixedLocator([1, 2, 5, 10, 20]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.legend(loc="upper left", fontsize=9, frameon=False)
    return fig


def perplexity_ratios(rows: Mapping[str, Sequence[Mapping]], largest: float) -> Figure:
    """How much the perplexity rises with each pair of formats, with the 95 % interval.

    rows: by the model's title, rows with k, v, ratio, low, high, in the order to be drawn, the same
    pairs for each: first those with one format for K and V, then, below a line, those with two.
    largest: the end of the axis, a share; what lies beyond it is cut off.
    """
    longest = max(map(len, rows.values()))
    fig, axes = figure(1, len(rows), size=(9.0, 0.3 * longest + 1.2), sharey=True, squeeze=False)
    fig.get_layout_engine().set(wspace=0.1)  # each model has a panel and an axis of its own
    for ax, (title, found) in zip(axes[0], rows.items(), strict=True):
        for y, row in enumerate(found):
            _draw_ratio(ax, y, row)
        same = sum(row["k"] == row["v"] for row in found)
        ax.axhline(same - 0.5, color=COLORS.muted, lw=1, ls=(0, (4, 2)))
        ax.axvline(0, color=COLORS.ink, lw=1)
        ax.set(title=title, xlabel="rise of the perplexity", xlim=(-0.002, largest))
        ax.xaxis.set_major_locator(MultipleLocator(0.01))
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.grid(axis="x", lw=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(left=False)
    first = next(iter(rows.values()))
    axes[0, 0].set_yticks(range(len(first)), [_pair(row) for row in first], fontsize=9)
    axes[0, 0].set_ylim(len(first) - 0.5, -0.5)
    return fig


def _pair(row: Mapping) -> str:
    """A label for the formats of K and V: one name if they are the same."""
    return row["k"] if row["k"] == row["v"] else f"K {row['k']}, V {row['v']}"


def _draw_ratio(ax: Axes, y: int, row: Mapping) -> None:
    """One line with its interval: hollow where the interval contains no change."""
    color = _format_color(row["k"] if row["k"] != "bf16" else row["v"])
    low, middle, high = (row[name] - 1 for name in ("low", "ratio", "high"))
    ax.add_patch(Rectangle((low, y - 0.09), high - low, 0.18, facecolor=color, lw=0))
    sure = low > 0 or high < 0
    ax.plot(middle, y, "o", color=color, mfc=color if sure else COLORS.card, ms=7, mew=1.5)
