"""Figures of the lesson on flash attention: memories, tiles, loop orders, traffic, workers."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course.figures.flash_attention_backward import backward_flow
from course.style import COLORS, bare, box, bytes_, figure, text_on, tokens

__all__ = [
    "backward_flow",
    "busy_workers",
    "causal_tiles",
    "loop_orders",
    "one_tile",
    "tile_sizes",
    "traffic",
    "two_memories",
]

METHOD_COLORS = {"naive": COLORS.muted, "FA-1": COLORS.max, "FA-2": COLORS.k}
KIND_COLORS = {"full": COLORS.score, "masked": COLORS.max, "skipped": COLORS.idle}


def _tile(ax: Axes, x: float, y: float, w: float, h: float, fill: str, text: str = "") -> None:
    """A rectangle with a white edge and a text in its centre; (x, y) is the lower left corner."""
    ax.add_patch(Rectangle((x, y), w, h, facecolor=fill, edgecolor="white", lw=1.5))
    ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", color=text_on(fill))


def _both_ways(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow with a head at either end: numbers are loaded, and results stored."""
    ax.annotate(
        "", end, start, arrowprops={"arrowstyle": "<|-|>", "color": COLORS.muted, "lw": 1.6}
    )


def two_memories(sms: int, fast: float, fast_rate: float, slow: float, slow_rate: float) -> Figure:
    """Where numbers live on a GPU, beside the sizes of its two memories drawn to scale.

    sms: how many processors; fast: bytes of each one's own memory; fast_rate: bytes/s of all of
    them together; slow, slow_rate: bytes and bytes/s of the memory they share.
    """
    fig, (left, right) = figure(1, 2, size=(9.0, 3.7), width_ratios=[1.9, 1])
    bare(left).set(xlim=(0, 12), ylim=(0, 7.0))
    for n, x in enumerate((0.3, 2.9, 7.9)):
        name = (1, 2, sms)[n]
        box(left, x, 3.3, 2.2, 3.3, "", COLORS.grid)
        left.text(x + 1.1, 6.25, f"SM {name}", ha="center", va="center", fontsize=10)
        box(left, x + 0.2, 5.3, 1.8, 0.6, "arithmetic", COLORS.card)
        box(left, x + 0.2, 3.45, 1.8, 0.95, f"fast\n{fast / 1024:g} KB", COLORS.v)
        _both_ways(left, (x + 1.1, 4.4), (x + 1.1, 5.3))
        _both_ways(left, (x + 1.1, 1.7), (x + 1.1, 3.4))
    left.text(6.5, 4.85, "· · ·", ha="center", va="center", fontsize=16, color=COLORS.muted)
    box(left, 0.3, 0.3, 9.8, 1.4, f"slow memory   {slow / 1e9:g} GB", COLORS.k)
    rate = f"{fast_rate / 1e12:g} TB/s\nall together"
    left.text(10.3, 4.85, rate, va="center", fontsize=9.5)
    left.text(10.3, 2.5, f"{slow_rate / 1e12:g} TB/s\nshared", va="center", fontsize=9.5)
    bare(right).set(xlim=(-0.08, 1.3), ylim=(-0.3, 1.1), aspect="equal")
    right.set_title("Sizes, areas to scale")
    right.add_patch(Rectangle((0, 0), 1, 1, color=COLORS.k, lw=0))
    right.text(0.06, 0.9, "slow", color="white", va="center")
    side = (sms * fast / slow) ** 0.5
    right.add_patch(Rectangle((1.1, 0), side, side, color=COLORS.v, lw=0))
    note = f"all {sms} fast memories: {sms * fast / 1e6:.0f} MB"
    right.text(1.25, -0.14, note, ha="right", va="center", fontsize=9.5, color=COLORS.v)
    return fig


def one_tile(rows: int, cols: int, i: int, j: int) -> Figure:
    """Midway through the walk: query tile i of `rows`, key tile j of `cols`, and what is kept."""
    fig, ax = figure(size=(9.0, 4.6))
    bare(ax).set(xlim=(-4.5, cols + 6.6), ylim=(-2.6, rows + 2.2), aspect="equal")
    for c in range(cols):
        _tile(ax, c, rows + 0.35, 1, 0.9, COLORS.k if c == j else "#CFE3F2", f"k{c}")
        _tile(ax, c, -1.25, 1, 0.9, COLORS.v if c == j else "#CDEBE0", f"v{c}")
    for r in range(rows):
        y = rows - 1 - r
        _tile(ax, -1.25, y, 0.9, 1, COLORS.q if r == i else "#F6D9C6", f"q{r}")
        done = COLORS.out if r < i else "#EFE7DA"
        _tile(ax, cols + 0.35, y, 0.9, 1, COLORS.sum if r == i else done, "" if r == i else f"o{r}")
        for c in range(cols):
            here, seen = (r, c) == (i, j), r < i or (r == i and c < j)
            _tile(ax, c, y, 1, 1, COLORS.score if here else (COLORS.idle if seen else "white"))
            ax.add_patch(Rectangle((c, y), 1, 1, fill=False, ec=COLORS.grid, lw=1))
    y = rows - 0.5 - i
    ax.text(j + 0.5, y, "scores", ha="center", va="center", fontsize=9)
    note = {"va": "center", "fontsize": 10}
    ax.text(cols + 1.6, y, "m, l, acc of this query tile:\nstay in fast memory", **note)
    ax.text(cols + 1.6, rows + 0.8, "keys: one tile at a time", color=COLORS.k, **note)
    ax.text(cols + 1.6, -0.8, "values: the same tile", color=COLORS.v, **note)
    ax.text(-1.45, y, "this query tile:\nloaded once", ha="right", color=COLORS.q, **note)
    text = "grey: scores of tiles already visited, used and forgotten · white: still to come"
    ax.text(cols / 2, -2.1, text, ha="center", color=COLORS.muted, fontsize=9.5)
    return fig


def loop_orders(orders: Mapping[str, tuple[Sequence[Sequence[int]], str]]) -> Figure:
    """The order in which tiles are visited, one panel per method.

    orders: title → (steps, note). steps: for each query tile, for each key tile, when it is
    visited, counting from 1. note: the text below.
    """
    fig, axes = figure(1, len(orders), size=(9.0, 4.3))
    for ax, (title, (steps, note)) in zip(axes, orders.items(), strict=True):
        rows, cols = len(steps), len(steps[0])
        bare(ax).set(xlim=(-1.2, cols + 0.9), ylim=(-1.2, rows + 0.6), aspect="equal")
        ax.set_title(title)
        ax.text(cols / 2, -0.7, note, ha="center", va="center", color=COLORS.muted)
        places = {steps[r][c]: (c + 0.5, rows - r - 0.5) for r in range(rows) for c in range(cols)}
        for r in range(rows):
            ax.text(-0.2, rows - r - 0.5, f"q{r}", ha="right", va="center", color=COLORS.q)
            for c in range(cols):
                _tile(ax, c, rows - 1 - r, 1, 1, "#DCEBF5")
        for c in range(cols):
            ax.text(c + 0.5, rows + 0.25, f"k{c} v{c}", ha="center", va="center", color=COLORS.k)
        walk = [places[n] for n in sorted(places)]
        ax.plot(*zip(*walk, strict=True), color=COLORS.muted, lw=1.2, alpha=0.55, zorder=1.5)
        ax.plot(*zip(*walk, strict=True), "o", color=COLORS.card, ms=21, zorder=2)
        for n, (x, y) in places.items():
            ax.text(x, y, n, ha="center", va="center", weight="bold", fontsize=11)
    return fig


def traffic(
    lengths: Sequence[int],
    formula: Mapping[str, Sequence[float]],
    counted_lengths: Sequence[int],
    counted: Mapping[str, Sequence[float]],
) -> Figure:
    """Numbers moved through slow memory against length: lines are formulas, dots are counts."""
    fig, ax = figure(size=(9.0, 4.2))
    for name, ys in formula.items():
        color = METHOD_COLORS.get(name, COLORS.v)
        ax.plot(lengths, [y / 1e6 for y in ys], color=color)
        ax.annotate(name, (lengths[-1], ys[-1] / 1e6), (8, 0), textcoords="offset points",
                    color=color, va="center", weight="bold", annotation_clip=False)  # fmt: skip
        if name in counted:
            dots = [y / 1e6 for y in counted[name]]
            ax.plot(counted_lengths, dots, "o", color=color, ms=6.5, mec="white")
    ax.set(xlabel="length (tokens)", ylabel="numbers moved, one head (millions)")
    highest = max(max(ys) for ys in formula.values()) / 1e6
    ax.set(xlim=(0, lengths[-1]), ylim=(-0.04 * highest, 1.05 * highest), xticks=list(lengths))
    tokens(ax.xaxis)
    ax.grid(True, color=COLORS.grid, lw=0.8)
    ax.set_title("Lines: the formulas · dots: counted in the code")
    return fig


def tile_sizes(
    sizes: Sequence[int], moved: Sequence[float], naive: float, held: Sequence[float], limit: float
) -> Figure:
    """Larger tiles: bytes moved (left, beside naive attention's) and fast memory held (right)."""
    fig, (left, right) = figure(1, 2, size=(9.0, 3.5))
    names = [str(s) for s in sizes]
    left.bar(names, moved, color=COLORS.k, width=0.65)
    left.axhline(naive, color=COLORS.muted, lw=1.5, ls="--")
    left.text(len(sizes) - 0.6, naive, "naive", ha="right", va="bottom", color=COLORS.muted)
    left.set(title="Bytes moved", xlabel="queries in a tile (block_m)")
    left.set_yticks([m * 2.0**26 for m in range(6)])
    fits = [COLORS.v if h <= limit else COLORS.q for h in held]
    right.bar(names, held, color=fits, width=0.65)
    right.axhline(limit, color=COLORS.muted, lw=1.5, ls="--")
    right.text(-0.45, limit * 1.03, "fast memory of one SM", va="bottom", color=COLORS.muted)
    right.set(title="Bytes held", xlabel="queries in a tile (block_m)")
    right.set_yticks([m * 2.0**17 for m in range(int(max(held) / 2**17) + 2)])
    for ax in (left, right):
        bytes_(ax.yaxis)
    return fig


def busy_workers(programs: Mapping[str, int], sms: int) -> Figure:
    """One square per SM, coloured if there is a program for it; one panel per case."""
    fig, axes = figure(1, len(programs), size=(9.0, 2.9), squeeze=False)
    columns = 12
    for ax, (title, count) in zip(axes[0], programs.items(), strict=True):
        rows = -(-sms // columns)
        bare(ax).set(xlim=(-0.1, columns), ylim=(-1.5, rows), aspect="equal")
        ax.set_title(title)
        for n in range(sms):
            fill = COLORS.v if n < count else COLORS.idle
            place = n % columns, rows - 1 - n // columns
            ax.add_patch(Rectangle(place, 0.85, 0.85, color=fill, lw=0))
        text = f"{count:,} programs, {min(count, sms)} of {sms} busy"
        ax.text(0, -0.75, text, va="center", fontsize=10)
    return fig


def causal_tiles(
    cases: Mapping[str, tuple[Sequence[Sequence[str]], Tensor, tuple[int, int]]],
) -> Figure:
    """What each tile of a causal mask costs, one panel per case.

    cases: title → (kinds, visible, block). kinds: for each query tile, for each key tile,
    "full", "masked" or "skipped"; visible: bool (Lq, Lk); block: (block_m, block_n).
    """
    widths = [visible.shape[1] for _, visible, _ in cases.values()]
    fig, axes = figure(1, len(cases), size=(9.0, 4.0), width_ratios=widths)
    for ax, (title, (kinds, visible, (bm, bn))) in zip(axes, cases.items(), strict=True):
        Lq, Lk = visible.shape
        bare(ax).set(xlim=(-1.2, Lk + 0.2), ylim=(-0.2, Lq + 1.2), aspect="equal", anchor="N")
        ax.set_title(title)
        for i, row in enumerate(kinds):
            for j, kind in enumerate(row):
                w, h = min(bn, Lk - j * bn), min(bm, Lq - i * bm)
                fill = KIND_COLORS[kind]
                _tile(ax, j * bn, Lq - i * bm - h, w, h, fill)
        seen = [(c + 0.5, Lq - r - 0.5) for r, c in visible.nonzero().tolist()]
        if seen:
            ax.plot(*zip(*seen, strict=True), ".", color=COLORS.ink, ms=3.2)
        ax.text(-0.25, Lq / 2, "queries", rotation=90, ha="right", va="center", color=COLORS.muted)
        ax.text(Lk / 2, Lq + 0.2, "keys", ha="center", va="bottom", color=COLORS.muted)
    handles = [Rectangle((0, 0), 1, 1, color=c) for c in KIND_COLORS.values()]
    labels = ["full: no mask needed", "masked", "skipped: never loaded"]
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return fig
