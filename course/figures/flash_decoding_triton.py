"""Figures of the lesson on Flash-Decoding in Triton: grid, blocks, packed tile, issue slots."""

import re
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from course.figures.flash_decoding import split_color
from course.figures.flash_decoding_gpu import filled_waves, gpu_decode, published_decode
from course.style import COLORS, arrow, bare, cells, figure, text_on

__all__ = [
    "filled_waves",
    "gpu_decode",
    "issue_shares",
    "key_blocks",
    "main_and_tail",
    "packed_tile",
    "program_grid",
    "published_decode",
]

Bounds = Sequence[tuple[int, int]]
_LIBRARIES = {
    "flashinfer": "FlashInfer",
    "lmdeploy": "LMDeploy",
    "sglang": "SGLang",
    "vllm": "vLLM",
}


def program_grid(num_splits: int, kv_heads: int, batch: int) -> Figure:
    """The grid (num_splits, kv_heads, batch) of the split kernel, one sheet per batch row."""
    fig, axes = figure(1, batch, size=(9.0, 0.62 * kv_heads + 1.35), squeeze=False)
    for b, ax in enumerate(axes[0]):
        bare(ax).set(xlim=(-0.75, num_splits + 0.1), ylim=(-kv_heads - 0.15, 1.35))
        names = [[f"{s}, {h}, {b}" for s in range(num_splits)] for h in range(kv_heads)]
        fills = [[split_color(s) for s in range(num_splits)]] * kv_heads
        cells(ax, names, colors=fills, fontsize=10.5)
        for s in range(num_splits):
            ax.text(s + 0.5, 0.12, f"split {s}", ha="center", fontsize=9, color=COLORS.muted)
        for h in range(kv_heads):
            place = {"ha": "right", "va": "center", "fontsize": 9, "color": COLORS.muted}
            ax.text(-0.1, -h - 0.5, f"KV\nhead {h}", **place)
        ax.text(num_splits / 2, 0.8, f"row {b} of the batch", ha="center", weight="bold")
    return fig


def key_blocks(row_bounds: Sequence[Bounds], block_n: int, capacity: int) -> Figure:
    """How the rows of a ragged batch are cut, in whole blocks of `block_n` keys.

    row_bounds: for each row, the (start, stop) of its splits; past the last one is the tail.
    """
    fig, ax = figure(size=(9.0, 0.78 * len(row_bounds) + 0.95))
    for b, bounds in enumerate(row_bounds):
        ax.barh(
            b, capacity, height=0.62, color=COLORS.card, edgecolor=COLORS.mask, hatch="////", lw=0
        )
        for s, (start, stop) in enumerate(bounds):
            for left in range(start, stop, block_n):
                width = min(block_n, stop - left)
                ax.barh(b, width, left=left, height=0.62, color=split_color(s), edgecolor="white")
                if width >= block_n / 2:
                    ax.text(
                        left + width / 2, b, f"{s}", ha="center", va="center", fontsize=9,
                        color=text_on(split_color(s)),
                    )  # fmt: skip
                else:  # too narrow for its number, which goes beside it
                    ax.text(
                        left + width + block_n * 0.1, b, f"{s}", va="center", fontsize=9,
                        bbox={"facecolor": COLORS.card, "lw": 0, "pad": 1},
                    )  # fmt: skip
        counts = [-(-(stop - start) // block_n) for start, stop in bounds]
        note = "blocks: " + ", ".join(map(str, counts))
        ax.text(capacity * 1.015, b, note, va="center", fontsize=9.5, color=COLORS.muted)
    names = [f"row {b}: {max(stop for _, stop in bs)} keys" for b, bs in enumerate(row_bounds)]
    ax.set(yticks=range(len(names)), yticklabels=names, xlim=(0, capacity * 1.24))
    ax.set_xticks(range(0, capacity + 1, 2 * block_n))
    ax.set_xlabel("cell of the cache", loc="left")
    ax.invert_yaxis()
    ax.tick_params(left=False)
    ax.spines["left"].set_visible(False)
    return fig


def packed_tile(G: int, Lq: int, Hkv: int, kv_head: int, block_m: int) -> Figure:
    """Rows of q that read one KV head, gathered in a tile of `block_m` rows.

    Left: q as it lies in memory (Lq, Hq); middle: the tile; right: the keys that it reads.
    """
    fig, ax = figure(size=(9.0, 5.4))
    left, tile, height = 1.0, G * Hkv + 3.6, 0.72
    bare(ax).set(xlim=(-0.6, tile + 10.2), ylim=(-block_m * height - 0.35, 1.35))
    top = -(block_m * height - Lq) / 2
    for i in range(Lq):
        for head in range(G * Hkv):
            ours = head // G == kv_head
            fill = _row_color(i) if ours else COLORS.idle
            spot = (left + head, top - i - 1)
            ax.add_patch(Rectangle(spot, 1, 1, facecolor=fill, edgecolor="white", lw=1.5))
            color = text_on(fill) if ours else COLORS.muted
            ax.text(spot[0] + 0.5, spot[1] + 0.5, f"h{head}", ha="center", va="center",
                    fontsize=9, color=color)  # fmt: skip
        ax.text(left - 0.15, top - i - 0.5, f"query {i}", ha="right", va="center", fontsize=9)
    for h in range(Hkv):
        color, weight = (COLORS.ink, "bold") if h == kv_head else (COLORS.muted, "normal")
        middle = left + h * G + G / 2
        ax.text(middle, top + 0.2, f"KV head {h}", ha="center", color=color, weight=weight)
    arrow(ax, (left + G * Hkv + 0.2, top - Lq / 2), (tile - 0.7, top - Lq / 2))
    for r in range(block_m):
        real = r < G * Lq
        fill = _row_color(r // G) if real else COLORS.mask
        name = f"query {r // G}, h{kv_head * G + r % G}" if real else "padding"
        spot = (tile, -(r + 1) * height)
        ax.add_patch(Rectangle(spot, 3.4, height, facecolor=fill, edgecolor="white", lw=1.5))
        ax.text(tile + 1.7, spot[1] + height / 2, name, ha="center", va="center", fontsize=8.5,
                color=text_on(fill))  # fmt: skip
        ax.text(tile - 0.1, spot[1] + height / 2, f"{r}", ha="right", va="center", fontsize=8.5,
                color=COLORS.muted)  # fmt: skip
    ax.text(tile + 1.7, 0.25, f"packed tile, {block_m} rows", ha="center", weight="bold")
    _keys_read_once(ax, tile + 3.9, -block_m * height / 2, kv_head)
    return fig


def _row_color(query: int) -> str:
    return (COLORS.q, COLORS.max, COLORS.p, COLORS.sum)[query % 4]


def _keys_read_once(ax: Axes, x: float, y: float, kv_head: int) -> None:
    """Blocks of K of one KV head, and an arrow to the tile that reads them."""
    arrow(ax, (x + 1.5, y), (x + 0.1, y))
    for n in range(5):
        spot = (x + 1.7 + 0.8 * n, y - 1.3)
        ax.add_patch(Rectangle(spot, 0.8, 2.6, facecolor=COLORS.k, edgecolor="white", lw=1.5))
    ax.text(x + 3.7, y + 1.5, f"K and V of KV head {kv_head}", ha="center", color=COLORS.k)
    ax.text(x + 3.7, y - 1.85, "each block is read once,\nfor all rows of the tile", ha="center",
            va="top", fontsize=9, color=COLORS.muted)  # fmt: skip


def main_and_tail(
    names: Sequence[str], sees: Sequence[int], start: int, end: int, stop: int, block_n: int
) -> Figure:
    """Which keys the rows of a tile see in one split, and where masks are needed.

    names: of the rows; sees: row i may see keys 0 … sees[i] - 1; the split is start … stop, and
    its blocks from key `end` on are the masked ones.
    """
    rows, edge = len(names), start + -(-(stop - start) // block_n) * block_n
    fig, ax = figure(size=(9.0, 0.42 * rows + 1.7))
    bare(ax).set(xlim=(start - 3.6, edge + 0.3), ylim=(-rows - 1.3, 1.9))
    for i in range(rows):
        ax.text(start - 0.3, -i - 0.5, names[i], ha="right", va="center", fontsize=9.5)
        for j in range(start, edge):
            seen = j < min(sees[i], stop)
            fill = (COLORS.k if j < end else COLORS.score) if seen else COLORS.mask
            ax.add_patch(Rectangle((j, -i - 1), 1, 1, facecolor=fill, edgecolor="white", lw=1))
    for j in range(start, edge):
        ax.text(j + 0.5, -rows - 0.2, f"{j}", ha="center", va="top", fontsize=8.5,
                color=COLORS.muted if j < stop else COLORS.mask)  # fmt: skip
    for j in range(start, edge + 1, block_n):
        ax.plot([j, j], [-rows - 0.05, 0.25], color=COLORS.ink, lw=1.4)
    spans = (
        (start, end, "main loop, no masks", COLORS.k),
        (end, edge, "masked", COLORS.ink),
    )
    for left, right, text, color in spans:
        if right > left:
            ax.plot([left + 0.1, right - 0.1], [0.6, 0.6], color=color, lw=2)
            ax.text((left + right) / 2, 0.8, text, ha="center", color=color, weight="bold")
    ax.text(start - 0.3, -rows - 0.2, "key", ha="right", va="top", fontsize=9, color=COLORS.muted)
    return fig


def issue_shares(rows: Sequence[Mapping[str, object]], title: str) -> Figure:
    """Which share of the issue slots each kernel takes while memory delivers its keys and values.

    rows: as `benchmarks.peers_static` records them, for one target. A dot is the share of the
    busiest pipe. Kernels on the same kind of cache are side by side, ours first. An earlier build
    of ours ("ours at …") is an outline on the bar of today's.
    """
    counted = [row for row in rows if "issue_share" in row]
    before = {row["case"]: row for row in counted if str(row["peer"]).startswith("ours at")}
    groups: dict[str, list[tuple[str, Mapping]]] = {}
    for row in counted:
        if row not in before.values():
            cache, name = _named(row)
            groups.setdefault(cache, []).append((name, row))
    bars = sum(map(len, groups.values()))
    fig, ax = figure(size=(9.0, 0.27 * (bars + 1.6 * len(groups)) + 1.2))
    y, places, names = 0.0, [], []
    for cache, members in groups.items():
        ax.text(0.01, y, cache, weight="bold", va="center", fontsize=9.5)
        y += 1
        for name, row in sorted(members, key=_ours_first):
            color = COLORS.k if row["peer"] == "ours" else COLORS.mask
            ax.barh(y, row["issue_share"], height=0.7, color=color)
            if row["peer"] == "ours" and (old := before.get(row["case"])):
                ax.barh(y, old["issue_share"], height=0.7, fill=False, ec=COLORS.k, ls=":", lw=1.2)
            ax.plot(row["pipe_share"], y, "o", color=COLORS.ink, ms=3.5)
            places.append(y)
            names.append(name)
            y += 1
        y += 0.5
    ax.axvline(1, color=COLORS.accent, lw=1.5)
    ax.text(1.01, 0, "100 %: memory waits", color=COLORS.accent, va="center", fontsize=9.5)
    ax.plot([], [], "o", color=COLORS.ink, ms=3.5, label="the busiest pipe")
    if before:
        ax.barh(0, 0, fill=False, ec=COLORS.k, ls=":", lw=1.2, label="ours, an earlier build")
    ax.legend(loc="lower right", fontsize=9, frameon=False)
    ax.set(yticks=places, yticklabels=names, ylim=(y - 0.7, -0.8), title=title)
    ax.set_xlim(left=0)
    ax.set_xlabel(
        "issue slots taken, of those that an SM has until the next block arrives", loc="left"
    )
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.tick_params(axis="y", left=False, labelsize=9)
    return fig


def _named(row: Mapping[str, object]) -> tuple[str, str]:
    """What a row of the record is called: its cache, "bf16, G = 8", and the kernel, "vLLM, …"."""
    kernel, kind, heads, pages = re.fullmatch(
        r"(?:(\w+): )?(\w+), G (\d+)(?:, (pages of .+))?", str(row["case"])
    ).groups()
    peer = _LIBRARIES.get(row["peer"], row["peer"])
    width = "16 bits" if kind == "bf16" else "8 bits"
    extra = (kernel, None if kind == "bf16" else kind, pages)
    return f"{width}, G = {heads}", ", ".join(filter(None, (peer, *extra)))


def _ours_first(member: tuple[str, Mapping[str, object]]) -> tuple[bool, object]:
    row = member[1]
    return row["peer"] != "ours", row["issue_share"]
