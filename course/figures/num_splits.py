"""Figures of the lesson on the number of splits: the U, what makes it up, what the rules choose."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from course.figures.num_splits_ragged import fixed_sizes, ragged_timelines, splits_across_gpus
from course.hardware.timeline import Run
from course.style import COLORS, SPLITS, figure

__all__ = [
    "fixed_sizes",
    "ragged_timelines",
    "regret_of_rules",
    "split_curve",
    "split_terms",
    "splits_across_gpus",
    "toy_timelines",
]

TICKS = tuple(2**i for i in range(12))
TERMS = {  # the parts of a predicted time, from the bottom up
    "memory": COLORS.k,
    "idle": COLORS.mask,
    "launch": COLORS.max,
    "merge": COLORS.accent,
}


def toy_timelines(
    cases: Mapping[int, tuple[Sequence[Run], float]], sms: int, fill: float
) -> Figure:
    """Each number of splits on a GPU of a few SMs, and its total as a point of the U.

    cases: by number of splits, the runs of stage 1 and how long the second kernel takes; fill: the
    part of a run before its first block arrives. Five cases fill the sheet.
    """
    fig, axes = figure(2, 3, size=(9.6, 5.2))
    ends = {S: max(run.stop for run in runs) for S, (runs, _) in cases.items()}
    totals = {S: ends[S] + merge for S, (_, merge) in cases.items()}
    longest = max(totals.values())
    for ax, (S, (runs, merge)) in zip(axes.flat, cases.items(), strict=False):
        ax.barh(range(sms), ends[S], height=0.8, color=COLORS.idle)
        for run in runs:
            color = SPLITS[run.program % len(SPLITS)]
            ax.barh(run.sm, fill, left=run.start, height=0.8, color=COLORS.mask)
            width = run.stop - run.start - fill
            ax.barh(run.sm, width, left=run.start + fill, height=0.8, color=color, ec="white")
        if merge:
            ax.barh(sms, merge, left=ends[S], height=0.8, color=COLORS.ink, ec="white")
        ax.axvline(totals[S], color=COLORS.ink, lw=1, ls=":")
        at, side = (totals[S] + 0.15, "left") if totals[S] < 0.8 * longest else (8.2, "right")
        ax.text(at, 0.0 if side == "left" else 1.5, f"{totals[S]:g} ticks", ha=side, va="center")
        rows = [f"SM {i}" for i in range(sms)] + ["merge"]
        ax.set(yticks=range(sms + 1), yticklabels=rows, xlim=(0, longest * 1.05))
        ax.set(title=f"S = {S}", ylim=(sms + 0.6, -0.6), xlabel="ticks")
        ax.tick_params(left=False, labelsize=8.5)
    _points(axes.flat[-1], totals)
    return fig


def _points(ax: Axes, totals: Mapping[int, float]) -> None:
    """The totals against the number of splits, with the lowest marked."""
    best = min(totals, key=lambda S: totals[S])
    ax.plot(totals.keys(), totals.values(), "o-", color=COLORS.k, ms=5)
    ax.plot([best], [totals[best]], "o", color=COLORS.accent, ms=9)
    ax.text(best, totals[best] - 0.55, f"S = {best}", color=COLORS.accent, ha="center", va="top")
    ax.set(title="The U", xlabel="number of splits S", ylabel="ticks", ylim=(0, None))
    ax.set_xticks(list(totals))
    ax.tick_params(labelsize=8.5)


def split_terms(terms: Mapping[str, Sequence[float]], highest: float, note: str) -> Figure:
    """What a predicted time is made of, stacked, for 1, 2, 3, … splits; µs.

    terms: by name (from TERMS), the µs for each number of splits; highest: where the sheet ends
    and columns are cut off; note: whose figures these are.
    """
    count = len(next(iter(terms.values())))
    splits = range(1, count + 1)
    fig, ax = figure(size=(9.0, 4.0))
    base = [0.0] * count
    for name, color in TERMS.items():
        top = [b + x for b, x in zip(base, terms[name], strict=True)]
        ax.fill_between(splits, base, top, step="mid", color=color, lw=0, label=name)
        base = top
    best = min(splits, key=lambda S: base[S - 1])
    told = f"least: S = {best}, {base[best - 1]:.1f} µs"
    arrows = {"arrowstyle": "-", "color": COLORS.ink, "lw": 1}
    ax.annotate(
        told, (best, base[best - 1]), (best, 0.72 * highest), ha="center", arrowprops=arrows
    )
    over = f"S = 1: {base[0]:,.0f} µs"
    ax.text(1.04, highest * 0.97, over, va="top", fontsize=9, color=COLORS.ink)
    ax.set(ylim=(0, highest), ylabel="predicted µs", xlabel="number of splits S")
    _doubling(ax, count)
    ax.legend(loc="upper right", ncols=4, fontsize=9.5, title=note, title_fontsize=9.5)
    return fig


def split_curve(
    times: Mapping[int, float],
    choices: Mapping[str, int],
    title: str,
    others: Mapping[str, Sequence[Mapping[int, float]]] | None = None,
) -> Figure:
    """Time in µs against the number of splits, with each rule's choice marked.

    times: µs by number of splits, cut off far above the lowest. choices: splits by rule. others:
    curves under other assumptions, drawn thin: a list and a colour for each name.
    """
    fig, ax = figure(size=(9.0, 4.2))
    for i, (name, curves) in enumerate((others or {}).items()):
        color = WORLD_COLORS[i % len(WORLD_COLORS)]
        for curve in curves:
            ax.plot(curve.keys(), curve.values(), color=color, lw=1.3, zorder=1)
        place = (0.02 + 0.36 * (i % 2), 0.13 - 0.075 * (i // 2))  # below all curves
        ax.text(*place, name, color=color, transform=ax.transAxes, fontsize=9.5)
    ax.plot(times.keys(), times.values(), color=COLORS.k, lw=1.8, zorder=2)
    best = min(times, key=lambda S: times[S])
    ax.plot([best], [times[best]], "*", color=COLORS.ink, ms=15, zorder=4)
    rows = [("least", best, times[best], COLORS.ink, "*")]
    for i, (rule, S) in enumerate(choices.items()):
        color = RULE_COLORS[i % len(RULE_COLORS)]
        ax.plot([S], [times[S]], "o", color=color, ms=12 - 2.5 * i, zorder=3 + i)
        rows.append((rule, S, times[S], color, "o"))
    low, high = times[best], min(max(times.values()), 2.5 * times[best])
    right = min(12, max(times))  # from here on, the key is above the curve
    high = max(high, max(us for S, us in times.items() if right <= S) / 0.6)
    for i, (rule, S, us, color, mark) in enumerate(rows):
        y = 0.93 - 0.085 * i  # in sheet heights
        more = "" if us <= low else f", +{100 * (us / low - 1):.1f} %"
        ax.plot([0.585], [y], mark, color=color, ms=9, transform=ax.transAxes)
        told = f"{rule}: S = {S}, {us:,.1f} µs{more}"
        ax.text(0.605, y, told, transform=ax.transAxes, va="center", fontsize=9.5)
    if max(times.values()) > high and not others:
        over = f"S = 1: {times[1]:,.0f} µs" if 1 in times else ""
        ax.text(1.04, high, over, va="top", fontsize=9, color=COLORS.muted)
    ax.set(ylim=(0, high * 1.03), xlabel="number of splits S", ylabel="µs", title=title)
    _doubling(ax, max(times))
    return fig


RULE_COLORS = (COLORS.max, COLORS.sum, COLORS.v, COLORS.score)
WORLD_COLORS = (COLORS.accent, COLORS.p, COLORS.muted, COLORS.score)


def regret_of_rules(regrets: Mapping[str, Sequence[float]], title: str) -> Figure:
    """How much longer a rule's choice takes than the best one: a row per rule, a dot per case.

    regrets: by rule, numbers from 0 (the best) up; 1 is twice as long. Median, 90th percentile and
    worst are written out.
    """
    fig, ax = figure(size=(9.0, 0.75 * len(regrets) + 1.5))
    for i, values in enumerate(regrets.values()):
        ordered = sorted(values)
        n = len(ordered)
        heights = [i - 0.3 + 0.6 * ((7 * k) % 11) / 10 for k in range(n)]  # spread, not random
        color = RULE_COLORS[i % len(RULE_COLORS)]
        ax.plot([1 + r for r in ordered], heights, "o", color=color, ms=3.5, alpha=0.55, mew=0)
        median, worst = ordered[n // 2], ordered[-1]
        ninety = ordered[min(n - 1, (9 * n) // 10)]
        ax.plot([1 + median] * 2, [i - 0.38, i + 0.38], color=COLORS.ink, lw=2)
        told = f"median {100 * median:.1f} %\n90th {100 * ninety:.1f} %\nworst {100 * worst:.0f} %"
        ax.text(1.01, i, told, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    ax.set(xscale="log", title=title, yticks=range(len(regrets)), yticklabels=list(regrets))
    most = 1 + max(max(values) for values in regrets.values())
    marks = [x for x in (1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100) if x <= 1.15 * most]
    ax.xaxis.set_major_locator(FixedLocator(marks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g} ×")
    ax.set(xlim=(0.99, most * 1.05), ylim=(len(regrets) - 0.45, -0.55))
    ax.set_xlabel("time with the rule's choice, over the least time")
    ax.tick_params(left=False)
    return fig


def _doubling(ax: Axes, most: int) -> None:
    """A logarithmic axis of numbers of splits, labelled at powers of two."""
    ax.set(xscale="log", xlim=(0.96, most * 1.04))
    ax.xaxis.set_major_locator(FixedLocator([S for S in TICKS if most >= S]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
