"""Figures of the lesson on Flash-Decoding that show measurements: errors, bytes, times."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from course.style import COLORS, SPLITS, bytes_, figure, seconds, tokens


def split_count_error(
    splits: Sequence[int], errors: Sequence[float], naive: float, averaged: Sequence[float]
) -> Figure:
    """Largest error against fp64 for each number of splits, beside naive attention's.

    errors, averaged: one per entry of `splits`, the merge done correctly and by a plain mean.
    """
    fig, ax = figure(size=(9.0, 3.8))
    ax.set(xscale="log", yscale="log", ylim=(min(errors) / 8, max(averaged) * 12))
    ax.axhline(naive, color=COLORS.muted, lw=1.2, ls="--")
    ax.plot(splits, errors, "o-", color=COLORS.k, ms=5)
    wrong = [(s, e) for s, e in zip(splits, averaged, strict=True) if s > 1]
    ax.plot(*zip(*wrong, strict=True), "s-", color=COLORS.accent, ms=5)
    middle = splits[len(splits) // 2]
    ax.text(
        middle, max(averaged) * 2, "mean of the splits: wrong", color=COLORS.accent, ha="center"
    )
    ax.text(middle, max(errors) * 3, "weighted by exp(lseₛ − lse)", color=COLORS.k, ha="center")
    ax.text(
        splits[0],
        min(errors) / 2.5,
        "dashed: naive attention, fp32",
        color=COLORS.muted,
        fontsize=9,
    )
    ax.set(xlabel="number of splits S", ylabel="largest error of o against fp64")
    ax.xaxis.set_major_locator(FixedLocator(splits))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return fig


def workspace_against_cache(
    lengths: Sequence[int],
    cache: Sequence[int],
    scores: Sequence[int],
    workspace: Mapping[int, int],
) -> Figure:
    """Bytes against context length: the cache, the naive scores, and the partials (flat).

    cache, scores: bytes for each of `lengths`; workspace: bytes by number of splits.
    """
    fig, ax = figure(size=(9.0, 4.0))
    ax.set(xscale="log", yscale="log")
    ax.plot(lengths, cache, color=COLORS.k)
    ax.plot(lengths, scores, color=COLORS.score)
    label_end(ax, lengths, cache, "KV cache of one layer", COLORS.k)
    label_end(ax, lengths, scores, "one score per key and head\n(naive attention)", COLORS.score)
    for i, (splits, size) in enumerate(workspace.items()):
        color = SPLITS[1 + 4 * i]
        ax.plot(lengths, [size] * len(lengths), color=color)
        label_end(ax, lengths, [size], f"partials, S = {splits}", color)
    powers_of_two(ax, lengths)
    floor = min(workspace.values())
    ax.set_yticks([4**i * 4096 for i in range(20) if floor / 8 < 4**i * 4096 < 4 * cache[-1]])
    ax.yaxis.set_minor_locator(NullLocator())
    bytes_(ax.yaxis)
    ax.set_xlabel("context length, tokens")
    return fig


def decode_latency(
    lengths: Sequence[int], cases: Mapping[str, Sequence[tuple[float, float]]]
) -> Figure:
    """Time of a decode step against context length, one panel per case, with the ratios.

    cases: by title, for each of `lengths`, the seconds of torch's SDPA and of Flash-Decoding.
    """
    fig, axes = figure(1, len(cases), size=(9.6, 4.0))
    for ax, (title, steps) in zip(axes, cases.items(), strict=True):
        before, after = zip(*steps, strict=True)
        ax.set(xscale="log", yscale="log", title=title, xlabel="context length, tokens")
        ax.fill_between(lengths, before, after, color=COLORS.idle, lw=0)
        ax.plot(lengths, before, "s-", color=COLORS.muted, ms=5, label="torch's attention (SDPA)")
        ax.plot(lengths, after, "o-", color=COLORS.k, ms=5, label="the same, in splits")
        for x, slow, fast in zip(lengths, before, after, strict=True):
            ax.annotate(
                f"{slow / fast:.2g}×", (x, max(slow, fast)), (-7, 7), textcoords="offset points",
                ha="center", fontsize=9,
            )  # fmt: skip
        every = [*before, *after]
        nice = [n * 10.0**e for e in range(-7, 2) for n in (1, 2, 5)]
        ax.set(
            xlim=(lengths[0] / 1.5, lengths[-1] * 1.2), ylim=(min(every) / 1.6, max(every) * 2.2)
        )
        ax.set_yticks([t for t in nice if min(every) / 1.6 < t < max(every) * 2.2])
        ax.yaxis.set_minor_locator(NullLocator())
        seconds(ax.yaxis)
        powers_of_two(ax, lengths)
        ax.legend(loc="lower right", fontsize=9)
    return fig


def powers_of_two(ax: Axes, lengths: Sequence[int]) -> None:
    """Put the ticks of a log axis where the measurements are, labelled 512, 4k, 128k."""
    ax.xaxis.set_major_locator(FixedLocator(lengths))
    ax.xaxis.set_minor_locator(NullLocator())
    tokens(ax.xaxis)


def label_end(ax: Axes, x: Sequence[int], y: Sequence[float], text: str, color: str) -> None:
    """Write a curve's name at its right end, outside the axes."""
    ax.annotate(
        text,
        (x[-1], y[-1]),
        (6, 0),
        textcoords="offset points",
        va="center",
        color=color,
        fontsize=9.5,
    )
