"""Figures of lesson 03 on merging: two rulers, any tree, and the balance of (o, lse)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from torch import Tensor

from course.style import COLORS, SPLITS, bare, figure, text_on

Tree = int | tuple["Tree", ...]


def legible(color: str) -> str:
    """A colour for text on the card: as given, or darker if it is as pale as amber."""
    if text_on(color) == "white":
        return color
    return colors.to_hex([0.76 * part for part in colors.to_rgb(color)])


def merge_rulers(scores: Tensor, split: int) -> Figure:
    """Two workers' bars exp(score − m): each from its own maximum, then both from the larger.

    scores: (n,); the left worker saw `scores[:split]`, the right one the rest.
    """
    x = [float(value) for value in scores]
    own = [max(x[:split])] * split + [max(x[split:])] * (len(x) - split)
    fig, axes = figure(1, 2, (9.6, 3.4), sharey=True)
    fills = [SPLITS[0]] * split + [SPLITS[1]] * (len(x) - split)
    before = [math.exp(a - m) for a, m in zip(x, own, strict=True)]
    after = [math.exp(a - max(x)) for a in x]
    for ax, heights in zip(axes, (before, after), strict=True):
        ax.bar(range(len(x)), heights, color=fills, width=0.72)
        ax.set(ylim=(0, 1.22), xlim=(-0.6, len(x) - 0.4), yticks=[0, 0.5, 1])
        ax.set_xticks(range(len(x)), [f"{a:g}" for a in x])
        ax.axvline(split - 0.5, color=COLORS.muted, lw=1, ls=":")
        ax.tick_params(axis="x", length=0)
        ax.set_xlabel("score")
    moved = [i for i, m in enumerate(own) if m < max(x)]
    style = {"fill": False, "edgecolor": COLORS.muted, "ls": (0, (3, 2)), "lw": 1}
    axes[1].bar(moved, [before[i] for i in moved], width=0.72, **style)
    axes[0].set(title="before: two rulers", ylabel="exp(score − m)")
    axes[1].set(title=f"after: both measured from {max(x):g}")
    middles = ((split - 1) / 2, (split + len(x) - 1) / 2)
    for i, place in enumerate(middles):
        m = own[0] if i == 0 else own[-1]
        axes[0].text(
            place, 1.1, f"from m = {m:g}", ha="center", color=legible(SPLITS[i]), weight="bold"
        )
        factor = math.exp(m - max(x))
        text = f"× {factor:.4f}" if factor < 1 else "× 1"
        axes[1].text(place, 1.1, text, ha="center", color=legible(SPLITS[i]), weight="bold")
    return fig


def _leaves(tree: Tree) -> list[int]:
    return [tree] if isinstance(tree, int) else [x for branch in tree for x in _leaves(branch)]


def _height(tree: Tree) -> int:
    return 0 if isinstance(tree, int) else 1 + max(map(_height, tree))


def _draw(ax: Axes, tree: Tree, places: dict[int, int]) -> tuple[float, float]:
    """Draw a tree of merges, its leaves at the bottom; return where its root is."""
    if isinstance(tree, int):
        at = (float(places[tree]), 0.0)
        _node(ax, at, str(tree), SPLITS[tree % len(SPLITS)])
        return at
    below = [_draw(ax, branch, places) for branch in tree]
    at = ((below[0][0] + below[-1][0]) / 2, float(_height(tree)))
    for x, y in below:
        ax.plot([x, at[0]], [y, at[1]], color=COLORS.muted, lw=1.3, zorder=1)
    _node(ax, at, "⊕", COLORS.idle)
    return at


def _node(ax: Axes, at: tuple[float, float], text: str, fill: str) -> None:
    ax.plot(*at, "o", color=fill, ms=16, zorder=2)
    ax.text(*at, text, color=text_on(fill), ha="center", va="center", fontsize=9.5, zorder=3)


def merge_trees(trees: Mapping[str, Tree], roots: Mapping[str, float]) -> Figure:
    """Ways to merge the same partials, side by side, each with its result at the root.

    trees: name → nested tuples of partials' numbers: ((0, 1), 2) merges in pairs, (0, 1, 2) all at
    once; roots: name → its o.
    """
    fig, axes = figure(1, len(trees), (9.6, 3.5), squeeze=False)
    tallest = max(map(_height, trees.values()))
    for ax, (name, tree) in zip(axes[0], trees.items(), strict=True):
        leaves = _leaves(tree)
        top = _draw(ax, tree, {leaf: i for i, leaf in enumerate(leaves)})
        ax.text(
            top[0], top[1] + 0.5, f"o = {roots[name]:.4f}", ha="center", va="bottom",
            color=COLORS.out, weight="bold",
        )  # fmt: skip
        bare(ax).set(xlim=(-0.7, len(leaves) - 0.3), ylim=(-0.5, tallest + 1.3), title=name)
    return fig


def balance(o: Tensor, lse: Tensor, merged: float) -> Figure:
    """The merged o as the point where the partial results, weighted by exp(lse), balance.

    o, lse: (S,), finished partials of one row with D = 1, their o not all equal; merged: their
    combined o. Areas are to scale; an empty partial (lse = −inf) is hollow and weighs nothing.
    """
    values, heights = [float(a) for a in o], [float(b) for b in lse]
    total = math.log(sum(math.exp(b) for b in heights))
    lo, hi = min(values), max(values)
    along = [10 * (x - lo) / (hi - lo) for x in values]  # the beam is 10 long
    fig, ax = figure(1, 1, (9.0, 3.6))
    ax.plot([-0.9, 10.9], [0, 0], color=COLORS.ink, lw=3, solid_capstyle="round", zorder=3)
    fulcrum = 10 * (merged - lo) / (hi - lo)
    ax.add_patch(
        Polygon(
            [(fulcrum, -0.06), (fulcrum - 0.35, -0.7), (fulcrum + 0.35, -0.7)], color=COLORS.out
        )
    )
    ax.text(
        fulcrum, -0.85, f"together: o = {merged:.4g}", ha="center", va="top", color=COLORS.out,
        weight="bold",
    )  # fmt: skip
    for i, (x, value, height) in enumerate(zip(along, values, heights, strict=True)):
        weight = math.exp(height - total)
        _weight(ax, x, weight, SPLITS[i % len(SPLITS)])
        lse_text = "−∞" if height == -math.inf else f"{height:.3g}"
        ax.text(
            x, 0.15 + _side(weight), f"o = {value:g},  lse = {lse_text}\nweight {weight:.2f}",
            ha="center", va="bottom", fontsize=9.5,
        )  # fmt: skip
    bare(ax).set(xlim=(-1.6, 11.6), ylim=(-1.4, 3.2), aspect="equal")
    return fig


def _side(weight: float) -> float:
    """The side of the square that stands for a weight; areas are to scale."""
    return 2.0 * math.sqrt(weight) if weight else 0.35


def _weight(ax: Axes, x: float, weight: float, fill: str) -> None:
    """A square standing on the beam at x; hollow if it weighs nothing."""
    side = _side(weight)
    style = (
        {"facecolor": fill} if weight else {"fill": False, "edgecolor": COLORS.muted, "ls": "--"}
    )
    ax.add_patch(Rectangle((x - side / 2, 0.03), side, side, **style))
