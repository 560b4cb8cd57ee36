"""Figures of the lesson on the paged KV cache: memory, block tables, a day, page sizes."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from course.figures.flash_decoding import split_color
from course.style import COLORS, bare, figure, text_on

__all__ = ["block_tables", "day_of_memory", "memory_strips", "page_sizes"]

Piece = tuple[int, int, int, str]
"""Where it begins and ends, how many of its tokens are there, and whose it is."""


def memory_strips(strips: Mapping[str, Sequence[Piece]], capacity: int, cell: int = 1) -> Figure:
    """Memory as one strip per rule: who has which cells, and which of these hold a token.

    strips: by title, the pieces (start, stop, held, name); equal names have one colour. capacity:
    cells in all. cell: a thin line every so many cells (the page size).
    """
    fig, axes = figure(len(strips), 1, size=(9.0, 0.95 * len(strips) + 0.35), squeeze=False)
    for ax, (title, pieces) in zip(axes[:, 0], strips.items(), strict=True):
        bare(ax).set(xlim=(-0.1, capacity + 0.1), ylim=(-0.05, 1.5))
        ax.add_patch(Rectangle((0, 0), capacity, 1, facecolor=COLORS.card, edgecolor=COLORS.mask))
        for start, stop, held, name in pieces:
            color = split_color(ord(name[0]) - ord("a"))
            ax.add_patch(Rectangle((start, 0), held, 1, facecolor=color, ec="white"))
            ax.add_patch(Rectangle((start + held, 0), stop - start - held, 1, facecolor=COLORS.idle,
                                   edgecolor=color, hatch="////", lw=1))  # fmt: skip
            at = start + (held if held else stop - start) / 2
            ax.text(
                at, 0.5, name, ha="center", va="center", color=text_on(color), weight="bold",
                bbox={"facecolor": color, "lw": 0, "pad": 2},
            )  # fmt: skip
        for x in range(cell, capacity, cell):
            ax.plot([x, x], [0, 1], color=COLORS.card, lw=1.2 if cell > 1 else 0.4, zorder=1.5)
        ax.text(0, 1.15, title, weight="bold", va="bottom")
    return fig


def block_tables(
    tables: Mapping[str, Sequence[int]],
    lengths: Mapping[str, int],
    num_pages: int,
    page_size: int,
    title: str = "",
) -> Figure:
    """Which pages of memory the entries of each sequence's block table lead to.

    tables: by sequence, its pages in order. lengths: by sequence, its tokens. A page with one
    holder has the colour of its sequence, a shared one is violet and says how many hold it.
    """
    rows, holders = len(tables), [[] for _ in range(num_pages)]
    for name, pages in tables.items():
        for page in pages:
            holders[page].append(name)
    fig, ax = figure(size=(9.0, 0.62 * rows + 2.3))
    width = max(9.0, num_pages * 1.25)
    bare(ax).set(xlim=(-1.6, width), ylim=(-0.75, rows * 0.8 + 1.9))
    for y, (name, pages) in enumerate(reversed(tables.items())):
        top = 1.75 + 0.8 * y
        ax.text(-0.15, top + 0.25, f"sequence {name}", ha="right", va="center", weight="bold")
        for i, page in enumerate(pages):
            color = _page_color(holders[page], tables)
            left = 0.9 * i
            ax.add_patch(Rectangle((left, top), 0.85, 0.5, facecolor=color, edgecolor="white"))
            ax.text(left + 0.42, top + 0.25, f"{page}", ha="center", va="center",
                    color=text_on(color))  # fmt: skip
            way = {"arrowstyle": "-|>", "color": color, "lw": 1.4}
            ends = (page * 1.25 + 0.55, 1.02), (left + 0.42, top)
            ax.annotate("", *ends, arrowprops=way, zorder=0.5)  # behind the boxes
        room = f"{lengths[name]} tokens"
        ax.text(0.9 * len(pages) + 0.1, top + 0.25, room, va="center", color=COLORS.muted)
    for page in range(num_pages):
        _draw_page(ax, page, holders[page], tables, lengths, page_size)
    ax.text(-0.15, 0.7, "memory", ha="right", va="center", weight="bold")
    if title:
        ax.text(-1.6, rows * 0.8 + 1.75, title, weight="bold", va="top")
    return fig


def _page_color(holders: Sequence[str], tables: Mapping[str, Sequence[int]]) -> str:
    if len(holders) > 1:
        return COLORS.sum
    return (COLORS.k, COLORS.max, COLORS.v, COLORS.p)[list(tables).index(holders[0]) % 4]


def _draw_page(
    ax: Axes,
    page: int,
    holders: Sequence[str],
    tables: Mapping[str, Sequence[int]],
    lengths: Mapping[str, int],
    page_size: int,
) -> None:
    """One page of memory: its slots, how far they are filled, its number and its holders."""
    color = _page_color(holders, tables) if holders else COLORS.idle
    filled = 0
    for name in holders:
        before = list(tables[name]).index(page) * page_size
        filled = max(filled, min(page_size, lengths[name] - before))
    slot, left = 1.1 / page_size, page * 1.25
    for i in range(page_size):
        fill = color if i < filled else COLORS.idle
        ax.add_patch(Rectangle((left + i * slot, 0.4), slot, 0.6, facecolor=fill, ec="white",
                               lw=0.8))  # fmt: skip
    edge = COLORS.ink if len(holders) > 1 else COLORS.mask
    ax.add_patch(Rectangle((left, 0.4), 1.1, 0.6, fill=False, edgecolor=edge, lw=1.2))
    ax.text(left + 0.55, 0.3, f"page {page}", ha="center", va="top", fontsize=9,
            color=COLORS.ink)  # fmt: skip
    told = f"held {len(holders)} ×" if holders else "free"
    ax.text(left + 0.55, -0.1, told, ha="center", va="top", fontsize=8.5, color=COLORS.muted)


def day_of_memory(outcomes: Mapping[str, object]) -> Figure:
    """What memory held while somebody waited, and how many requests ran: a bar per rule.

    outcomes: by rule, a `reference.paging.day.Outcome`.
    """
    fig, (ax, right) = figure(1, 2, size=(9.0, 0.52 * len(outcomes) + 1.4), sharey=True,
                              width_ratios=(2.3, 1))  # fmt: skip
    parts = {
        "held": ("tokens", COLORS.k, ""),
        "later": ("reserved, filled later", COLORS.score, "////"),
        "never": ("reserved, never filled", COLORS.max, "xxxx"),
        "free": ("free, and yet somebody waits", COLORS.idle, ""),
    }
    names = list(outcomes)
    left = [0.0] * len(names)
    for part, (label, color, hatch) in parts.items():
        shares = [getattr(outcomes[name], part) for name in names]
        ax.barh(names, shares, left=left, color=color, label=label, hatch=hatch, ec="white")
        for y, (x, share) in enumerate(zip(left, shares, strict=True)):
            if share >= 0.06:
                ax.text(x + share / 2, y, f"{share:.0%}", ha="center", va="center", fontsize=9,
                        color=text_on(color),
                        bbox={"facecolor": color, "lw": 0, "pad": 1.2})  # fmt: skip
        left = [x + share for x, share in zip(left, shares, strict=True)]
    ax.set(xlim=(0, 1), xlabel="share of the memory, while somebody waited")
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.invert_yaxis()
    ax.tick_params(left=False)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8.5,
               frameon=False)  # fmt: skip
    running = [outcomes[name].running for name in names]
    right.barh(names, running, color=COLORS.out)
    for y, n in enumerate(running):
        right.text(n + 0.02 * max(running), y, f"{n:.1f}", va="center", fontsize=9)
    right.set(xlabel="requests running at once", xlim=(0, 1.2 * max(running)))
    right.tick_params(left=False)
    return fig


def page_sizes(
    sizes: Sequence[int], wasted: Sequence[float], look_ups: Sequence[float], block_n: int
) -> Figure:
    """What a page size costs: slots without a token, and loads of page numbers.

    wasted: share of the reserved memory that held no token. look_ups: per 1,000 keys. block_n: keys
    that a program reads at a time.
    """
    fig, (left, right) = figure(1, 2, size=(9.0, 3.3))
    left.plot(sizes, wasted, "o-", color=COLORS.max)
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.set(title="memory: slots without a token", ylabel="of all reserved slots")
    right.plot(sizes, look_ups, "s", color=COLORS.k, ms=7)
    right.axvline(block_n, color=COLORS.muted, lw=1, ls=":")
    right.text(block_n * 1.1, 0.92 * max(look_ups), f"a block is {block_n} keys", fontsize=9,
               color=COLORS.muted)  # fmt: skip
    right.set(title="time: page numbers loaded", ylabel="per 1,000 keys")
    for ax in (left, right):
        ax.set(xscale="log", xlabel="page size, tokens")
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(FixedLocator(sizes))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.grid(axis="y", lw=0.6)
        ax.set_axisbelow(True)
    return fig
