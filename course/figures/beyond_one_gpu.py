"""Lesson 16: keys over ranks, bytes on the wire, time over GPUs, and a prefix that is read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullLocator

from course.style import COLORS, SPLITS, CourseFigure, arrow, bare, bytes_, figure, text_on

__all__ = [
    "bytes_over_ranks",
    "keys_over_ranks",
    "measured_merges",
    "prefix_saved",
    "time_over_gpus",
]

MERGE_COLORS = {"gather": COLORS.k, "reduce": COLORS.max, "heads": COLORS.v}


def keys_over_ranks(rank_of: Sequence[int], ranks: int, *, new: int = 0) -> CourseFigure:
    """Above, a row of keys by place; below, the shard of each rank and what leaves it.

    rank_of: for each place, its rank. new: how many of the last places are new tokens.
    """
    fig, ax = figure(size=(9.0, 1.5 + 0.62 * ranks))
    bare(ax)
    step = min(0.55, 8.4 / max(1, len(rank_of)))
    for place, rank in enumerate(rank_of):
        _cell(ax, place * step, 0.0, step, place, rank, place >= len(rank_of) - new)
    ax.text(0, 0.62, "the cache of one sequence, by place", fontsize=9.5, color=COLORS.muted)
    for rank in range(ranks):
        mine = [place for place, owner in enumerate(rank_of) if owner == rank]
        y = -0.95 - 0.62 * rank
        ax.text(-0.1, y + 0.22, f"rank {rank}", ha="right", va="center")
        for slot, place in enumerate(mine):
            _cell(ax, slot * step, y, step, place, rank, place >= len(rank_of) - new)
        found = "(0, −∞)" if not mine else f"o{_low(rank)}, lse{_low(rank)}"
        arrow(ax, (len(mine) * step + 0.1, y + 0.22), (6.1, y + 0.22))
        ax.text(6.2, y + 0.22, found, va="center")
    middle = -0.95 - 0.31 * (ranks - 1) + 0.22
    ax.text(7.5, middle, "}  merge  →  o, lse", va="center", weight="bold")
    ax.set_xlim(-0.9, 9.3)
    ax.set_ylim(-0.95 - 0.62 * (ranks - 1) - 0.15, 0.95)
    return fig


def _low(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _cell(ax, x: float, y: float, step: float, place: int, rank: int, new: bool) -> None:
    fill = SPLITS[rank % len(SPLITS)]
    ax.add_patch(
        Rectangle((x, y), step, 0.44, facecolor=fill, edgecolor="white", lw=1.2,
                  hatch="//" if new else None)
    )  # fmt: skip
    ax.text(x + step / 2, y + 0.22, place, ha="center", va="center", fontsize=8.5,
            color=text_on(fill))  # fmt: skip


def _doubling_axis(ax, values: Sequence[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(values))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())


def bytes_over_ranks(
    ranks: Sequence[int], sent: Mapping[str, Sequence[float]], counted: Mapping[str, Mapping]
) -> CourseFigure:
    """What a rank sends, by merge: lines are the formulas, points what was counted.

    sent: for each merge the bytes at every entry of `ranks`; counted: {merge: {ranks: bytes}}.
    """
    fig, ax = figure()
    for merge, numbers in sent.items():
        color = MERGE_COLORS[merge]
        ax.plot(ranks, numbers, color=color, label=merge)
        some = counted.get(merge, {})
        ax.plot(list(some), list(some.values()), "o", color=color, ms=7, mec="white")
        ax.annotate(merge, (ranks[-1], numbers[-1]), (6, 0), textcoords="offset points",
                    va="center", color=color, weight="bold")  # fmt: skip
    _doubling_axis(ax, ranks)
    ax.set_yscale("log", base=2)
    bytes_(ax.yaxis)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("ranks that share the context")
    ax.set_ylabel("bytes a rank sends")
    ax.grid(axis="y", lw=0.6)
    ax.margins(x=0.08)
    return fig


def time_over_gpus(
    gpus: Sequence[int],
    attend_us: Mapping[str, Sequence[float]],
    merge_us: Sequence[float],
    *,
    mark: int | None = None,
) -> CourseFigure:
    """Time of one layer's attention over many GPUs: a line per context, and the merge they share.

    attend_us: {label: µs of the attention alone at each entry of `gpus`}; merge_us: likewise. The
    lines are the sums; below the dashed line lies what the merge takes. mark: a number of GPUs.
    """
    fig, ax = figure(size=(9.0, 4.2))
    shades = [SPLITS[i % len(SPLITS)] for i in range(len(attend_us))]
    for (label, times), color in zip(attend_us.items(), shades, strict=True):
        total = [a + b for a, b in zip(times, merge_us, strict=True)]
        ax.plot(gpus, total, color=color, marker="o", ms=4)
        best = min(range(len(total)), key=total.__getitem__)
        ax.plot([gpus[best]], [total[best]], "o", ms=11, mfc="none", mec=color, mew=2)
        ax.annotate(label, (gpus[0], total[0]), (-8, 0), textcoords="offset points", ha="right",
                    va="center", color=color)  # fmt: skip
    ax.plot(gpus, merge_us, color=COLORS.muted, ls="--", lw=1.4)
    ax.annotate("merge alone", (gpus[-1], merge_us[-1]), (6, -4), textcoords="offset points",
                color=COLORS.muted)  # fmt: skip
    if mark is not None:
        ax.axvline(mark, color=COLORS.grid, lw=6, zorder=0)
    _doubling_axis(ax, gpus)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlabel("GPUs")
    ax.set_ylabel("µs per layer and step")
    ax.grid(axis="y", lw=0.6)
    ax.margins(x=0.14)
    return fig


def measured_merges(rows: Sequence[Mapping], ms_per_round: float, ms_per_mb: float) -> CourseFigure:
    """Recorded merges by ring (points) beside latency · rounds + bytes / bandwidth (lines).

    rows: of `benchmarks/results/distributed.json`; the two numbers: its fit to 2 ranks.
    """
    fig, axes = figure(1, 2, size=(9.0, 3.6), sharey=True)
    for ax, ranks in zip(axes, (2, 4), strict=True):
        for merge, color in MERGE_COLORS.items():
            some = [r for r in rows if (r.get("merge"), r.get("how")) == (merge, "ring")
                    and r["kind"] == "merge" and r["ranks"] == ranks]  # fmt: skip
            sent = [r["sent"] for r in some]
            model = [ms_per_round * r["messages"] + ms_per_mb * r["sent"] / 1e6 for r in some]
            ax.plot(sent, [r["ms"] for r in some], "o", color=color, label=merge)
            ax.plot(sent, model, color=color, lw=1.3)
        ax.set_title(f"{ranks} ranks")
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        bytes_(ax.xaxis)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_xlabel("bytes a rank sends")
        ax.grid(axis="y", lw=0.6)
    axes[0].set_ylabel("ms")
    axes[0].legend()
    return fig


def prefix_saved(
    batches: Sequence[int],
    apart: Sequence[float],
    together: Sequence[float],
    shortest: Mapping[str, Sequence[int | None]],
) -> CourseFigure:
    """Left, bytes for the prefix with and without sharing, by batch; right, when sharing pays.

    shortest: {label: for each batch the shortest prefix that pays, None if none does}.
    """
    fig, (left, right) = figure(1, 2, size=(9.0, 3.6))
    left.plot(batches, apart, color=COLORS.k, marker="o", ms=4, label="each row on its own")
    left.plot(batches, together, color=COLORS.v, marker="o", ms=4, label="read together")
    left.set_yscale("log", base=2)
    bytes_(left.yaxis)
    left.set_ylabel("bytes for the prefix")
    left.legend()
    for (label, numbers), color in zip(shortest.items(), SPLITS[1:], strict=False):
        some = [(b, n) for b, n in zip(batches, numbers, strict=True) if n is not None]
        right.plot(*zip(*some, strict=True), color=color, marker="o", ms=4, label=label)
        for b, n in (some[0], some[-1]):
            right.annotate(f"{n:,}", (b, n), (0, 7), textcoords="offset points", ha="center",
                           fontsize=9)  # fmt: skip
    right.set_yscale("log")
    right.set_ylabel("shortest prefix that pays, tokens")
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    right.margins(y=0.15)
    right.legend()
    for ax in (left, right):
        _doubling_axis(ax, batches)
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("rows of the batch")
        ax.grid(axis="y", lw=0.6)
    return fig
