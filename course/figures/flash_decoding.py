"""Figures of the lesson on Flash-Decoding: workers, splits, and the merge of their answers."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course.figures.flash_decoding_measured import (
    decode_latency,
    split_count_error,
    workspace_against_cache,
)
from course.style import COLORS, SPLITS, arrow, bare, box, cells, figure, text_on, tokens

__all__ = [
    "causal_splits",
    "combine_weights",
    "decode_latency",
    "ragged_splits",
    "split_count_error",
    "splits_by_hand",
    "starving_workers",
    "workspace_against_cache",
]

Bounds = Sequence[tuple[int, int]]
HAND_ROWS = {-0.5: "exp(score)", -1.5: "value", -3.85: "each split\non its own", -6.45: "combined"}


def split_color(s: int) -> str:
    """The colour of split `s`; after the eighth, the colours repeat."""
    return SPLITS[s % len(SPLITS)]


def starving_workers(heads: int, workers: int, length: int, bounds: Bounds) -> Figure:
    """How much of the cache each worker reads in a decode step: a worker per head, or per split.

    heads · len(bounds) must be at most `workers`; bounds: the splits of one head's `length` keys.
    """
    fig, axes = figure(1, 2, size=(9.0, 3.6), sharey=True)
    plans = ([(0, length)], bounds)
    titles = ("One worker per head", f"One worker per split, {len(bounds)} per head")
    for ax, plan, title in zip(axes, plans, titles, strict=True):
        longest = max(stop - start for start, stop in plan)
        jobs = [(h, s, b) for h in range(heads) for s, b in enumerate(plan)]
        for w in range(workers):
            ax.barh(w, longest, height=0.78, color=COLORS.idle)
        for w, (h, s, (start, stop)) in enumerate(jobs):
            fill = split_color(s) if len(plan) > 1 else COLORS.k
            ax.barh(w, stop - start, height=0.78, color=fill)
            told = f"head {h}, keys {start:,}–{stop - 1:,}"
            if stop - start > length / 2:
                ax.text(length * 0.02, w, told, va="center", fontsize=8.5, color=text_on(fill))
            else:
                ax.text(stop - start + length * 0.02, w, told, va="center", fontsize=8.5)
        for w in range(len(jobs), workers):
            ax.text(longest * 0.02, w, "idle", va="center", fontsize=8.5, color=COLORS.muted)
        ax.set(title=title, xlabel="keys read, one after the other", xlim=(0, length))
        tokens(ax.xaxis)
        ax.set_xticks([length * i // 4 for i in range(5)])
        ax.tick_params(left=False)
    axes[0].set(yticks=range(workers), yticklabels=[f"worker {w}" for w in range(workers)])
    axes[0].invert_yaxis()
    return fig


def splits_by_hand(
    weights: Sequence[float],
    values: Sequence[float],
    bounds: Bounds,
    o_partial: Tensor,
    lse_partial: Tensor,
) -> Figure:
    """The three steps on a handful of keys: cut, one partial per split, one weighted mean.

    weights: exp(score) of each key; values: their values; o_partial, lse_partial: (S,).
    """
    slots = [max(stop - start, 2) for start, stop in bounds]
    lefts = [sum(slots[:s]) + 0.3 * s for s in range(len(slots) + 1)]
    right = lefts.pop() - 0.3
    fig, ax = figure(size=(9.0, 5.2))
    bare(ax).set(xlim=(-2.8, right + 0.3), ylim=(-7.4, 0.9), aspect="equal")
    for y, text in HAND_ROWS.items():
        ax.text(-0.3, y, text, ha="right", va="center", color=COLORS.muted)
    sums = lse_partial.exp()
    shares = (sums / sums.sum()).tolist()
    for s, (start, stop) in enumerate(bounds):
        fill = split_color(s) if stop > start else COLORS.mask
        middle = lefts[s] + slots[s] / 2
        ax.text(middle, 0.25, f"split {s}", ha="center", weight="bold")
        if stop > start:
            cells(ax, [weights[start:stop], values[start:stop]], origin=(lefts[s], 0), color=fill)
        else:
            ax.text(middle, -1.0, "no keys", ha="center", va="center", color=COLORS.muted)
        arrow(ax, (middle, -2.1), (middle, -3.0))
        log_sum = f"log {sums[s]:.3g}" if sums[s] > 0 else "−∞"
        box(ax, middle - 0.97, -4.6, 1.94, 1.5, f"o = {o_partial[s]:.4g}\nlse = {log_sum}", fill)
        landing = right / 2 + (s - (len(bounds) - 1) / 2) * 1.2
        arrow(ax, (middle, -4.7), (landing, -5.85))
        ax.text(
            (middle + landing) / 2, -5.25, f"× {shares[s]:g}", ha="center", va="center",
            weight="bold", bbox={"facecolor": COLORS.card, "lw": 0, "pad": 2},
        )  # fmt: skip
    whole = f"o = {(sums / sums.sum()) @ o_partial:.4g}\nlse = log {sums.sum():.3g}"
    box(ax, right / 2 - 2.0, -7.1, 4.0, 1.25, whole, COLORS.out)
    return fig


def combine_weights(weights: Tensor, names: Sequence[str]) -> Figure:
    """Each split's share of the answer, one bar per row; weights: (rows, S), rows sum to 1."""
    fig, ax = figure(size=(9.0, 0.62 * len(names) + 1.3))
    for i, row in enumerate(weights.tolist()):
        left = 0.0
        for s, share in enumerate(row):
            ax.barh(i, share, left=left, height=0.72, color=split_color(s), edgecolor="white", lw=1)
            if share > 0.045:
                ax.text(
                    left + share / 2, i, f"{share:.2f}", ha="center", va="center", fontsize=9,
                    color=text_on(split_color(s)),
                )  # fmt: skip
            left += share
    for s in range(weights.shape[1]):
        x = (s + 0.5) / weights.shape[1]
        ax.text(x, -0.75, f"split {s}", ha="center", fontsize=9, color=split_color(s),
                weight="bold")  # fmt: skip
    ax.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 1), ylim=(len(names) - 0.5, -1.1))
    ax.set_xlabel("weight exp(lseₛ − lse) in the combine")
    ax.tick_params(left=False)
    ax.spines["left"].set_visible(False)
    return fig


def ragged_splits(row_bounds: Sequence[Bounds], capacity: int) -> Figure:
    """A batch of caches of `capacity` cells, each row cut into its own splits; tails hatched."""
    fig, ax = figure(size=(9.0, 0.72 * len(row_bounds) + 1.1))
    for b, bounds in enumerate(row_bounds):
        length = max(stop for _, stop in bounds)
        ax.barh(
            b, capacity, height=0.66, color=COLORS.card, edgecolor=COLORS.mask, hatch="////", lw=0
        )
        for s, (start, stop) in enumerate(bounds):
            ax.barh(
                b, stop - start, left=start, height=0.66, color=split_color(s), edgecolor="white"
            )
            if stop - start > capacity * 0.03:
                ax.text(
                    (start + stop) / 2, b, f"{stop - start}", ha="center", va="center", fontsize=9,
                    color=text_on(split_color(s)),
                )  # fmt: skip
        empty = sum(start == stop for start, stop in bounds)
        note = f"{empty} of {len(bounds)} splits empty" if empty else "no split empty"
        ax.text(capacity * 1.015, b, note, va="center", fontsize=9, color=COLORS.muted)
        if length < capacity * 0.9:
            ax.text(
                (length + capacity) / 2, b, "not this row's: NaN", ha="center", va="center",
                fontsize=9, color=COLORS.muted, bbox={"facecolor": COLORS.card, "lw": 0, "pad": 2},
            )  # fmt: skip
    names = [f"row {b}: {max(stop for _, stop in bs)} keys" for b, bs in enumerate(row_bounds)]
    ax.set(yticks=range(len(names)), yticklabels=names, xlim=(0, capacity * 1.2))
    ax.set_xticks([capacity * i // 4 for i in range(5)])
    ax.set_xlabel("cell of the cache", loc="left")
    ax.invert_yaxis()
    ax.tick_params(left=False)
    ax.spines["left"].set_visible(False)
    return fig


def causal_splits(visible: Tensor, bounds: Bounds) -> Figure:
    """What each of several new queries may see of each split; visible: bool (Lq, length)."""
    Lq, length = visible.shape
    fig, ax = figure(size=(9.0, 0.75 * Lq + 1.3))
    bare(ax).set(
        xlim=(-2.2, length + 0.2 * len(bounds) + 0.3), ylim=(-Lq - 0.75, 0.75), aspect="equal"
    )
    for s, (start, stop) in enumerate(bounds):
        x = start + 0.2 * s
        if stop > start:
            ax.text((2 * x + stop - start) / 2, 0.2, f"split {s}", ha="center", weight="bold")
        for i in range(Lq):
            for j in range(start, stop):
                fill = split_color(s) if visible[i, j] else COLORS.mask
                spot = (x + j - start, -i - 1)
                ax.add_patch(Rectangle(spot, 1, 1, facecolor=fill, edgecolor="white", lw=1.5))
            if stop > start and not visible[i, start:stop].any():
                ax.text(
                    x + (stop - start) / 2, -i - 0.5, "o = 0\nlse = −∞", ha="center", va="center",
                    fontsize=9,
                )  # fmt: skip
    for i in range(Lq):
        ax.text(-0.2, -i - 0.5, f"query {i}", ha="right", va="center")
    for s, (start, stop) in enumerate(bounds):
        for j in range(start, stop):
            x = 0.2 * s + j + 0.5
            ax.text(x, -Lq - 0.15, f"{j}", ha="center", va="top", fontsize=9, color=COLORS.muted)
    ax.text(-0.2, -Lq - 0.15, "key", ha="right", va="top", fontsize=9, color=COLORS.muted)
    return fig
