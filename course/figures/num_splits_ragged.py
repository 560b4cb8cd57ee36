"""Figures of the lesson on the number of splits: many GPUs, fixed sizes, ragged batches."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from course.hardware.timeline import Run
from course.style import COLORS, SPLITS, figure, tokens

MARKS = ("s", "D", "^")


def splits_across_gpus(
    sms: Mapping[str, int],
    chosen: Mapping[str, Mapping[str, int]],
    good: Mapping[str, Sequence[int]],
) -> Figure:
    """What each rule chooses for one shape on many GPUs, in order of their SM counts.

    sms: by GPU. chosen: by rule, the number of splits by GPU. good: by GPU, the numbers nearly
    as good as the best.
    """
    names = sorted(sms, key=lambda name: sms[name])
    fig, ax = figure(size=(9.0, 4.2))
    for x, name in enumerate(names):
        label = "within 2 % of the least time" if x == 0 else None
        at = [x - 0.22] * len(good[name])
        ax.plot(at, good[name], "o", color=COLORS.muted, ms=5, mew=0, alpha=0.6, label=label)
    colors = (COLORS.max, COLORS.sum, COLORS.v)
    for i, (rule, splits) in enumerate(chosen.items()):
        places = [x + 0.2 * i for x in range(len(names))]
        heights = [splits[name] for name in names]
        ax.plot(places, heights, MARKS[i], color=colors[i], ms=8, label=rule)
    ax.set(yscale="log", ylabel="number of splits", ylim=(3.5, 230), xlim=(-0.6, len(names) - 0.4))
    ax.yaxis.set_major_locator(FixedLocator([4, 8, 16, 32, 64, 128]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xticks(range(len(names)), [f"{name}\n{sms[name]} SMs" for name in names], fontsize=8.5)
    ax.grid(axis="y", lw=0.6)
    ax.set_axisbelow(True)
    ax.legend(loc="upper left", ncols=len(chosen) + 1, fontsize=9.5)
    return fig


def fixed_sizes(
    lengths: Sequence[int], curves: Mapping[str, Sequence[float]], title: str
) -> Figure:
    """How much longer splits of a fixed size take than the best number: a line per size.

    curves: by size (in words), time over the least time at each of `lengths` (tokens).
    """
    fig, ax = figure(size=(9.0, 3.8))
    most = max(max(curve) for curve in curves.values())
    for i, (name, curve) in enumerate(curves.items()):
        ax.plot(lengths, curve, "o-", color=SPLITS[i], ms=5)
        at = max(range(len(curve)), key=lambda j: curve[j])
        place = (lengths[at], curve[at] + 0.03 * most)
        ax.text(*place, name, color=SPLITS[i], ha="center", va="bottom", fontsize=9.5)
    ax.axhline(1, color=COLORS.ink, lw=1, ls=":")
    ax.set(xscale="log", xlabel="context length, tokens", title=title)
    ax.set(ylim=(0.9, most * 1.14), xlim=(lengths[0] * 0.8, lengths[-1] * 1.1))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g} ×")
    ax.xaxis.set_major_locator(FixedLocator(lengths))
    ax.xaxis.set_minor_locator(NullLocator())
    tokens(ax.xaxis)
    ax.set_ylabel("time over the least time")
    return fig


def ragged_timelines(
    cases: Mapping[str, tuple[Sequence[Run], Sequence[int]]], workers: int, ideal: float
) -> Figure:
    """Who works when, for the same ragged batch cut in several ways; time in blocks.

    cases: by title, the runs, and the batch row of each program. Row 0, the long one, is blue.
    ideal: all blocks over all workers. Time taken is that of programs, waits included.
    """
    fig, axes = figure(len(cases), 1, size=(9.0, 1.55 * len(cases) + 0.6), sharex=True)
    longest = max(run.stop for runs, _ in cases.values() for run in runs)
    for ax, (title, (runs, rows)) in zip(axes, cases.items(), strict=True):
        done = max(run.stop for run in runs)
        ax.barh(range(workers), done, height=0.86, color=COLORS.idle)
        for run in runs:
            row = rows[run.program]
            color = COLORS.k if row == 0 else SHORT[row % len(SHORT)]
            ax.barh(run.slot, run.stop - run.start, left=run.start, height=0.86, color=color,
                    ec="white", lw=0.6)  # fmt: skip
        ax.axvline(ideal, color=COLORS.ink, lw=1.2, ls=":")
        busy = sum(run.stop - run.start for run in runs) / (workers * done)
        told = f"done at {done:g}, {100 * busy:.0f} % of the slots' time taken"
        ax.text(1.0, 1.03, told, transform=ax.transAxes, ha="right", va="bottom", fontsize=9.5)
        ax.set(title=title, yticks=[], ylabel=f"{workers} slots", xlim=(0, longest * 1.01))
        ax.set_ylim(workers - 0.5, -0.5)
    axes[-1].set_xlabel(f"blocks of time; dotted: {ideal:g}, if nobody ever waited")
    return fig


SHORT = (SPLITS[1], SPLITS[2], SPLITS[3], SPLITS[4], SPLITS[5], SPLITS[7])
