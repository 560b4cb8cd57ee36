"""Figures of the lesson on speculative decoding: the rule, the tree and its mask, what it gains."""

from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from course.figures.flash_decoding import split_color
from course.style import COLORS, bare, cells, figure, text_on
from reference.speculative import Tree

__all__ = ["acceptance_rule", "draft_tree", "pass_time", "tokens_per_pass"]

BRANCH = 1.75  # the width of a level of the tree, in units of its height


def acceptance_rule(p: Sequence[float], q: Sequence[float], names: Sequence[str]) -> Figure:
    """A model's p and a draft's q, token by token: what is kept, refused and resampled.

    p, q: probabilities of the tokens called `names`.
    """
    fig, (left, right) = figure(1, 2, size=(9.0, 3.4), width_ratios=(2.1, 1), sharey=True)
    kept = [min(a, b) for a, b in zip(p, q, strict=True)]
    at, wide = range(len(names)), 0.36
    q_at, p_at = ([x + side * 0.2 for x in at] for side in (-1, 1))
    for x, heights, color in ((q_at, q, COLORS.p), (p_at, p, COLORS.q)):
        left.bar(x, heights, wide, facecolor=COLORS.card, edgecolor=color, lw=1.6, hatch="////")
        left.bar(x, kept, wide, color=color)
    labels = (
        ("draft q", COLORS.p, ""),
        ("model p", COLORS.q, ""),
        ("only one of them", "", "////"),
    )
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=color or COLORS.card, edgecolor=COLORS.muted, hatch=hatch)
        for _, color, hatch in labels
    ]
    left.legend(handles, [label for label, *_ in labels], fontsize=9)
    left.set(title=f"both: Σ min(p, q) = {sum(kept):.2g}", ylabel="probability")
    missing = [a - b for a, b in zip(p, kept, strict=True)]
    right.bar(at, missing, wide, facecolor=COLORS.card, edgecolor=COLORS.q, lw=1.6, hatch="////")
    right.set(title=f"drawn instead: {sum(missing):.2g}")
    for ax in (left, right):
        ax.set_xticks(list(at), names)
        ax.tick_params(length=0)
    return fig


def draft_tree(
    tree: Tree,
    words: Sequence[str],
    root: str = "",
    accepted: Collection[int] = (),
    title: str = "",
) -> Figure:
    """A tree of drafted tokens, and beside it the mask with which one pass checks all of it.

    words: the nodes' tokens as text; root: that of the text's newest token. accepted: nodes that
    stay; they have a dark frame, and so has the root if there is any. title: above the tree. Slot i
    has one colour on both sides.
    """
    n = len(tree) + 1
    fig, (left, right) = figure(1, 2, size=(9.0, max(2.4, 0.42 * n + 0.9)), width_ratios=(1.25, 1))
    heights = _heights(tree)
    top = max([1.0, *heights.values()])
    bare(left).set(xlim=(-0.7, BRANCH * tree.depth + 0.9), ylim=(top + 0.6, -0.6), title=title)
    depth = {-1: 0, **dict(enumerate(tree.depths))}
    for node, parent in enumerate(tree.parents):
        on = node in accepted
        left.plot(
            [BRANCH * depth[parent], BRANCH * depth[node]], [heights[parent], heights[node]],
            color=COLORS.ink if on else COLORS.mask, lw=2.4 if on else 1.4, zorder=0.5,
        )  # fmt: skip
    for node in range(-1, len(tree)):
        on = node in accepted or (node == -1 and bool(accepted))
        word = root if node < 0 else words[node]
        _node(left, (BRANCH * depth[node], heights[node]), word, node + 1, on)
    _mask(right, tree, [root, *words])
    return fig


def _heights(tree: Tree) -> dict[int, float]:
    """Where each node is drawn: leaves one below the other, parents in the middle of theirs."""
    heights, leaves = {}, 0.0

    def place(node: int) -> float:
        nonlocal leaves
        children = tree.children(node)
        if not children:
            heights[node] = leaves
            leaves += 1.0
        else:
            heights[node] = sum(map(place, children)) / len(children)
        return heights[node]

    place(-1)
    return heights


def _node(ax: Axes, at: tuple[float, float], word: str, slot: int, on: bool) -> None:
    color = split_color(slot)
    edge = {"edgecolor": COLORS.ink, "lw": 2.2} if on else {"lw": 0}
    box = {"boxstyle": "round,pad=0.35", "facecolor": color, **edge}
    ax.text(*at, f"{word}", ha="center", va="center", color=text_on(color), bbox=box)
    ax.text(at[0], at[1] + 0.42, f"slot {slot}", ha="center", va="center", fontsize=7.5,
            color=COLORS.muted)  # fmt: skip


def _mask(ax: Axes, tree: Tree, words: Sequence[str]) -> None:
    """The mask as a grid: row i in the colour of slot i where it may look."""
    n = len(words)
    colors = [
        [split_color(i) if see else COLORS.card for see in row]
        for i, row in enumerate(tree.mask.tolist())
    ]
    bare(ax).set(xlim=(-2.6, n + 0.2), ylim=(-n - 0.3, 1.6), aspect="equal")
    cells(ax, [[""] * n for _ in range(n)], colors=colors)
    ax.add_patch(Rectangle((0, -n), n, n, fill=False, edgecolor=COLORS.mask))
    for i, word in enumerate(words):
        ax.text(-0.2, -i - 0.5, word, ha="right", va="center", fontsize=9)
        ax.text(i + 0.5, 0.2, f"{i}", ha="center", va="bottom", fontsize=9, color=COLORS.muted)
    ax.text(n / 2, 1.1, "sees slot", ha="center", va="bottom", fontsize=9, color=COLORS.muted)


def tokens_per_pass(
    alphas: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    points: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Expected tokens per pass against acceptance: one curve for each length of a draft.

    alphas: where the curves are given. points: by name, measured (acceptance, tokens per pass).
    """
    fig, ax = figure(size=(9.0, 3.8))
    for i, (name, values) in enumerate(curves.items()):
        ax.plot(alphas, values, color=split_color(i))
        ax.text(1.01, values[-1], name, va="center", fontsize=9, color=COLORS.ink)
    for i, (name, (x, y)) in enumerate((points or {}).items()):
        ax.plot([x], [y], "osD^vPX*"[i % 8], color=COLORS.ink, ms=6, label=name, ls="none")
    if points:
        ax.legend(fontsize=8.5, loc="upper left")
    ax.set(xlabel="acceptance α of a drafted token", ylabel="tokens per pass", xlim=(0, 1.16))
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1.0]))
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.axhline(1, color=COLORS.muted, lw=1, ls=":")
    ax.grid(axis="y", lw=0.6)
    return fig


def pass_time(
    queries: Sequence[int],
    modelled: Mapping[str, Sequence[float]],
    measured: Mapping[str, Mapping[int, float]] | None = None,
) -> Figure:
    """The time of a pass against its tokens, in plain steps; above the diagonal nothing can pay.

    queries: where the curves are given. modelled: by name, a ratio for each; measured: by name,
    ratios by number of tokens, drawn as points.
    """
    fig, ax = figure(size=(9.0, 3.9))
    ax.plot(queries, queries, color=COLORS.muted, lw=1, ls=":")
    ax.text(queries[-1], queries[-1], "as long as that many steps", va="bottom", ha="right",
            fontsize=9, color=COLORS.muted, rotation=0)  # fmt: skip
    for i, (name, ratios) in enumerate(modelled.items()):
        ax.plot(queries, ratios, color=split_color(i), label=name)
    for i, (name, points) in enumerate((measured or {}).items()):
        ax.plot(list(points), list(points.values()), "osD^"[i % 4], color=COLORS.ink, ms=5,
                mfc=COLORS.card, label=name)  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="tokens in the pass (draft and root)",
           ylabel="plain steps it takes")  # fmt: skip
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(FixedLocator([1, 2, 4, 8, 16, 32]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.grid(lw=0.6)
    ax.legend(fontsize=8.5)
    return fig
