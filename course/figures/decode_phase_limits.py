"""Figures of the lesson on the decode phase that show limits: rooflines, and memory."""

from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from course.hardware import (
    Device,
    Model,
    attainable_tflops,
    bytes_per_user,
    model_named,
    peak_tflops,
    ridge_point,
    users_that_fit,
)
from course.hardware.sizes import element_bytes
from course.style import COLORS, SPLITS, CourseFigure, figure

GPU_COLORS = [SPLITS[0], SPLITS[2], SPLITS[6], SPLITS[7], SPLITS[3]]
WORK_COLORS = [COLORS.q, COLORS.max, COLORS.score, COLORS.p]
NARROWEST = 180
"""A user who takes less of the axis than one part in this many gets no line around the segment."""


def rooflines(
    devices: Sequence[Device], works: Mapping[str, float], dtype: str = "fp16"
) -> CourseFigure:
    """Rooflines of devices, and where kernels of given intensities lie on them.

    works: intensity in operations per byte, by name: a dot on every roof. dtype: of the arithmetic.
    """
    left = min(0.5, min(works.values()) / 2)
    right = max(2e4, max(works.values()) * 2)
    fig, ax = figure(size=(9.4, 4.9))
    ax.set(xscale="log", yscale="log", xlim=(left, right))
    rates = [attainable_tflops(left, device, dtype) for device in devices]
    peaks = [peak_tflops(device, dtype) for device in devices]
    ax.set_ylim(min(rates) / 2, max(peaks) * 20)
    for device, color, shift in zip(devices, cycle(GPU_COLORS), _label_shifts(peaks), strict=False):
        _roof(ax, device, dtype, (left, right), color, shift)
    lower, before = 0, 0.0
    colored = zip(cycle(WORK_COLORS), works.items(), strict=False)
    for color, (name, intensity) in sorted(colored, key=lambda work: work[1][1]):
        ax.axvline(intensity, color=color, lw=1.2, ls=":", zorder=0)
        roofs = [attainable_tflops(intensity, device, dtype) for device in devices]
        ax.scatter([intensity] * len(roofs), roofs, s=64, color=color, ec="white", lw=0.8, zorder=4)
        lower = lower + 1 if before and intensity < 9 * before else 0  # the texts would collide
        before, side = intensity, "right" if intensity > 200 else "left"
        ax.annotate(
            f"{name}\n{_short(intensity)} per byte", (intensity, 1),
            (-5 if side == "right" else 5, -4 - 31 * lower), ha=side, va="top", fontsize=9.5,
            xycoords=ax.get_xaxis_transform(), textcoords="offset points",
        )  # fmt: skip
    ax.set(xlabel="arithmetic intensity, operations per byte", ylabel="attainable TFLOP/s")
    ax.xaxis.set_major_formatter(lambda x, _: _short(x))
    ax.yaxis.set_major_formatter(lambda y, _: _short(y))
    ax.minorticks_off()
    return fig


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _label_shifts(peaks: Sequence[float]) -> list[float]:
    """Points by which a device's label moves up, so that labels at equal peaks don't overlap.

    >>> _label_shifts([312.0, 989.4, 989.4])
    [0.0, 0.0, 30.0]
    """
    shifts = []
    for i, peak in enumerate(peaks):
        same = sum(peak / 1.2 < other < peak * 1.2 for other in peaks[:i])
        shifts.append(30.0 * same)
    return shifts


def _roof(
    ax: Axes,
    device: Device,
    dtype: str,
    ends: tuple[float, float],
    color: str,
    shift: float,
) -> None:
    """One roof: the slope of bandwidth, the ceiling of arithmetic, and the ridge between them."""
    ridge, peak = ridge_point(device, dtype), peak_tflops(device, dtype)
    corners = [ends[0], min(max(ridge, ends[0]), ends[1]), ends[1]]
    roof = [attainable_tflops(x, device, dtype) for x in corners]
    ax.plot(corners, roof, color=color, lw=2.2, zorder=2)
    ax.scatter(ridge, peak, marker="D", s=34, color=color, zorder=3)
    ax.annotate(
        f"{device.name.split(' (')[0]}\nridge at {_short(ridge)}", (ends[1], peak), (6, shift),
        textcoords="offset points", va="center", color=color, fontsize=9.5, annotation_clip=False,
    )  # fmt: skip


def kv_memory(
    models: Sequence[Model | str],
    *,
    context: int,
    users: int,
    memory_gb: float,
    dtype: str = "fp16",
    weights_dtype: str = "fp16",
    usable: float = 0.9,
) -> CourseFigure:
    """How much of a GPU's memory weights and caches take: a bar per model, a segment per user.

    context: tokens per user. memory_gb: in 10⁹ bytes. Users who don't fit in the usable share are
    drawn pale; a bar that continues past the end of the axis is torn near its end.
    """
    models = [model_named(model) if isinstance(model, str) else model for model in models]
    fig, ax = figure(size=(9.4, 0.78 * len(models) + 1.7))
    limit, edge = memory_gb * usable, memory_gb * 1.12
    for row, model in enumerate(models):
        weights = model.parameters * element_bytes(weights_dtype)
        user = bytes_per_user(model, context, dtype) / 1e9
        room = {"dtype": dtype, "weights_dtype": weights_dtype, "usable": usable}
        fits = min(users, users_that_fit(model, context, memory_gb, **room))
        _bar(ax, row, 0, min(weights, edge), COLORS.out if weights <= limit else COLORS.mask)
        _users(ax, row, (weights, edge), user, fits, users)
        if weights + users * user > edge:
            _torn(ax, row, edge)
        verdict = f"{fits} of {users} fit"
        if weights > limit:
            verdict = f"{weights:.0f} GB of weights: too much"
        ax.text(edge * 1.02, row, verdict, va="center", fontsize=9.5, clip_on=False)
    ax.axvline(memory_gb, color=COLORS.ink, lw=1.4)
    ax.axvline(limit, color=COLORS.ink, lw=1.0, ls="--")
    ax.text(limit, -0.62, f"usable: {limit:g} GB ", ha="right", va="bottom", fontsize=9.5)
    ax.text(memory_gb, -0.62, f" {memory_gb:g} GB", ha="left", va="bottom", fontsize=9.5)
    ax.set_yticks(range(len(models)), [model.name for model in models], color=COLORS.ink)
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, edge), ylim=(len(models) - 0.5, -0.7), xlabel="GB (10⁹ bytes)")
    fig.legend(
        handles=[Patch(color=COLORS.out, label=f"weights, {weights_dtype}"),
                 Patch(color=COLORS.k, label=f"cache per user, {context:,} tokens in {dtype}"),
                 Patch(color=COLORS.mask, label="does not fit")],
        loc="outside lower center", ncols=3, fontsize=9.5,
    )  # fmt: skip
    return fig


def _bar(ax: Axes, row: int, start: float, width: float, color: str, line: float = 0.0) -> None:
    ax.add_patch(
        Rectangle((start, row - 0.3), width, 0.6, facecolor=color, edgecolor="white", lw=line)
    )


def _torn(ax: Axes, row: int, edge: float) -> None:
    """Two slanted gaps near the edge of the axes: this bar continues."""
    for x in (0.965, 0.98):
        ends = (x * edge - 0.006 * edge, x * edge + 0.006 * edge)
        ax.plot(ends, (row + 0.36, row - 0.36), color=ax.figure.get_facecolor(), lw=2.5, zorder=3)


def _users(
    ax: Axes, row: int, ends: tuple[float, float], user: float, fits: int, users: int
) -> None:
    """A segment for each user, blue while they fit; without lines if they are too narrow."""
    start, edge = ends
    if user < edge / NARROWEST:
        _bar(ax, row, start, fits * user, COLORS.k)
        _bar(ax, row, start + fits * user, (users - fits) * user, COLORS.mask)
        return
    for i in range(users):
        left = start + i * user
        if left < edge:
            _bar(ax, row, left, user, COLORS.k if i < fits else COLORS.mask, line=0.6)
