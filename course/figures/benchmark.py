"""Figures of the lesson on benchmarks: a queue, first calls, caches, spread, contestants."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from course.figures.benchmark_curves import three_shapes, tpot_curves
from course.style import COLORS, bytes_, figure

__all__ = [
    "cache_sizes",
    "first_calls",
    "queue_timeline",
    "side_by_side",
    "spread",
    "three_shapes",
    "tpot_curves",
]


def queue_timeline(calls: Sequence[tuple[float, float, float]], stopped: float) -> Figure:
    """The host puts calls into a queue and a worker runs them: who is busy when.

    calls: seconds at which each was launched, started and done. stopped: when the host, which did
    not wait, stopped its clock. The figure counts from the first launch.
    """
    start = calls[0][0]
    ms = [tuple((t - start) * 1e3 for t in call) for call in calls]
    stopped, end = (stopped - start) * 1e3, ms[-1][2]
    fig, ax = figure(size=(9.0, 2.9))
    for i, (launched, begun, done) in enumerate(ms):
        ax.plot([launched] * 2, [1.02, 1.38], color=COLORS.accent, lw=1.6)
        fill = COLORS.k if i % 2 == 0 else COLORS.score
        ax.barh(0.2, done - begun, left=begun, height=0.42, color=fill, edgecolor="white")
    for x, y, text, color in (
        (stopped, 1.2, f"  clock stopped: {stopped:.2g} ms", COLORS.accent),
        (end, 0.2, f"  work done: {end:.3g} ms", COLORS.k),
    ):
        ax.plot([x, x], [-0.15, 1.5], color=color, lw=1.2, ls="--", zorder=0)
        ax.text(x, y, text, color=color, va="center", ha="left", fontsize=10)
    ax.set(yticks=[0.2, 1.2], ylim=(-0.2, 1.6), xlim=(-0.02 * end, 1.28 * end))
    ax.set_yticklabels(["worker:\none bar per call", "host:\none tick per launch"])
    ax.tick_params(left=False)
    ax.set_xlabel("milliseconds since the first launch")
    return fig


def first_calls(seconds: Sequence[float], settled: float) -> Figure:
    """How long each call took, from the very first; settled: the median of the later ones."""
    ms = [t * 1e3 for t in seconds]
    fig, ax = figure(size=(9.0, 3.3))
    ax.axhline(settled * 1e3, color=COLORS.muted, lw=1.2, ls="--")
    ax.plot(range(1, len(ms) + 1), ms, "o", color=COLORS.k, ms=5)
    ax.plot([1], ms[:1], "o", color=COLORS.accent, ms=9)
    ax.annotate(
        f"first call: {ms[0]:.3g} ms", (1, ms[0]), (12, 0), textcoords="offset points",
        va="center", color=COLORS.accent,
    )  # fmt: skip
    ax.text(len(ms) + 1.3, settled * 1e3, f"median of the\nlater ones: {settled * 1e3:.3g} ms",
            va="center", color=COLORS.muted, fontsize=9.5)  # fmt: skip
    ax.set(yscale="log", xlabel="call", ylabel="milliseconds (log)", xlim=(0, len(ms) + 1))
    _plain_log(ax.yaxis, ms)
    return fig


def cache_sizes(
    sizes: Sequence[int], same: Sequence[float], rotating: Sequence[float], cache: int | None
) -> Figure:
    """GB/s against the bytes in a set of inputs: the same set each time, or many in turn.

    cache: bytes in the processor's last-level cache; None if that is not known.
    """
    fig, ax = figure(size=(9.0, 3.7))
    top = 1.25 * max(*same, *rotating)
    ax.fill_between(sizes, rotating, same, color=COLORS.idle, lw=0)
    ax.plot(sizes, same, "s-", color=COLORS.accent, ms=5)
    ax.plot(sizes, rotating, "o-", color=COLORS.k, ms=5)
    ax.set(xscale="log", ylim=(0, top), xlabel="bytes of K and V that one call reads")
    peak = max(range(len(same)), key=lambda i: same[i])
    ax.annotate("the same set each time", (sizes[peak], same[peak]), (0, 9),
                ha="center" if peak else "left", textcoords="offset points",
                color=COLORS.accent)  # fmt: skip
    ax.annotate("many sets in turn", (sizes[0], rotating[0]), (4, -16),
                textcoords="offset points", color=COLORS.k)  # fmt: skip
    if cache and sizes[0] < cache < 2 * sizes[-1]:
        ax.axvline(cache, color=COLORS.muted, lw=1, ls=":")
        ax.text(cache, top * 0.97, f"{cache / 2**20:g} MiB of cache ", ha="right", va="top",
                color=COLORS.muted, fontsize=9)  # fmt: skip
    ax.xaxis.set_major_locator(FixedLocator(list(sizes)))
    ax.xaxis.set_minor_locator(NullLocator())
    bytes_(ax.xaxis)
    ax.set_ylabel("bytes / time, GB/s")
    return fig


def spread(samples: Mapping[str, Sequence[float]]) -> Figure:
    """Samples of a time, one row per name, with their minimum, quartiles, median and mean.

    samples: seconds.
    """
    fig, ax = figure(size=(9.0, 1.0 + 1.05 * len(samples)))
    every = [t * 1e3 for times in samples.values() for t in times]
    for row, times in enumerate(samples.values()):
        ms = torch.tensor(times, dtype=torch.float64) * 1e3
        q1, median, q3 = ms.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=ms.dtype)).tolist()
        ax.barh(row, q3 - q1, left=q1, height=0.5, color=COLORS.idle)
        ups = row + 0.12 * torch.sin(7.0 * torch.arange(len(ms)))
        ax.plot(ms, ups, "o", color=COLORS.score, ms=4, alpha=0.8)
        for x, name, color, up, side in (
            (ms.min().item(), "least", COLORS.muted, -0.40, "right"),
            (median, "median", COLORS.k, 0.36, "center"),
            (ms.mean().item(), "mean", COLORS.accent, -0.40, "left"),
        ):
            ax.plot([x, x], [row - 0.3, row + 0.3], color=color, lw=2.2)
            ax.text(x, row + up, f"{name} {x:.3g}", color=color, ha=side, va="center", fontsize=9)
    ax.set(xscale="log", yticks=range(len(samples)), ylim=(-0.6, len(samples) - 0.4))
    ax.set_yticklabels(list(samples))
    ax.set_xlabel("milliseconds per call (log)")
    _plain_log(ax.xaxis, every)
    low, high = ax.get_xlim()
    ax.set_xlim(low / 1.5, high)  # room for "least", left of the first dot
    return fig


def side_by_side(quartiles: Mapping[str, Sequence[float]], title: str = "") -> Figure:
    """One bar per contestant: the median in ms, and a line from the first quartile to the third.

    quartiles: by name, [first, median, third].
    """
    fig, ax = figure(size=(9.0, 1.1 + 0.5 * len(quartiles)))
    best = min(q[1] for q in quartiles.values())
    most = max(q[2] for q in quartiles.values())
    for row, (name, (q1, median, q3)) in enumerate(quartiles.items()):
        ours = name.startswith("Flash-Decoding")
        ax.barh(row, median, height=0.6, color=COLORS.k if ours else COLORS.mask)
        ax.plot([q1, q3], [row, row], color=COLORS.ink, lw=2)
        told = f"{median:.3g} ms" + ("" if median == best else f", {median / best:.2g} × the best")
        ax.text(max(q3, median) + 0.01 * most, row, told, va="center", fontsize=9.5)
    ax.set(yticks=range(len(quartiles)), xlim=(0, 1.32 * most), title=title)
    ax.set_yticklabels(list(quartiles))
    ax.invert_yaxis()
    ax.tick_params(left=False)
    ax.set_xlabel("milliseconds: median (bar) and quartiles (line)")
    return fig


def _plain_log(axis: object, values: Sequence[float]) -> None:
    """Label a log axis with plain numbers, at 1, 2 and 5 times powers of ten."""
    nice = [n * 10.0**e for e in range(-4, 5) for n in (1, 2, 5)]
    low, high = min(values) / 1.6, max(values) * 1.6
    axis.set_major_locator(FixedLocator([t for t in nice if low < t < high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.axes.set(**{f"{axis.axis_name}lim": (low, high)})
