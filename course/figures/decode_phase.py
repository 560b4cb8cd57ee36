"""Figures of the lesson on the decode phase: surprise, work with and without a cache, time."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from torch import Tensor

from course.figures.decode_phase_limits import kv_memory, rooflines
from course.style import COLORS, CourseFigure, bare, cells, figure, seconds, text_on

__all__ = ["append_in_place", "kv_memory", "passes", "rooflines", "surprise", "time_of_an_answer"]

SURE_TO_SURPRISED = LinearSegmentedColormap.from_list(
    "surprise", ["#F3F1EA", "#F3D28A", COLORS.max, COLORS.q]
)


def surprise(text: str, bits: Sequence[float], columns: int = 34) -> CourseFigure:
    """Each character of a text, on a background that is darker the more it surprised the model.

    bits: for each character, −log₂ of the probability it was given. columns: per line; lines are
    broken between words. Raises ValueError unless there is one number per character.
    """
    if len(text) != len(bits):
        raise ValueError(f"bits must be one per character; got {len(bits)} and {len(text)}")
    places = _places(text, columns)
    rows = places[-1][0] + 1
    most = 8.0  # bits: knowing nothing
    fig, ax = figure(size=(9.2, 0.5 * rows + 1.0))
    for character, surprised, (row, column) in zip(text, bits, places, strict=True):
        fill = SURE_TO_SURPRISED(min(surprised / most, 1.0))
        ax.add_patch(Rectangle((column, -row - 1), 1, 0.92, facecolor=fill, lw=0))
        ax.text(column + 0.5, -row - 0.55, character, ha="center", va="center", fontsize=13,
                family="DejaVu Sans Mono", color=text_on(fill))  # fmt: skip
    for i in range(9):
        fill = SURE_TO_SURPRISED(i / most)
        ax.add_patch(Rectangle((columns - 9 + i, 0.55), 1, 0.55, facecolor=fill, lw=0))
        ax.text(columns - 8.5 + i, 0.82, str(i), ha="center", va="center", fontsize=9,
                color=text_on(fill))  # fmt: skip
    ax.text(columns - 9.3, 0.82, "surprise in bits", ha="right", va="center", color=COLORS.muted)
    ax.set(xlim=(-0.1, columns + 0.1), ylim=(-rows - 0.15, 1.2))
    bare(ax)
    return fig


def _places(text: str, columns: int) -> list[tuple[int, int]]:
    """Return the row and column of every character; a word that doesn't fit starts a new line."""
    places, row, column = [], 0, 0
    words = text.split(" ")
    for i, word in enumerate(words):
        word += " " if i < len(words) - 1 else ""
        if column and column + len(word.rstrip()) > columns:
            row, column = row + 1, 0
        places += [(row, column + j) for j in range(len(word))]
        column += len(word)
    return places


def passes(prompt: int, new: int) -> CourseFigure:
    """Which tokens go through the model in which pass: without a cache, and with one.

    prompt: tokens given; new: tokens written, one at the end of each pass.
    """
    fig, axes = figure(1, 2, size=(9.6, 0.3 * (prompt + new) + 1.2))
    for ax, kept in zip(axes, (False, True), strict=True):
        count = _draw_passes(ax, prompt, new, kept)
        title = "with a cache" if kept else "without a cache"
        ax.text(0, 1.25, f"{title}: {count} tokens computed", weight="bold", fontsize=11.5)
        ax.text(new / 2, 0.3, "pass →", ha="center", color=COLORS.muted)
        ax.set(xlim=(-2.6, new + 0.3), ylim=(-prompt - new + 0.7, 2.0))
        bare(ax).set_aspect("equal")
    return fig


def _draw_passes(ax: Axes, prompt: int, new: int, kept: bool) -> int:
    """Draw one panel of `passes`; return how many tokens are computed in all."""
    count = 0
    for step in range(new):
        for token in range(prompt + step):
            computed = not kept or step == 0 or token == prompt + step - 1
            count += computed
            fill = (COLORS.q if token >= prompt else COLORS.k) if computed else COLORS.idle
            ax.add_patch(
                Rectangle((step, -token - 1), 1, 1, facecolor=fill, edgecolor="white", lw=1.5)
            )
    for first, stop, name, color in (
        (0, prompt, "prompt", COLORS.k),
        (prompt, prompt + new - 1, "written", COLORS.q),
    ):
        middle = -(first + stop) / 2
        ax.text(-0.3, middle, name, ha="right", va="center", color=color, weight="bold")
    return count


def append_in_place(before: Tensor, after: Tensor, lengths: Sequence[int]) -> CourseFigure:
    """A cache of B rows before and after an append: what was there, what is new, what is free.

    before, after: (B, capacity), one number per token, NaN where there is nothing yet. lengths:
    (B,), the tokens that were in it before.
    """
    B, capacity = before.shape
    new = (~after.isnan()).sum(1) - torch.tensor(lengths)
    fig, axes = figure(1, 2, size=(9.4, 0.6 * B + 1.1))
    for ax, cache, title in zip(axes, (before, after), ("before", "after"), strict=True):
        numbers, fills = [], []
        for b in range(B):
            row = cache[b].tolist()
            numbers.append(["" if x != x else f"{x:g}" for x in row])
            fills.append([
                COLORS.idle if x != x else COLORS.k if j < lengths[b] else COLORS.q
                for j, x in enumerate(row)
            ])  # fmt: skip
            length = lengths[b] + (int(new[b]) if title == "after" else 0)
            ax.text(-0.25, -b - 0.5, f"row {b}, length {length}", ha="right", va="center", size=9.5)
            if length < capacity:
                ax.text(length + 0.5, -b - 0.5, "next", ha="center", va="center", color=COLORS.q,
                        size=9.5)  # fmt: skip
        cells(ax, numbers, colors=fills, fontsize=13)
        ax.text(0, 0.7, title, weight="bold", fontsize=11.5)
        for j in range(capacity):
            ax.text(j + 0.5, 0.12, str(j), ha="center", va="bottom", color=COLORS.muted, size=9)
        ax.set(xlim=(-2.9, capacity + 0.2), ylim=(-B - 0.2, 1.3))
        bare(ax).set_aspect("equal")
    return fig


def time_of_an_answer(ttft_ms: float, tpot_ms: Sequence[float], prompt_bytes: int) -> CourseFigure:
    """When each byte of an answer arrived: prefill as one step, then decode byte by byte.

    ttft_ms: time to the first byte; tpot_ms: for each later byte; both as in `Timing`.
    """
    came = [ttft_ms]
    for step in tpot_ms:
        came.append(came[-1] + step)
    count = range(1, len(came) + 1)
    fig, ax = figure(size=(9, 3.8))
    s = [t / 1e3 for t in came]
    ax.fill_between(count, 0, [s[0]] * len(s), color=COLORS.k, alpha=0.85, lw=0)
    ax.fill_between(count, [s[0]] * len(s), s, color=COLORS.q, alpha=0.75, lw=0)
    ax.plot(count, s, color=COLORS.ink, lw=1.4)
    share = 1 - s[0] / s[-1]
    ax.set(xlim=(1, len(s)), ylim=(0, s[-1] * 1.08), xlabel="bytes of the answer")
    ax.set_ylabel("time since the prompt")
    ax.text(len(s) * 0.03, s[-1] * 0.86, f"prefill of {prompt_bytes} bytes (TTFT)", color=COLORS.k,
            weight="bold")  # fmt: skip
    ax.text(len(s) * 0.03, s[-1] * 0.96, f"decode, {len(s) - 1} bytes: {share:.0%} of the whole",
            color="#A84900", weight="bold")  # fmt: skip
    seconds(ax.yaxis)
    return fig
