"""Figures of the lesson on starving GPUs: who works when, and what that costs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from course.figures.why_decode_starves_measured import (
    busy_cores,
    latency_and_floor,
    published_beside_model,
)
from course.hardware.timeline import Run, makespan, utilisation
from course.style import COLORS, SPLITS, figure, text_on

__all__ = [
    "busy_cores",
    "dealt_out",
    "filling_with_batch",
    "latency_and_floor",
    "published_beside_model",
    "sm_timelines",
]

COLUMNS = 900  # in the picture of a timeline
LANES = 6  # per SM in it: divides by one, two and three programs side by side
FINE = 160  # SMs: up to this many, there is room for a line between them


def dealt_out(cases: Mapping[str, Sequence[Run]], sms: int) -> Figure:
    """A few programs on a few SMs, one box each, the tail in another colour.

    cases: by title, runs from `course.hardware.schedule`; their unit of time is µs.
    """
    fig, axes = figure(1, len(cases), size=(9.4, 0.42 * sms + 1.5), sharey=True, squeeze=False)
    longest = max(makespan(runs) for runs in cases.values())
    for ax, (title, runs) in zip(axes[0], cases.items(), strict=True):
        end = makespan(runs)
        last = max((run.start for run in runs), default=0.0)
        tail = sum(run.start == last for run in runs) < sms  # the last wave leaves an SM idle
        for sm in range(sms):
            ax.barh(sm, end, height=0.84, color=COLORS.idle)
        for run in runs:
            fill = SPLITS[1] if tail and run.start == last else COLORS.k
            ax.barh(run.sm, run.stop - run.start, left=run.start, height=0.84, color=fill,
                    edgecolor="white", lw=1.5)  # fmt: skip
            ax.text((run.start + run.stop) / 2, run.sm, f"{run.program}", ha="center", va="center",
                    color=text_on(fill), fontsize=9.5)  # fmt: skip
        ax.set(title=title, xlim=(0, longest * 1.02), ylim=(sms - 0.4, -0.6))
        used = 100 * utilisation(runs, sms)
        ax.set_xlabel(f"{end:g} µs, {used:.3g} % of the SM time used", loc="left")
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        ax.tick_params(left=False)
    axes[0, 0].set(yticks=range(sms), yticklabels=[f"SM {sm}" for sm in range(sms)])
    return fig


def sm_timelines(
    panels: Mapping[str, Sequence[Run]], sms: int, splits: Sequence[int], units: str = "SM"
) -> Figure:
    """All SMs of a GPU over time: a line per SM, grey where it has nothing to do.

    panels: by title, runs as `course.hardware.timeline_of` returns them, in µs. splits: for each
    panel, how many splits a KV head has; program p is split p mod S of its head, which sets its
    colour.
    units: what the GPU's maker calls an SM.
    """
    ends = [makespan(runs) for runs in panels.values()]
    width = max([*ends, 1e-9])
    fig, axes = figure(1, len(panels), size=(9.4, 4.2), sharey=True, squeeze=False)
    for ax, end, (title, runs), S in zip(axes[0], ends, panels.items(), splits, strict=True):
        picture = _picture(runs, sms, S, width)
        ax.imshow(picture, extent=(0, width, sms, 0), aspect="auto", interpolation="nearest")
        told = f"{end:,.0f} µs, {utilisation(runs, sms):.0%} of the {units} time used"
        if sms <= FINE:
            ax.hlines(range(1, sms), 0, end, color=COLORS.card, lw=0.5)
        ax.set(title=title, xlabel=f"µs   ({told})", xlim=(0, width * 1.01), ylim=(sms, 0))
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(lambda us, _: f"{us:,.10g}")
        _name_idle(ax, runs, sms, width)
    axes[0, 0].set_ylabel(f"{units} 0 to {sms - 1}")
    return fig


def _picture(runs: Sequence[Run], sms: int, S: int, width: float) -> np.ndarray:
    """Draw the runs as an image (sms · LANES, COLUMNS, 3): cheap even for thousands of them."""
    end = makespan(runs)
    image = np.empty((sms, LANES, COLUMNS, 3))
    image[:] = to_rgb(COLORS.card)
    image[:, :, : _column(end, width)] = to_rgb(COLORS.idle)
    palette = [to_rgb(color) for color in ([COLORS.k] if S == 1 else SPLITS)]
    beside: dict[tuple[int, float], int] = {}
    for run in runs:
        beside[run.sm, run.start] = beside.get((run.sm, run.start), 0) + 1
    seen: dict[tuple[int, float], int] = {}
    for run in runs:
        place, lanes = (run.sm, run.start), max(1, LANES // beside[run.sm, run.start])
        top = seen.get(place, 0) * lanes
        seen[place] = seen.get(place, 0) + 1
        first, last = _column(run.start, width), _column(run.stop, width)
        gap = 2 if last - first > 8 and run.stop < width else 0  # or a wave would run into the next
        fill = palette[run.program % S % len(palette)]
        image[run.sm, top : top + lanes, first : last - gap] = fill
    return image.reshape(sms * LANES, COLUMNS, 3)


def _column(us: float, width: float) -> int:
    return round(us / width * COLUMNS)


def _name_idle(ax: Axes, runs: Sequence[Run], sms: int, width: float) -> None:
    """Write into the picture how many SMs never get a program, if there is room for it."""
    idle, end = sms - len({run.sm for run in runs}), makespan(runs)
    if idle > sms / 10 and end > width / 4:
        ax.text(end / 2, sms - idle / 2, f"{idle} idle", ha="center", va="center",
                color=COLORS.muted)  # fmt: skip


def filling_with_batch(
    batches: Sequence[int], used: Mapping[str, Sequence[float]], us: Mapping[str, Sequence[float]]
) -> Figure:
    """What decoding users together changes: the share of SM time used, and the step's time.

    used: 0 to 1, us: µs, both by name for each of `batches`.
    """
    fig, axes = figure(1, 2, size=(9.4, 3.8))
    for ax, curves in zip(axes, (used, us), strict=True):
        looks = ((COLORS.k, 4.5), (SPLITS[1], 1.6))  # the wide one shows on both sides of the other
        for (color, lw), (name, curve) in zip(looks, curves.items(), strict=False):
            ax.step(batches, curve, where="mid", color=color, lw=lw, label=name)
        ax.set(xlabel="users in the batch", xlim=(0, max(batches) + 1), ylim=(0, None))
        ax.xaxis.set_major_locator(FixedLocator([1, *range(8, max(batches) + 1, 8)]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.grid(axis="y")
    axes[0].set(title="SM time used", ylim=(0, 1.08))
    axes[0].yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes[1].set(title="Time of the step")
    axes[1].yaxis.set_major_formatter(lambda t, _: f"{t:,.0f} µs")
    axes[1].legend(loc="upper left", fontsize=9.5, frameon=False)
    return fig
