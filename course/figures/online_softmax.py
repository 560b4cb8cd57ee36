"""Figures of lesson 03: the ruler that changes, reads counted, the state as it runs, merges.

Heights are always exp(score − m): what a worker's sum holds when it measures from m.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course.figures.online_softmax_merge import balance, legible, merge_rulers, merge_trees
from course.style import COLORS, bare, figure

__all__ = [
    "balance",
    "change_of_ruler",
    "filmstrip",
    "merge_rulers",
    "merge_trees",
    "reads",
    "running_state",
    "state_step",
]


def _floats(x: Tensor | Sequence[float]) -> list[float]:
    return [float(value) for value in x]


def _bars(ax: Axes, heights: Sequence[float], fills: Sequence[str], size: float = 9) -> None:
    """Bars of exp(score − m) with their heights written above, in front of any outline."""
    ax.bar(range(len(heights)), heights, color=fills, width=0.72)
    card = {"facecolor": COLORS.card, "edgecolor": "none", "pad": 0.6}
    for place, height in enumerate(heights):
        ax.text(
            place, height + 0.04, f"{height:.2f}", ha="center", va="bottom", fontsize=size,
            bbox=card,
        )  # fmt: skip


def _ghosts(ax: Axes, heights: Sequence[float]) -> None:
    """Dashed outlines: how high the bars stood on the old ruler."""
    style = {"fill": False, "edgecolor": COLORS.muted, "ls": (0, (3, 2)), "lw": 1.0}
    ax.bar(range(len(heights)), heights, width=0.72, **style)


def _exps(scores: Sequence[float], m: float) -> list[float]:
    return [math.exp(x - m) for x in scores]


def _bar_axes(ax: Axes, labels: Sequence[str], title: str) -> None:
    ax.set(ylim=(0, 1.18), xlim=(-0.6, len(labels) - 0.4), title=title)
    ax.set_xticks(range(len(labels)), labels)
    ax.tick_params(axis="x", length=0)
    ax.set_yticks([0, 0.5, 1])


def change_of_ruler(scores: Tensor) -> Figure:
    """A stream's last score is a new maximum: the bars before and after the ruler moves.

    scores: (n,), the last one larger than all others.
    """
    x = _floats(scores)
    old, new = max(x[:-1]), x[-1]
    fig, (left, right) = figure(1, 2, (9.0, 3.1), sharey=True)
    labels = [f"x = {value:g}" for value in x]
    before = _exps(x[:-1], old)
    _bars(left, before, [COLORS.score] * len(before))
    left.text(len(before), 0.05, "not seen\nyet", ha="center", color=COLORS.muted, fontsize=9)
    _bar_axes(left, labels, f"measured from m = {old:g}:   l = {sum(before):.4f}")
    after = _exps(x, new)
    _ghosts(right, before)
    _bars(right, after, [COLORS.score] * len(before) + [COLORS.accent])
    _bar_axes(right, labels, f"measured from m = {new:g}:   l = {sum(after):.4f}")
    right.text(
        (len(before) - 1) / 2, 1.06, f"all of these × {math.exp(old - new):.4f}",
        ha="center", color=COLORS.muted,
    )  # fmt: skip
    left.set_ylabel("exp(x − m)")
    return fig


def reads(traces: Mapping[str, Sequence[int]]) -> Figure:
    """Which element was read when: one sawtooth per way of doing it.

    traces: name → the index of the element at every read, in order.
    """
    fig, axes = figure(len(traces), 1, (9.0, 1.25 * len(traces) + 0.4), sharex=True, squeeze=False)
    longest = max(map(len, traces.values()))
    for ax, (name, trace) in zip(axes[:, 0], traces.items(), strict=True):
        starts = [t for t, i in enumerate(trace) if i == 0]
        for begin, end in zip(starts, [*starts[1:], len(trace)], strict=True):
            ax.plot(range(begin + 1, end + 1), trace[begin:end], "o-", color=COLORS.score, ms=5)
        top = max(trace)
        ax.set(ylim=(-0.7, top + 0.7), xlim=(0, longest + 4.5), yticks=[0, top])
        ax.set_yticklabels(["first score", "last score"])
        ax.set_title(name, fontsize=10.5)
        ax.text(len(trace) + 0.8, top / 2, f"{len(trace)} reads", va="center", weight="bold")
    axes[-1, 0].set_xlabel("reads so far")
    axes[-1, 0].set_xticks([1, *range(4, longest + 1, 4)])
    return fig


def _step_bars(ax: Axes, scores: Sequence[float], states: Sequence, t: int, size: float) -> None:
    """The bars of step t (t keys seen), with ghosts of the step before if the ruler moved."""
    m = float(states[t].m)
    if t > 1 and m > float(states[t - 1].m):
        _ghosts(ax, _exps(scores[: t - 1], float(states[t - 1].m)))
    if t:
        _bars(ax, _exps(scores[:t], m), [COLORS.score] * (t - 1) + [COLORS.accent], size=size)


def state_step(scores: Tensor, values: Tensor, states: Sequence, t: int) -> Figure:
    """One frame of the stepper: the bars after t keys, and where m, l, acc come from.

    scores, values: (n,); states: n + 1 states of one row and D = 1, `states[t]` after t keys.
    """
    x, v = _floats(scores), _floats(values)
    fig, (left, right) = figure(1, 2, (9.0, 3.2), width_ratios=[1.25, 1])
    _step_bars(left, x, states, t, size=9)
    labels = [f"x = {a:g}\nv = {b:g}" for a, b in zip(x, v, strict=True)]
    _bar_axes(left, labels, f"{t} of {len(x)} keys seen")
    for place, tick in enumerate(left.get_xticklabels()):
        tick.set_color(COLORS.ink if place < t else COLORS.mask)
    left.set_ylabel("exp(x − m)")
    bare(right).set(xlim=(0, 1), ylim=(0, 1))
    m, l, acc = (float(part) for part in states[t])
    lines = [
        ("m", f"= {m:g}".replace("-inf", "−∞"), legible(COLORS.max)),
        ("l", f"= {l:.4f}", COLORS.sum),
        ("acc", f"= {acc:.3f}", COLORS.v),
        ("acc / l", f"= {acc / l:.3f}" if l else "not defined yet", COLORS.out),
    ]
    heights, sources = (0.92, 0.66, 0.4, 0.14), _sources(x, v, states, t)
    for y, (name, value, color), source in zip(heights, lines, sources, strict=True):
        right.text(0.17, y, name, color=color, weight="bold", ha="right", va="center", fontsize=12)
        right.text(0.22, y, value, va="center", fontsize=12)
        right.text(0.22, y - 0.1, source, va="center", fontsize=9, color=COLORS.muted)
    return fig


def _sources(x: Sequence[float], v: Sequence[float], states: Sequence, t: int) -> list[str]:
    """How m, l, acc and acc / l of step t came about, in numbers."""
    if t == 0:
        return ["no key seen yet", "", "", ""]
    m, l, acc = (float(part) for part in states[t - 1])
    new, score = float(states[t].m), x[t - 1]
    factor, p = math.exp(m - new), math.exp(score - new)
    return [
        f"max({m:g}, {score:g})".replace("-inf", "−∞"),
        f"{factor:.4f} · {l:.4f} + {p:.4f}",
        f"{factor:.4f} · {acc:.3f} + {p:.4f} · {v[t - 1]:g}",
        f"the answer if key {t} were the last",
    ]


def filmstrip(scores: Tensor, values: Tensor, states: Sequence) -> Figure:
    """Every step of the stream side by side; arguments as for `state_step`."""
    x, v = _floats(scores), _floats(values)
    fig, axes = figure(1, len(x), (max(9.0, 1.7 * len(x)), 3.5), sharey=True)
    for t, ax in enumerate(axes, start=1):
        _step_bars(ax, x, states, t, size=7)
        _bar_axes(ax, [f"{a:g}" for a in x[:t]] + [""] * (len(x) - t), "")
        ax.set_title(f"x = {x[t - 1]:g},  v = {v[t - 1]:g}", fontsize=10, color=COLORS.accent)
        m, l, acc = (float(part) for part in states[t])
        moved = t > 1 and m > float(states[t - 1].m)
        texts = [f"m = {m:g}" + ("  ← moved" if moved else ""), f"l = {l:.3f}", f"acc = {acc:.2f}"]
        for i, (text, color) in enumerate(
            zip(texts, (legible(COLORS.max), COLORS.sum, COLORS.v), strict=True)
        ):
            ax.text(
                0.0, -0.2 - 0.11 * i, text, transform=ax.transAxes, color=color, weight="bold",
                fontsize=9.5,
            )  # fmt: skip
    axes[0].set_ylabel("exp(x − m)")
    return fig


def running_state(scores: Tensor, states: Sequence, truth: float) -> Figure:
    """A long stream: scores and the staircase m; l; and the answer so far against the final one.

    scores: (n,); states: n states of one row and D = 1, after each key; truth: the final o.
    """
    steps = range(1, len(states) + 1)
    m, l, acc = ([float(part) for part in parts] for parts in zip(*states, strict=True))
    jumps = [t for t in steps if t == 1 or m[t - 1] > m[t - 2]]
    fig, (top, middle, bottom) = figure(3, 1, "tall", sharex=True, height_ratios=[1.3, 1, 1])
    top.plot(steps, _floats(scores), "o", color=COLORS.score, ms=3.5)
    top.step(steps, m, where="post", color=COLORS.max)
    top.set(title=f"scores, and m: it moves {len(jumps)} times in {len(m)} keys", ylabel="score")
    middle.plot(steps, l, color=COLORS.sum)
    middle.set(title="l: grows by at most 1 per key; falls only when m moves", ylabel="l")
    bottom.plot(steps, [a / b for a, b in zip(acc, l, strict=True)], color=COLORS.out)
    bottom.axhline(truth, color=COLORS.muted, lw=1, ls="--")
    bottom.set(
        title="acc / l: the exact answer for the keys so far", ylabel="o", xlabel="keys seen"
    )
    for ax in (top, middle, bottom):
        ax.set_xlim(0, len(m) + 1)
        for t in jumps:
            ax.axvline(t, color=COLORS.max, lw=0.8, alpha=0.45, zorder=0)
    return fig
