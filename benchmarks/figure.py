"""A figure of a record: `python -m benchmarks NAME --figure FILE`, or `draw(NAME, record)`.

The repository keeps the records; figures are drawn from them when they are wanted.
"""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.grid import OURS
from benchmarks.peers import LABELS
from course.style import COLORS, SPLITS, figure, seconds, tokens

Rows = Sequence[Mapping]
DRAWN_HEADS = ((32, 8), (64, 8))
WRONG = "none: interpreted"


def draw(name: str, record: Mapping) -> Figure:
    """Draw the record of a benchmark. Raises ValueError if nothing in it was timed."""
    drawn = FIGURES[name](record["rows"])
    title = f"{record['gpu']} · torch {record['torch']} · {record['date'][:10]}"
    if record["gpu"].startswith(WRONG):
        title = "Interpreted on a CPU: shows that the harness runs, measures nothing"
    drawn.suptitle(title, fontsize=10, color=COLORS.muted)
    return drawn


def decode(rows: Rows) -> Figure:
    """Time of each contestant against length, at batch 1, and our share of the read bandwidth."""
    timed = [r for r in rows if r["B"] == 1 and "flash_decoding_ms" in r]
    present = {(r["Hq"], r["Hkv"]) for r in timed}
    heads = [h for h in DRAWN_HEADS if h in present] or sorted(present)[:2]
    if not heads:
        raise ValueError("no row of batch 1 was timed")
    fig, axes = figure(1, len(heads) + 1, size=(4.6 * (len(heads) + 1), 4.6), squeeze=False)
    for ax, (Hq, Hkv) in zip(axes[0], heads, strict=False):
        chosen = sorted((r for r in timed if (r["Hq"], r["Hkv"]) == (Hq, Hkv)), key=_length)
        _lines(ax, chosen)
        ax.set_title(f"{Hq} heads on {Hkv}")
    axes[0][0].legend(fontsize=8)
    share = axes[0][-1]
    for color, (Hq, Hkv) in zip(SPLITS, sorted(present), strict=False):
        chosen = sorted((r for r in timed if (r["Hq"], r["Hkv"]) == (Hq, Hkv)), key=_length)
        lengths = [r["Lk"] for r in chosen]
        share.plot(lengths, [r["share_of_read"] for r in chosen], "o-", ms=4, color=color,
                   label=f"{Hq}/{Hkv}")  # fmt: skip
    share.set(xscale="log", ylim=(0, 1.05), title="Share of read bandwidth")
    share.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    share.legend(fontsize=8, title="heads")
    _lengths(share, sorted({r["Lk"] for r in timed}))
    return fig


def _length(row: Mapping) -> int:
    return row["Lk"]


def _lines(ax: Axes, rows: Rows) -> None:
    """One line per contestant: ours bold, the others thin."""
    theirs = [name for name in LABELS if name not in OURS]
    colors = dict(zip(theirs, [c for c in SPLITS if c != COLORS.k] * 3, strict=False))
    colors |= {"flash_decoding": COLORS.k, "fa2": COLORS.muted}
    for name in (*theirs, *reversed(OURS)):
        points = [(r["Lk"], r[f"{name}_ms"] / 1e3) for r in rows if f"{name}_ms" in r]
        if points:
            ours = name in OURS
            ax.plot(*zip(*points, strict=True), "o-" if ours else ".-", lw=2.4 if ours else 1.1,
                    ms=5, color=colors[name], label=LABELS[name])  # fmt: skip
    ax.set(xscale="log", yscale="log")
    ax.yaxis.set_minor_locator(NullLocator())
    seconds(ax.yaxis)
    _lengths(ax, [r["Lk"] for r in rows])


def _lengths(ax: Axes, lengths: Sequence[int]) -> None:
    """Put the ticks of a log axis at every second length measured."""
    ax.xaxis.set_major_locator(FixedLocator(list(lengths)[::2]))
    ax.xaxis.set_minor_locator(NullLocator())
    tokens(ax.xaxis)
    ax.set_xlabel("context length, tokens")


def splits(rows: Rows) -> Figure:
    """Time over the best against the number of splits, one panel per length; our choice marked."""
    timed = [r for r in rows if r.get("ms")]
    lengths = sorted({r["Lk"] for r in timed})
    if not lengths:
        raise ValueError("no row was timed")
    fig, axes = figure(1, len(lengths), size=(3.6 * len(lengths), 3.8), sharey=True, squeeze=False)
    for ax, length in zip(axes[0], lengths, strict=True):
        chosen = [r for r in timed if r["Lk"] == length and r["B"] == 1] or timed
        for color, row in zip(SPLITS, chosen, strict=False):
            best = min(row["ms"])
            ax.plot(row["num_splits"], [ms / best for ms in row["ms"]], ".-", color=color, lw=1.4,
                    label=f"{row['Hq']}/{row['Hkv']}")  # fmt: skip
            ax.axvline(row["chosen"], color=color, lw=1, ls=":")
        ax.set(xscale="log", yscale="log", title=f"{length:,} tokens", xlabel="number of splits")
        ax.xaxis.set_major_locator(FixedLocator([1, 4, 16, 64]))
        ax.yaxis.set_major_locator(FixedLocator([1, 1.5, 2, 3, 5, 10, 20, 50]))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes[0][0].set_ylabel("time over the best (dotted: our choice)")
    axes[0][0].legend(fontsize=8, title="heads")
    return fig


def _bars(ax: Axes, bars: Sequence[tuple[str, float, str]], best: float) -> None:
    """Horizontal bars of (label, milliseconds, colour), with the number after each."""
    for i, (_, ms, color) in enumerate(bars):
        ax.barh(i, ms, color=color, height=0.7)
        ax.text(ms, i, f" {ms:.4g} ms", va="center", fontsize=8)
    ax.set(yticks=range(len(bars)), xlim=(0, best * 1.25))
    ax.set_yticklabels([label for label, *_ in bars], fontsize=8)
    ax.invert_yaxis()
    ax.tick_params(left=False)


def bars(rows: Rows) -> Figure:
    """One bar per contestant, one panel per cell: for variants and prefill."""
    panels = []
    for row in rows:
        names = [k[:-3] for k in row if k.endswith("_ms") and not k.endswith("_eager_ms")]
        if names:
            panels.append((row["cell"], [(name, row[f"{name}_ms"]) for name in names]))
    if not panels:
        raise ValueError("no row was timed")
    high = -(-len(panels) // 2)
    fig, axes = figure(high, 2, size=(11.0, 2.2 * high + 0.6), squeeze=False)
    for ax, (cell, times) in zip(axes.flat, panels, strict=False):
        ours = {n for n, _ in times if n in ("flash_attention", "planned")}
        colored = [(n, ms, COLORS.k if n in ours else COLORS.muted) for n, ms in times]
        _bars(ax, colored, max(ms for _, ms in times))
        ax.set_title(cell, fontsize=9)
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_axis_off()
    return fig


FIGURES: dict[str, Callable[[Rows], Figure]] = {
    "decode": decode,
    "splits": splits,
    "variants": bars,
    "prefill": bars,
}
