"""Figures of the lesson on naive attention: one query by hand, overflow, masks, heads, costs."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from torch import Tensor

from course.style import (
    COLORS,
    SPLITS,
    CourseFigure,
    arrow,
    bare,
    box,
    bytes_,
    cells,
    figure,
    text_on,
    tokens,
)
from reference.closeness import Closeness

__all__ = [
    "causal_corners",
    "exp_ceiling",
    "head_sharing",
    "one_query",
    "score_memory",
    "verdicts",
]


def one_query(
    q: Tensor, k: Tensor, v: Tensor, scores: Tensor, p: Tensor, o: Tensor
) -> CourseFigure:
    """Attention for one query, every number written out: q, k → scores → exp → p, v → o.

    q: (D,), k: (Lk, D), v: (Lk, Dv), scores and p: (Lk,), o: (Dv,).
    """
    fig, ax = figure(size=(9.6, 4.4))
    bare(ax).set_aspect("equal")
    n, weights = len(scores), torch.exp(scores)
    cells(ax, k.tolist(), color=COLORS.k, label="keys")
    cells(ax, [q.tolist()], origin=(0, 2.1), color=COLORS.q, label="query")
    cells(ax, scores[:, None].tolist(), origin=(4.1, 0), color=COLORS.score, label="score")
    column, total = weights[:, None].tolist(), [[weights.sum().item()]]
    cells(ax, column, origin=(6.9, 0), color=COLORS.max, fmt="{:.2f}", fontsize=9)
    ax.text(6.9, 0.15, r"$e^{\,\mathrm{score}}$", weight="bold", va="bottom")
    cells(ax, p[:, None].tolist(), origin=(9.9, 0), color=COLORS.p, fmt="{:.2f}", label="weight p")
    cells(ax, v.tolist(), origin=(14.6, 0), color=COLORS.v, label="values")
    for j, share in enumerate(p.tolist()):
        ax.barh(-j - 0.5, 1.9 * share, left=11.05, height=0.5, color=COLORS.p)
    below = -n - 0.7
    cells(ax, total, origin=(6.9, below), color=COLORS.sum, fmt="{:.2f}", fontsize=9)
    cells(ax, [[p.sum().item()]], origin=(9.9, below), color=COLORS.idle, fmt="{:.2f}")
    cells(ax, [o.tolist()], origin=(14.6, below), color=COLORS.out, fmt="{:.2f}", fontsize=9)
    ax.text(6.75, below - 0.5, "sum", ha="right", va="center")
    ax.text(14.45, below - 0.5, "output o", ha="right", va="center", weight="bold")
    middle = -n / 2
    for x, text in ((2.2, "q · k"), (5.2, "exp"), (8.0, "÷ sum")):
        arrow(ax, (x, middle), (x + 1.6, middle))
        ax.text(x + 0.8, middle + 0.2, text, ha="center", va="bottom", color=COLORS.muted)
    arrow(ax, (13.0, middle), (14.5, middle))
    ax.text(13.75, middle + 0.2, "p × v", ha="center", va="bottom", color=COLORS.muted)
    arrow(ax, (15.6, -n - 0.05), (15.6, below + 0.02))
    ax.text(15.75, (below - n) / 2, "add up", va="center", color=COLORS.muted, fontsize=9.5)
    ax.set(xlim=(-0.2, 17.2), ylim=(below - 1.2, 2.9))
    return fig


def exp_ceiling(scores: Tensor, ceiling: float, name: str = "fp16") -> CourseFigure:
    """Where exp(score) and exp(score − max) of these scores lie, and where the dtype's range ends.

    scores: (Lk,); ceiling: the largest number of the dtype called `name`.
    """
    fig, ax = figure(size=(9, 4.0))
    line = torch.linspace(scores.min() - scores.max() - 1, scores.max() + 2, 50)
    ax.plot(line, line.exp(), color=COLORS.grid, zorder=1)
    top = (scores.max() + 2).exp().item()
    ax.axhspan(ceiling, top, color=COLORS.q, alpha=0.13, lw=0)
    left = line[0].item()
    words = f"inf in {name}: above {ceiling:,.0f}"
    ax.text(left, ceiling * 1.6, words, color=COLORS.q, va="bottom")
    ax.axhline(1, color=COLORS.muted, lw=1, ls=":")
    right = line[-1].item()
    ax.text(right, 0.75, "after the shift nothing is above 1", ha="right", va="top",
            color=COLORS.muted, fontsize=9.5)  # fmt: skip
    shifted = scores - scores.max()
    ax.scatter(shifted, shifted.exp(), s=190, color=COLORS.p, zorder=2)
    lost = scores.exp() > ceiling
    ax.scatter(scores[~lost], scores[~lost].exp(), s=70, color=COLORS.score, zorder=3)
    ax.scatter(scores[lost], scores[lost].exp(), s=110, marker="X", color=COLORS.q, zorder=3)
    worst = scores.max().item()
    ax.annotate(
        "", (0.25, 1.7), (worst - 0.2, torch.tensor(worst).exp().item() / 2),
        arrowprops={"arrowstyle": "-|>", "color": COLORS.ink, "lw": 1.4,
                    "connectionstyle": "arc3,rad=-0.22"},
    )  # fmt: skip
    ax.text(worst * 0.62, 26, f"− max = − {worst:g}", ha="left", va="center")
    ax.text(shifted.median() + 0.5, shifted.median().exp() / 3, "exp(score − max)", color=COLORS.p,
            va="top", weight="bold")  # fmt: skip
    ax.text(worst * 0.6, torch.tensor(worst * 0.57).exp() * 6, "exp(score)", ha="right",
            color="#2A7FAF", weight="bold")  # fmt: skip
    ax.set(yscale="log", xlabel="exponent", ylabel="its exponential (log scale)", ylim=(None, top))
    return fig


def _mask_panel(ax: Axes, mask: Tensor, right: Tensor, title: str) -> None:
    Lq, Lk = mask.shape
    fills = [[COLORS.score if see else COLORS.mask for see in row] for row in mask.tolist()]
    wrong = (mask != right).tolist()
    cells(ax, [["×" if bad else "" for bad in row] for row in wrong], colors=fills, fontsize=15)
    ax.text(0, 1.15, title, weight="bold", va="bottom", fontsize=11.5)
    for j in range(Lk):
        new = j >= Lk - Lq
        ax.text(j + 0.5, 0.15, str(j), ha="center", va="bottom", fontsize=10,
                color=COLORS.q if new else COLORS.k, weight="bold")  # fmt: skip
    for i in range(Lq):
        ax.text(-0.2, -i - 0.5, f"query {i}\n(token {i + Lk - Lq})", ha="right", va="center",
                fontsize=9.5, color=COLORS.q, linespacing=1.1)  # fmt: skip
    ax.set(xlim=(-2.3, Lk + 0.1), ylim=(-Lq - 0.8, 1.9))
    bare(ax).set_aspect("equal")


def causal_corners(right: Tensor, wrong: Tensor) -> CourseFigure:
    """Two causal masks `(Lq, Lk)` side by side, blue = may see; a × where the second is wrong."""
    fig, axes = figure(1, 2, size=(9.2, 0.62 * right.shape[0] + 1.5))
    _mask_panel(axes[0], right, right, "bottom-right: what attention means")
    _mask_panel(axes[1], wrong, right, "top-left: × is wrong")
    Lq, Lk = right.shape
    if Lk > Lq:
        cached, new = (Lk - Lq) / 2, Lk - Lq / 2
        style = {"ha": "center", "va": "top"}
        axes[0].text(cached, -Lq - 0.15, f"{Lk - Lq} cached tokens", color=COLORS.k, **style)
        axes[0].text(new, -Lq - 0.15, "new", color=COLORS.q, **style)
    return fig


def head_sharing(Hq: int, Hkv: Sequence[int]) -> CourseFigure:
    """Which KV head each of `Hq` query heads reads, for several numbers of KV heads (≤ 8)."""
    fig, axes = figure(1, len(Hkv), size=(3.4 * len(Hkv), 2.9))
    for ax, shared in zip(axes, Hkv, strict=True):
        G = Hq // shared
        for h in range(Hq):
            color = SPLITS[h // G]
            middle = (h // G) * G + G / 2
            ax.plot([h + 0.5, middle], [2.2, 1.02], color=color, lw=1.8, zorder=1)
            ax.scatter(h + 0.5, 2.2, s=290, color=color, zorder=2)
            ax.text(h + 0.5, 2.19, str(h), ha="center", va="center", color=text_on(color), size=9.5)
        for kv in range(shared):
            x = kv * G + G / 2
            box(ax, x - 0.42, 0.4, 0.84, 0.62, str(kv), SPLITS[kv])
        kind = {Hq: "MHA", 1: "MQA"}.get(shared, "GQA")
        ax.text(0, 2.75, f"{kind}   Hkv = {shared}, G = {G}", weight="bold", fontsize=11.5)
        if ax is axes[0]:
            ax.text(-0.2, 2.2, "query\nheads", ha="right", va="center", color=COLORS.muted)
            ax.text(-0.2, 0.7, "KV\nheads", ha="right", va="center", color=COLORS.muted)
        ax.set(xlim=(-1.6 if ax is axes[0] else -0.1, Hq + 0.1), ylim=(0.3, 3.0))
        bare(ax)
    return fig


def score_memory(
    lengths: Sequence[int], scores: Sequence[int], inputs: Sequence[int], card: float
) -> CourseFigure:
    """Bytes of all score matrices and of q, k, v, o against length, beside a GPU's memory.

    scores, inputs: bytes at each of `lengths`; card: the GPU's memory in bytes.
    """
    fig, ax = figure(size=(9, 4.2))
    ax.plot(lengths, scores, marker="o", color="#2A7FAF")
    ax.plot(lengths, inputs, marker="o", color=COLORS.v)
    ax.axhline(card, color=COLORS.q, lw=1.3, ls="--")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.text(lengths[0], card * 1.25, f"all the memory of one {card / 1e9:.0f} GB GPU",
            color=COLORS.q, va="bottom")  # fmt: skip
    style = {"ha": "right", "textcoords": "offset points", "weight": "bold"}
    end = (lengths[-2], scores[-2])
    ax.annotate("scores: N × N per head", end, (-14, 8), color="#2A7FAF", **style)
    end = (lengths[-1], inputs[-1])
    ax.annotate("q, k, v and o together", end, (4, -44), color=COLORS.v, **style)
    ax.set_xticks(lengths)
    ax.minorticks_off()
    tokens(ax.xaxis)
    ax.set_yticks([1024**2 * 32**i for i in range(5)])
    bytes_(ax.yaxis)
    ax.grid(axis="y", lw=0.8)
    ax.set(xlabel="tokens N", ylabel="memory", ylim=(min(inputs) / 3, max(scores) * 4))
    return fig


def verdicts(answers: Sequence[tuple[str, float, Closeness]]) -> CourseFigure:
    """Answers judged twice: by cosine (a number on the right) and by error over allowed error.

    answers: (label, cosine to the oracle, closeness), drawn from top to bottom.
    """
    fig, ax = figure(size=(9, 0.62 * len(answers) + 1.4))
    for row, (_, cosine, c) in enumerate(answers):
        share = c.max_error / (c.max_ratio * c.baseline_max + c.band)
        color = COLORS.v if c.ok else COLORS.q
        ax.plot([1, share], [row, row], color=color, lw=2.5)
        ax.scatter(share, row, s=90, color=color, marker="o" if c.ok else "X", zorder=3)
        ax.text(1.04, row, f"{cosine:.2f}", transform=ax.get_yaxis_transform(), va="center")
        shown = f"{share:.2g} ×" if share < 10 else f"{share:.0f} ×"
        offset, side = ((8, 0), "left") if share > 1 else ((-8, 0), "right")
        ax.annotate(shown, (share, row), offset, textcoords="offset points", ha=side, va="center",
                    color=color)  # fmt: skip
    ax.axvline(1, color=COLORS.ink, lw=1.2)
    ax.text(1, -0.75, "allowed", ha="center", va="bottom")
    ax.text(1.04, -0.75, "cosine", transform=ax.get_yaxis_transform(), va="bottom", weight="bold")
    ax.set_yticks(range(len(answers)), [label for label, _, _ in answers], color=COLORS.ink)
    ax.set(xscale="log", xlabel="worst error ÷ allowed error (log scale)", xlim=(0.02, 3000))
    ax.set_ylim(len(answers) - 0.5, -0.7)
    ax.tick_params(axis="y", length=0)
    return fig
