"""Figures of the lesson on starving GPUs that show times: predicted, published, measured here."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from course.figures.flash_decoding_measured import label_end, powers_of_two
from course.style import COLORS, SPLITS, figure, text_on

Cores = tuple[float, float]
"""Cores that were busy, and GB/s read."""


def latency_and_floor(
    lengths: Sequence[int],
    curves: Mapping[str, Sequence[float]],
    floors: Mapping[str, Sequence[float]],
    recorded: Mapping[str, Sequence[tuple[int, float]]] | None = None,
) -> Figure:
    """Predicted time against context length, and the least that memory allows; both axes log.

    curves, floors: µs by name for each of `lengths`. recorded: by name, measured pairs of length
    and µs.
    """
    fig, ax = figure(size=(9.0, 4.0))
    ax.set(xscale="log", yscale="log", xlabel="keys in the cache", ylabel="one layer's attention")
    for color, (name, curve) in zip((COLORS.k, SPLITS[1], SPLITS[6]), curves.items(), strict=False):
        ax.plot(lengths, curve, color=color)
        label_end(ax, lengths, curve, name, color)
    for name, floor in floors.items():
        ax.plot(lengths, floor, color=COLORS.muted, ls="--", lw=1.4)
        label_end(ax, lengths, floor, name, COLORS.muted)
    for marker, (name, points) in zip("osv", (recorded or {}).items(), strict=False):
        ax.plot(*zip(*points, strict=True), marker, color=COLORS.ink, ms=5, label=name)
    if recorded:
        ax.legend(loc="upper left", fontsize=9.5, frameon=False)
    powers_of_two(ax, lengths)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda us, _: f"{us:,.10g} µs")
    ax.grid(axis="y")
    return fig


def published_beside_model(
    lengths: Sequence[int], speed_ups: Mapping[str, Sequence[float]]
) -> Figure:
    """How many times as fast Flash-Decoding is, by context length: a bar for each source.

    speed_ups: by name for each of `lengths`; the first is what was published.
    """
    fig, ax = figure(size=(9.0, 3.6))
    wide = 0.8 / len(speed_ups)
    for i, (name, values) in enumerate(speed_ups.items()):
        places = [x + (i - (len(speed_ups) - 1) / 2) * wide for x in range(len(lengths))]
        color = (COLORS.ink, COLORS.k, SPLITS[4], SPLITS[1])[i]
        bars = ax.bar(places, values, width=wide * 0.92, color=color, label=name)
        ax.bar_label(bars, [f"{value:.1f}" for value in values], fontsize=9, padding=2)
    ax.set(xticks=range(len(lengths)), xticklabels=[f"{length:,} keys" for length in lengths])
    ax.set(ylabel="FA-2's time / Flash-Decoding's", ylim=(0, None))
    ax.tick_params(bottom=False)
    ax.legend(loc="upper left", fontsize=9.5, frameon=False)
    return fig


def busy_cores(
    heads: Mapping[int, Cores], split: Cores, cores: int, bandwidth: float, length: int
) -> Figure:
    """How much of this machine attention with one query keeps busy, by the number of heads.

    heads: by number of heads; split: one head with its keys split. cores: those PyTorch uses.
    bandwidth: what this machine's memory can deliver, GB/s. length: keys in the cache.
    """
    fig, axes = figure(1, 2, size=(9.4, 3.6))
    names = [f"{n}" for n in heads] + ["1, in\nsplits"]
    places = [*range(len(heads)), len(heads) + 0.4]
    limits = (cores, bandwidth)
    told = ("{:.1f}", "{:.0f}")
    for i, (ax, limit) in enumerate(zip(axes, limits, strict=True)):
        values = [pair[i] for pair in [*heads.values(), split]]
        colors = [COLORS.k] * len(heads) + [SPLITS[1]]
        bars = ax.bar(places, values, width=0.72, color=colors)
        for bar, value, color in zip(bars, values, colors, strict=True):
            ax.text(bar.get_x() + bar.get_width() / 2, value / 2, told[i].format(value),
                    ha="center", va="center", color=text_on(color))  # fmt: skip
        ax.axhline(limit, color=COLORS.muted, lw=1.2, ls="--")
        ax.set(ylim=(0, max([*values, limit]) * 1.22), xlabel=f"heads of {length:,} keys")
        ax.xaxis.set_major_locator(FixedLocator(places))
        ax.set_xticklabels(names)
        ax.tick_params(bottom=False)
    axes[0].set(title="Cores busy")
    axes[1].set(title="GB/s of K and V")
    _name_line(axes[0], cores, f"PyTorch threads: {cores}")
    _name_line(axes[1], bandwidth, f"memory bandwidth when summing: {bandwidth:.0f} GB/s")
    return fig


def _name_line(ax: Axes, y: float, text: str) -> None:
    ax.annotate(text, (ax.get_xlim()[0], y), (4, 6), textcoords="offset points", fontsize=9,
                color=COLORS.muted)  # fmt: skip
