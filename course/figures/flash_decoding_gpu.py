"""Figures of Flash-Decoding on GPUs: how full the waves are, and who timed what."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from course.figures.flash_decoding_measured import powers_of_two
from course.style import COLORS, SPLITS, figure, seconds


def filled_waves(curves: Mapping[str, Mapping[int, float]], chosen: Mapping[str, int]) -> Figure:
    """Share of busy slots against the number of splits, one panel per GPU, the choice marked.

    curves: by name, wave efficiency (0 to 1) by number of splits; chosen: splits by name.
    """
    fig, axes = figure(1, len(curves), size=(9.0, 3.4), sharey=True, squeeze=False)
    for i, (ax, (name, efficiency)) in enumerate(zip(axes[0], curves.items(), strict=True)):
        S, best, most = chosen[name], max(efficiency.values()), max(efficiency)
        ax.axhspan(0.85 * best, best, color=COLORS.idle, lw=0)
        ax.plot(efficiency.keys(), efficiency.values(), "o-", color=SPLITS[0], lw=1, ms=3)
        ax.plot([S, S], [0, efficiency[S]], color=COLORS.accent, lw=1, ls=":")
        ax.plot([S], [efficiency[S]], "o", color=COLORS.accent, ms=9)
        told = f"chosen: {S} splits,\n{efficiency[S]:.0%} busy"
        ax.text(S + 1.2, 0.22, told, color=COLORS.accent, fontsize=9.5)
        ax.set(title=name, xlabel="number of splits", ylim=(0, 1.05), xlim=(0, most + 1))
        if i == 0:
            ax.set_ylabel("busy slots, all waves")
            ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            ax.text(most * 0.98, 0.05, "band: 85 % of the best, or better", ha="right",
                    fontsize=9, color=COLORS.muted)  # fmt: skip
    return fig


def published_decode(rows: Sequence[tuple[str, float, float]], source: str) -> Figure:
    """Microseconds of FlashAttention-2 and of Flash-Decoding as others published them.

    rows: (setting, FlashAttention-2 µs, Flash-Decoding µs); source: who measured it, and where.
    """
    fig, ax = figure(size=(9.0, 0.95 * len(rows) + 1.3))
    longest = max(fa2 for _, fa2, _ in rows)
    for i, (_, fa2, decoding) in enumerate(rows):
        ratio = f"Flash-Decoding {decoding:,.4g} µs: {fa2 / decoding:.0f} times as fast"
        pairs = (
            (-0.19, fa2, COLORS.muted, f"FA-2 {fa2:,.4g} µs"),
            (0.19, decoding, COLORS.k, ratio),
        )
        for shift, us, color, told in pairs:
            ax.barh(i + shift, us, height=0.34, color=color)
            ax.text(us + longest * 0.01, i + shift, told, va="center", fontsize=9.5)
    ax.set(xlim=(0, longest * 1.18), yticks=range(len(rows)))
    ax.set_yticklabels([setting for setting, *_ in rows])
    ax.xaxis.set_major_formatter(lambda us, _: f"{us / 1000:g} ms")
    ax.invert_yaxis()
    ax.tick_params(left=False)
    ax.set_title("Published by others: not measured by this course")
    ax.set_xlabel(source, loc="left", fontsize=9)
    return fig


def gpu_decode(rows: Sequence[Mapping[str, float]], title: str) -> Figure:
    """A recorded run: milliseconds against context length, and the share of read bandwidth.

    rows: for one batch size and head count, as `benchmarks.decode` records them; those in which
    Flash-Decoding was not timed are left out, and so is any contestant where it was not timed.
    """
    rows = sorted((row for row in rows if "flash_decoding_ms" in row), key=lambda row: row["Lk"])
    lengths = [int(row["Lk"]) for row in rows]
    fig, (left, right) = figure(1, 2, size=(9.4, 4.0), width_ratios=(3, 2))
    contestants = {
        "fa2": ("FlashAttention-2", COLORS.muted, "s-"),
        "sdpa": ("torch's SDPA", COLORS.max, "^-"),
        "flash_decoding": ("Flash-Decoding", COLORS.k, "o-"),
    }
    left.set(xscale="log", yscale="log", title=title, xlabel="context length, tokens")
    for key, (name, color, marker) in contestants.items():
        points = [(row["Lk"], row[f"{key}_ms"] / 1e3) for row in rows if f"{key}_ms" in row]
        if points:
            left.plot(*zip(*points, strict=True), marker, color=color, ms=5, label=name)
    for row in rows:
        if "fa2_ms" in row:
            left.annotate(
                f"{row['fa2_ms'] / row['flash_decoding_ms']:.1f}×",
                (row["Lk"], row["fa2_ms"] / 1e3), (0, 7), textcoords="offset points",
                ha="center", fontsize=8.5,
            )  # fmt: skip
    left.margins(y=0.12)
    left.legend(loc="upper left", fontsize=9)
    left.yaxis.set_minor_locator(NullLocator())
    seconds(left.yaxis)
    right.plot(lengths, [row["share_of_read"] for row in rows], "o-", color=COLORS.k, ms=5)
    right.set(xscale="log", ylim=(0, 1.05), xlabel="context length, tokens")
    right.set_title("Share of read bandwidth")
    right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    for ax in (left, right):
        powers_of_two(ax, lengths)
        ax.tick_params(axis="x", labelsize=8.5)
    return fig
