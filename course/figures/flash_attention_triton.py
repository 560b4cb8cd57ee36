"""Figures of lesson 06: programs, two causal stages, what tiles cost, errors by dtype."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course.style import COLORS, SPLITS, bare, figure, text_on

__all__ = ["causal_stages", "errors_by_dtype", "query_programs", "ruler_base", "tile_budget"]

STAGES = {1: COLORS.score, 2: COLORS.max, 0: COLORS.idle}
NOTE = {"fontsize": 9.5, "va": "center"}


def query_programs(tiles: int, heads: int, batch: int, group: int) -> Figure:
    """The grid (tiles, heads, batch), one sheet per batch row; colour: the KV head read."""
    fig, axes = figure(1, batch, size=(9.0, 0.62 * heads + 1.3), squeeze=False)
    for b, ax in enumerate(axes[0]):
        bare(ax).set(xlim=(-1.5, tiles + 0.1), ylim=(-heads - 0.9, 1.0))
        ax.set_title(f"batch row {b}")
        for h in range(heads):
            fill = SPLITS[h // group]
            ax.text(-0.12, -h - 0.5, f"head {h}", ha="right", **NOTE)
            for i in range(tiles):
                ax.add_patch(Rectangle((i, -h - 1), 0.96, 0.92, facecolor=fill, lw=0))
                ax.text(i + 0.48, -h - 0.54, f"{i}, {h}, {b}", ha="center", color=text_on(fill),
                        **NOTE)  # fmt: skip
        for i in range(tiles):
            ax.text(i + 0.48, 0.28, f"query tile {i}", ha="center", color=COLORS.muted, **NOTE)
        for kv in range(heads // group):
            x = (kv + 0.5) * tiles / (heads // group)
            ax.text(x, -heads - 0.5, f"reads KV head {kv}", ha="center", color=SPLITS[kv],
                    weight="bold", **NOTE)  # fmt: skip
    return fig


def ruler_base(x: Tensor, natural: Tensor, binary: Tensor, points: Mapping[str, float]) -> Figure:
    """e to the x as a curve, and 2 to the (x · log2 e) as dots on it.

    x, natural: the curve. binary: (n, 2), the dots. points: text → x of the dots to label.
    """
    fig, ax = figure(size=(9.0, 3.2))
    ax.plot(x, natural, color=COLORS.score, lw=4, alpha=0.6)
    ax.plot(binary[:, 0], binary[:, 1], "o", color=COLORS.q, ms=6)
    ax.text(-2.2, 0.24, "line: exp(x)", color=COLORS.k, ha="right", weight="bold")
    ax.text(-2.2, 0.36, "dots: exp2(x · log2 e)", color=COLORS.q, ha="right", weight="bold")
    for text, place in points.items():
        y = 2.718281828459045**place
        ax.annotate(text, (place, y), (-12, 6), textcoords="offset points", ha="right")
    ax.set(xlabel="score − max", ylabel="weight p", xlim=(-6.2, 0.3), ylim=(0, 1.12))
    ax.grid(True, color=COLORS.grid, lw=0.8)
    return fig


def causal_stages(
    limits: Sequence[tuple[int, int]], visible: Tensor, block_m: int, block_n: int
) -> Figure:
    """Which keys each program takes in stage 1, which in stage 2, and which it never loads.

    limits: (full, stop) in keys, for each query tile. visible: bool (Lq, Lk), what may be seen.
    """
    Lq, Lk = visible.shape
    fig, ax = figure(size=(9.0, 0.34 * Lq + 1.5))
    bare(ax).set(xlim=(-4.2, Lk + 9.4), ylim=(-Lq - 1.0, 1.5), aspect="equal")
    for i, (full, stop) in enumerate(limits):
        top, height = -i * block_m, min(block_m, Lq - i * block_m)
        for n in range(0, Lk, block_n):
            width = min(block_n, Lk - n)
            stage = 1 if n + block_n <= full else 2 if n < stop else 0
            place = (n + 0.05, top - height + 0.05)
            box = Rectangle(place, width - 0.1, height - 0.1, facecolor=STAGES[stage], lw=0)
            ax.add_patch(box)
        middle = top - height / 2
        ax.text(-0.4, middle, f"query tile {i}", ha="right", **NOTE)
        ax.text(Lk + 0.6, middle, f"full = {full}, stop = {stop}", **NOTE)
    rows, cols = visible.nonzero(as_tuple=True)
    ax.plot(cols + 0.5, -rows - 0.5, ".", color=COLORS.ink, ms=4)
    for x, stage, text in ((0, 1, "stage 1: no mask"), (Lk * 0.38, 2, "stage 2: masked"),
                           (Lk * 0.74, 0, "never loaded")):  # fmt: skip
        ax.add_patch(Rectangle((x, 0.55), 0.8, 0.7, facecolor=STAGES[stage], lw=0))
        ax.text(x + 1.1, 0.9, text, **NOTE)
    ax.text(Lk / 2, -Lq - 0.6, "keys →", ha="center", color=COLORS.muted, **NOTE)
    ax.text(-0.4, 0.45, "queries ↓", ha="right", color=COLORS.muted, **NOTE)
    return fig


def tile_budget(
    registers: Mapping[str, Mapping[str, float]], shared: Mapping[str, Mapping[str, float]],
    thread: int, limits: Mapping[str, float],
) -> Figure:  # fmt: skip
    """Registers per thread and KiB of shared memory, piece by piece, for several launches.

    registers, shared: launch → what is held → registers, KiB. thread: registers a thread may
    have. limits: GPU → KiB a program may have.
    """
    fig, (left, right) = figure(1, 2, size=(9.0, 3.9), width_ratios=[1.25, 1])
    names = {"acc": COLORS.out, "scores": COLORS.score, "p": COLORS.p, "q": COLORS.q,
             "k": COLORS.k, "v": COLORS.v}  # fmt: skip
    for ax, table in ((left, registers), (right, shared)):
        for y, pieces in enumerate(table.values()):
            x = 0.0
            for name, size in pieces.items():
                fill = names[name]
                ax.barh(y, size, left=x, color=fill, height=0.55, edgecolor=COLORS.card, lw=1.5)
                if size:
                    place = {"ha": "center", "va": "center", "fontsize": 8.5}
                    ax.text(x + size / 2, y, name, color=text_on(fill), **place)
                x += size
            ax.text(x, y - 0.4, f"{x:g}", ha="right", va="center", weight="bold", fontsize=9.5)
        ax.set_yticks(range(len(table)), list(table))
        ax.set_ylim(len(table) - 0.4, -0.95)
        ax.tick_params(axis="y", length=0, labelcolor=COLORS.ink)
    left.set(xlabel="registers per thread, for the tiles alone", xlim=(0, thread * 1.22))
    right.set(xlabel="KiB of shared memory per program", xlim=(0, max(limits.values()) * 1.08))
    for ax, marks in ((left, {f"limit {thread}": thread}), (right, limits)):
        for text, x in marks.items():
            ax.axvline(x, color=COLORS.accent, ls="--", lw=1.2)
            ax.text(x, -0.72, text, ha="right", fontsize=9, color=COLORS.accent, va="center",
                    bbox={"fc": COLORS.card, "ec": "none", "pad": 1})  # fmt: skip
    return fig


def errors_by_dtype(errors: Mapping[str, tuple[float, float, float]]) -> Figure:
    """Largest error against fp64: the kernel's, naive attention's, and what is allowed.

    errors: dtype → (kernel, naive attention in that dtype, allowed).
    """
    fig, ax = figure(size=(9.0, 3.3))
    for y, (kernel, naive, allowed) in enumerate(errors.values()):
        ax.plot([kernel / 3, allowed], [y, y], color=COLORS.idle, lw=9, solid_capstyle="butt")
        ax.plot(naive, y, "s", color=COLORS.muted, ms=10)
        ax.plot(kernel, y, "o", color=COLORS.q, ms=10)
        ax.plot([allowed, allowed], [y - 0.22, y + 0.22], color=COLORS.ink, lw=2)
    last = len(errors) - 1
    kernel, naive, allowed = list(errors.values())[last]
    for x, text, color, side in ((kernel, "kernel", COLORS.q, 0.36),
                                 (naive, "naive", COLORS.muted, -0.36),
                                 (allowed, "allowed", COLORS.ink, 0.36)):  # fmt: skip
        ax.text(x, last - side, text, ha="center", va="center", color=color, weight="bold")
    ax.set_xscale("log")
    ax.set_yticks(range(len(errors)), list(errors))
    ax.set(ylim=(last + 0.6, -0.5), xlabel="largest error of o against the fp64 oracle")
    ax.grid(True, axis="x", color=COLORS.grid, lw=0.8)
    return fig
