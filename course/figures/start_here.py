"""Figures of lesson 00, and the README's picture: what this course builds."""

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from course.style import COLORS, SPLITS, CourseFigure, arrow, bare, box, figure

__all__ = ["flash_decoding_overview", "two_ways_to_read"]


def flash_decoding_overview(splits: int = 4, keys: int = 24) -> CourseFigure:
    """One query, a long cache, `splits` workers, one merge: Flash-Decoding from top to bottom.

    splits: 2…6. keys: cells drawn for the cache, a multiple of `splits`. Raises ValueError
    otherwise.
    """
    if not 2 <= splits <= 6 or keys % splits:
        raise ValueError(f"splits must be 2…6 and divide keys; got {splits} and {keys}")
    fig, ax = figure(size=(10.0, 4.6))
    bare(ax).set(xlim=(-0.2, 20.2), ylim=(-0.5, 9.3))
    top, width = 8.2, 14.0
    part = width / splits
    box(ax, 0, 6.2, 2.2, 1.2, "query", COLORS.q)
    ax.text(1.1, 7.55, "one new token", ha="center", va="bottom", color=COLORS.muted, fontsize=9.5)
    ax.text(3.4, top + 0.75, "KV cache: the keys and values of all tokens so far", weight="bold")
    _draw_cache(ax, splits, keys, top, width)
    for s in range(splits):
        x = 3.4 + s * part
        middle = x + part / 2
        arrow(ax, (middle, 6.9), (middle, 5.75))
        box(ax, x + 0.15, 4.4, part - 0.3, 1.3, f"worker {s + 1}", SPLITS[s])
        arrow(ax, (middle, 4.4), (middle, 3.3))
        ax.text(middle + 0.15, 3.85, f"$o_{s + 1}$, lse$_{s + 1}$", va="center", fontsize=10)
    rail = 6.05  # the query goes to every worker: a line along all of them, a branch to each
    ax.plot([1.1, 1.1, 17.4 - part / 2 - 0.9], [6.3, rail, rail], color=COLORS.q, lw=1.6)
    for s in range(splits):
        x = 3.4 + s * part + part / 2 - 0.9
        arrow(ax, (x, rail), (x, 5.75), color=COLORS.q)
    box(ax, 3.4, 2.0, width, 1.25, "merge:   $o = \\sum_s e^{\\,lse_s - lse}\\; o_s$", COLORS.sum)
    middle = 3.4 + width / 2
    arrow(ax, (middle, 2.0), (middle, 1.0))
    box(ax, middle - 2.2, -0.25, 4.4, 1.2, "output of this token", COLORS.out)
    for y, step in ((7.3, "1  split"), (5.05, "2  attend"), (2.6, "3  merge")):
        ax.text(17.7, y, step, va="center", weight="bold", color=COLORS.ink)
    for y, note in ((6.75, "the keys"), (4.5, "all at once"), (2.05, "a few numbers")):
        ax.text(18.15, y, note, va="center", color=COLORS.muted, fontsize=9.5)
    return fig


def _draw_cache(ax: Axes, splits: int, keys: int, top: float, width: float) -> None:
    """K and V as two rows of cells in the colours of their splits."""
    for row, name in ((1, "K"), (2, "V")):
        y = top - row * 0.62
        ax.text(3.2, y + 0.3, name, ha="right", va="center", color=COLORS.muted)
        for i in range(keys):
            style = {"facecolor": SPLITS[i * splits // keys], "alpha": 1.35 - 0.35 * row}
            xy = 3.4 + i * width / keys, y
            ax.add_patch(Rectangle(xy, width / keys, 0.6, edgecolor="white", **style))


def two_ways_to_read(workers: int = 6, keys: int = 24) -> CourseFigure:
    """Who reads the cache when there is one query: one worker, or all of them.

    workers must divide keys; a key is one unit of time. Raises ValueError otherwise.
    """
    if keys % workers:
        raise ValueError(f"workers must divide keys; got {workers} and {keys}")
    fig, axes = figure(1, 2, size=(10.0, 3.0), sharey=True, sharex=True)
    share = keys // workers
    for ax, split in zip(axes, (False, True), strict=True):
        for w in range(workers):
            busy = share if split else (keys if w == 0 else 0)
            ax.barh(w, keys, height=0.72, color=COLORS.idle)
            ax.barh(w, busy, height=0.72, color=SPLITS[w % len(SPLITS)])
        ax.set(xlabel="time (keys read by one worker)", xlim=(0, keys))
        ax.set_yticks(range(workers), [f"worker {w + 1}" for w in range(workers)])
        ax.spines["left"].set_visible(False)
        ax.tick_params(left=False)
    axes[0].invert_yaxis()  # shared: worker 1 on top in both
    axes[0].set_title(f"one query, one worker: done at {keys}")
    axes[1].set_title(f"one query, {workers} splits: done at {share}, then a merge")
    axes[1].axvline(share, color=COLORS.ink, lw=1.2, ls=":")
    return fig
