"""Figures of lesson 05: programs and masks, addresses, bytes of a softmax, tiles, registers."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course.style import COLORS, SPLITS, bare, cells, figure, text_on

__all__ = [
    "guard_zones",
    "matmul_tiles",
    "programs",
    "registers",
    "softmax_traffic",
    "strides",
]

READ, WRITE = COLORS.k, COLORS.max
NOTE = {"fontsize": 9.5, "va": "center"}


def _cell(ax: Axes, x: float, y: float, text: str, fill: str, edge: str = "white") -> None:
    """A unit square with its lower left corner at (x, y)."""
    ax.add_patch(Rectangle((x, y), 1, 1, facecolor=fill, edgecolor=edge, lw=1.5))
    color = COLORS.muted if fill == COLORS.card else text_on(fill)
    ax.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=9.5, color=color)


def programs(owner: Tensor, block: int) -> Figure:
    """Which program wrote which element: a row of memory, the programs' blocks above it.

    owner: (n,) integers, the number of the program that wrote each element. block: its size.
    """
    numbers = [int(pid) for pid in owner.tolist()]
    n, count = len(numbers), -(-len(numbers) // block)
    fig, ax = figure(size=(9.0, 2.9))
    bare(ax).set(xlim=(-2.3, count * block + 0.2), ylim=(-0.8, 3.8), aspect="equal")
    for pid in range(count):
        color, left = SPLITS[pid % len(SPLITS)], pid * block
        ax.add_patch(Rectangle((left + 0.06, 2.0), block - 0.12, 0.16, color=color, lw=0))
        ax.text(left + block / 2, 3.45, f"program {pid}", ha="center", color=color, weight="bold")
        ax.text(left + block / 2, 2.7, f"{pid} · {block} + (0 … {block - 1})", ha="center", **NOTE)
        for i in range(left, left + block):
            inside = i < n
            _cell(ax, i, 1.0, str(i), SPLITS[numbers[i]] if inside else COLORS.card, COLORS.card)
            ax.text(i + 0.5, 0.45, "✓" if inside else "✗", ha="center", color=COLORS.muted, **NOTE)
            if not inside:
                ax.add_patch(Rectangle((i + 0.04, 1.04), 0.92, 0.92, fill=False, ls="--",
                                       ec=COLORS.muted, lw=1))  # fmt: skip
    for y, text in ((2.7, "offs"), (1.5, "element"), (0.45, f"offs < {n}")):
        ax.text(-0.3, y, text, ha="right", color=COLORS.muted, **NOTE)
    ax.text(n, -0.5, f"n = {n}: the tensor ends here", ha="center", color=COLORS.accent, **NOTE)
    ax.plot([n, n], [-0.1, 2.1], color=COLORS.accent, lw=2)
    return fig


def guard_zones(memory: Tensor, n: int, lanes: Mapping[str, Tensor]) -> Figure:
    """A tensor between guard zones, and what a block longer than the tensor loads.

    memory: the entries from the tensor's first on: n of its own, then poison. lanes: what each
    way of loading returned, as long as the block; its sum is written beside it.
    """
    rows = {"memory": memory.tolist()} | {name: x.tolist() for name, x in lanes.items()}
    size = len(memory)
    fig, ax = figure(size=(9.0, 0.5 + 0.7 * len(rows)))
    bare(ax).set(xlim=(-4.6, size + 3.4), ylim=(-1.85 * (len(rows) - 1) - 0.3, 1.8), aspect="equal")
    for r, (name, values) in enumerate(rows.items()):
        y = -1.85 * r
        ax.text(-0.4, y + 0.5, name, ha="right", weight="bold" if r == 0 else "normal", **NOTE)
        for i, value in enumerate(values):
            poison, own = value != value, COLORS.score if r == 0 else COLORS.v
            fill = COLORS.accent if poison else own if i < n else COLORS.mask
            _cell(ax, i, y, "NaN" if poison else f"{value:g}", fill)
        if r:
            total = sum(values)
            text = "sum: NaN" if total != total else f"sum: {total:g}"
            color = COLORS.accent if total != total else COLORS.v
            ax.text(size + 0.3, y + 0.5, text, color=color, weight="bold", **NOTE)
    ax.text(n / 2, 1.4, f"the tensor: {n} elements", ha="center", **NOTE)
    ax.text((n + size) / 2, 1.4, "guard zone", ha="center", color=COLORS.accent, **NOTE)
    ax.plot([n, n], [-1.85 * (len(rows) - 1) - 0.15, 1.7], color=COLORS.ink, lw=1.5)
    return fig


def strides(views: Mapping[str, Tensor], row: int, col: int) -> Figure:
    """Several views of one memory: each cell shows its address, one element is marked in each.

    views: name → 2-D view; all share one memory, whose entries hold their own addresses. (row,
    col): the place of the element that is marked, the same in every view.
    """
    size = max(int(view.max()) for view in views.values()) + 1
    widths = [view.shape[1] for view in views.values()]
    pitch = next(iter(views.values())).shape[1]  # a colour for each row of the first view
    fig, ax = figure(size=(9.0, 3.9))
    gap, total = 1.9, sum(widths) + 1.9 * (len(views) - 1)
    bare(ax).set(xlim=(-0.2, total + 0.2), ylim=(-7.3, 1.9), aspect="equal")
    start = (total - size) / 2
    ax.text(start, 1.5, "memory: one long row of addresses", weight="bold", **NOTE)
    for i in range(size):
        _cell(ax, start + i, 0, str(i), SPLITS[i // pitch])
    left = 0.0
    for name, view in views.items():
        fills = [[SPLITS[int(a) // pitch] for a in r] for r in view.tolist()]
        cells(ax, [[str(int(a)) for a in r] for r in view.tolist()], origin=(left, -2.5),
              colors=fills, fontsize=9.5)  # fmt: skip
        ax.text(left, -1.6, name, weight="bold", family="monospace", **NOTE)
        ax.text(left, -2.15, f"strides {tuple(view.stride())}", color=COLORS.muted, **NOTE)
        mark = {"fill": False, "ec": COLORS.ink, "lw": 2.6, "zorder": 3}
        ax.add_patch(Rectangle((left + col, -3.5 - row), 1, 1, **mark))
        s0, s1 = view.stride()
        text = f"{row} · {s0} + {col} · {s1} = {row * s0 + col * s1}"
        below = -2.5 - view.shape[0] - 0.55
        ax.text(left, below, text, fontsize=9.5, va="center", weight="bold")
        left += view.shape[1] + gap
    return fig


def softmax_traffic(
    unfused: Sequence[tuple[str, float, float]], fused: tuple[float, float]
) -> Figure:
    """Trips through slow memory: one bar per operation of the unfused softmax, and the fused one.

    unfused: (operation, read, written) in multiples of the matrix. fused: (read, written).
    """
    rows = [*unfused, ("fused kernel", *fused)]
    fig, ax = figure(size=(9.0, 3.9))
    places = [*range(len(unfused)), len(unfused) + 0.6]
    for y, (_, read, written) in zip(places, rows, strict=True):
        for x, width, color in ((0.0, read, READ), (read, written, WRITE)):
            if width:
                ax.barh(y, width, left=x, color=color, height=0.66, edgecolor=COLORS.card, lw=2)
                word = "read" if color == READ else "write"
                ax.text(x + width / 2, y, word, ha="center", color=text_on(color), **NOTE)
    total = sum(read + written for _, read, written in unfused)
    ax.text(2.15, 1.0 * (len(unfused) - 1) / 2, f"together {total:g} × the matrix", weight="bold",
            color=COLORS.muted, va="center")  # fmt: skip
    ax.text(2.15, places[-1], f"{sum(fused):g} × the matrix", weight="bold", va="center")
    ax.set_yticks(places, [name for name, *_ in rows], family="monospace")
    ax.set(xlim=(0, 3.3), ylim=(places[-1] + 0.6, -0.6), xlabel="in multiples of the matrix")
    ax.set_xticks([0, 1, 2])
    ax.tick_params(axis="y", length=0, labelcolor=COLORS.ink)
    return fig


def matmul_tiles(a: Tensor, b: Tensor, c: Tensor, block: int, program: tuple[int, int]) -> Figure:
    """One program of a tiled product: its rows of a, its columns of b, its tile of c.

    a (M, K), b (K, N), c (M, N): small integers. program: (i, j), which tile of c.
    """
    (M, K), N = a.shape, b.shape[1]
    i, j = program
    fig, ax = figure(size=(7.6, 6.2))
    bare(ax).set(xlim=(-0.6, K + N + 5.4), ylim=(-M - 0.8, K + 2.0), aspect="equal")
    x0, y0 = K + 1.2, 1.2
    light = {"k": "#CFE3F2", "v": "#CDEBE0", "out": "#EFE7DA"}

    def fills(shape: Sequence[int], name: str, chosen: Mapping[tuple[int, int], str]) -> list:
        tiles = ((r // block, s // block) for r in range(shape[0]) for s in range(shape[1]))
        flat = [chosen.get(tile, light[name]) for tile in tiles]
        return [flat[r * shape[1] : (r + 1) * shape[1]] for r in range(shape[0])]

    steps = K // block
    shades = [COLORS.k, COLORS.score, *SPLITS][:steps]
    greens = [COLORS.v, "#5CC3A3", *SPLITS][:steps]
    a_fill = fills(a.shape, "k", {(i, t): shades[t] for t in range(steps)})
    b_fill = fills(b.shape, "v", {(t, j): greens[t] for t in range(steps)})
    cells(ax, a.tolist(), origin=(0, 0), colors=a_fill, label=f"a  ({M}, {K})")
    cells(ax, b.tolist(), origin=(x0, y0 + K), colors=b_fill, label=f"b  ({K}, {N})")
    c_fill = fills(c.shape, "out", {(i, j): COLORS.out})
    cells(ax, c.tolist(), origin=(x0, 0), colors=c_fill)
    ax.text(x0, -M - 0.5, f"c  ({M}, {N})", weight="bold", va="center")
    for t in range(steps):
        ax.text((t + 0.5) * block, -M - 0.5, f"step {t}", ha="center", color=shades[t], **NOTE)
        y = y0 + K - (t + 0.5) * block
        ax.text(x0 + N + 0.3, y, f"step {t}", color=greens[t], **NOTE)
    y = -(i + 0.5) * block
    ax.text(x0 + N + 0.3, y, f"program ({i}, {j})\nadds up its tile\nin fast memory", **NOTE)
    return fig


def registers(blocks: Sequence[int], used: Sequence[int], spilled: Sequence[int]) -> Figure:
    """Registers a thread needs for blocks of a row, and where they run out.

    used: registers per thread. spilled: bytes per thread that went to slow memory instead.
    """
    limit = 255
    fig, ax = figure(size=(9.0, 3.6))
    for x, (registers_, bytes_) in enumerate(zip(used, spilled, strict=True)):
        color = COLORS.accent if bytes_ else COLORS.k
        ax.bar(x, registers_, color=color, width=0.6)
        text = f"{registers_}\n{bytes_:,} bytes spilled" if bytes_ else f"{registers_}"
        ax.text(x, registers_ + 8, text, ha="center", va="bottom", color=color, weight="bold")
    ax.axhline(limit, color=COLORS.muted, ls="--", lw=1.3)
    ax.text(
        -0.42, limit + 8, f"{limit}: the most a thread can have", color=COLORS.muted, va="bottom"
    )
    ax.set_xticks(range(len(blocks)), [f"{block:,}" for block in blocks])
    ax.set(
        ylim=(0, 345),
        xlabel="BLOCK: numbers in a row, held by 8 warps",
        ylabel="registers per thread",
    )
    ax.tick_params(axis="x", length=0)
    return fig
