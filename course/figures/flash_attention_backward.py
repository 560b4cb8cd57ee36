"""The figure of the backward pass in the lesson on flash attention."""

import math
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course.style import COLORS, arrow, bare, box, figure, text_on

WIDTH, HEIGHT = 2.55, 0.95
SMALL = 0.95  # the width of q and k beside their products
# name: (x, y of the lower left corner, formula, colour)
BOXES = {
    "q, k": (0.0, 4.8, "", COLORS.k),
    "lse": (0.0, 3.6, "", COLORS.sum),
    "v": (0.0, 2.4, "", COLORS.v),
    "do": (0.0, 1.2, "", "#DCC8A0"),  # a lighter o
    "o": (0.0, 0.0, "", COLORS.out),
    "scores": (3.6, 4.8, "scale · q kᵀ", COLORS.score),
    "p": (3.6, 3.6, "exp(scores − lse)", "#E3AFCB"),
    "dp": (3.6, 2.1, "do vᵀ", "#F3D5E6"),
    "delta": (3.6, 0.3, "rowsum(do ∘ o)", COLORS.max),
    "dv": (7.2, 4.2, "pᵀ do", COLORS.v),
    "ds": (7.2, 2.1, "p ∘ (dp − delta)", COLORS.score),
    "k": (11.0, 4.2, "", COLORS.k),
    "q": (11.0, 0.0, "", COLORS.q),
    "dq": (10.2, 2.7, "scale · ds k", COLORS.q),
    "dk": (10.2, 1.5, "scale · dsᵀ q", COLORS.k),
}
ARROWS = [
    ("q, k", "scores"), ("lse", "p"), ("v", "dp"), ("do", "dp"), ("do", "delta"),
    ("o", "delta"), ("p", "dv"), ("p", "ds"), ("dp", "ds"), ("delta", "ds"),
    ("ds", "dq"), ("ds", "dk"),
]  # fmt: skip
COLUMNS = {0.0: "kept, or arriving", 3.6: "rebuilt, tile by tile", 7.2: "gradients"}


def backward_flow(values: Mapping[str, Tensor]) -> Figure:
    """How the gradients of one tile come about, with the reader's own numbers in the boxes.

    values: tensors of one or two entries for scores, lse, p, v, o, do, dp, delta, ds, dv, dq, dk.
    """
    fig, ax = figure(size=(9.0, 4.7))
    bare(ax).set(xlim=(-0.1, 12.85), ylim=(-0.2, 6.5))
    for start, end in ARROWS:
        arrow(ax, _edge(start, right=True), _edge(end, right=False))
    x, y, _, _ = BOXES["scores"]
    arrow(ax, (x + WIDTH / 2, y), (x + WIDTH / 2, BOXES["p"][1] + HEIGHT))
    for name, product, up in (("k", "dq", False), ("q", "dk", True)):
        start, end = BOXES[name], BOXES[product]
        middle = start[0] + SMALL / 2
        rise = (HEIGHT, 0) if up else (0, HEIGHT)
        arrow(ax, (middle, start[1] + rise[0]), (middle, end[1] + rise[1]))
    for name in BOXES:
        _box(ax, name, values.get(name))
    for x, text in COLUMNS.items():
        ax.text(x, 6.1, text, weight="bold", va="center")
    return fig


def _edge(name: str, right: bool) -> tuple[float, float]:
    x, y, *_ = BOXES[name]
    return x + (WIDTH if right else 0), y + HEIGHT / 2


def _number(n: float, logarithm: bool) -> str:
    """Format a number; the logarithm of a small integer as log 3, which says more than 1.1."""
    power = round(math.exp(n)) if logarithm and 0 < n < 3 else 0
    if power > 1 and abs(n - math.log(power)) < 1e-6:
        return f"log {power}"
    return f"{n:.3g}".replace("-", "−")


def _box(ax: Axes, name: str, value: Tensor | None) -> None:
    x, y, formula, fill = BOXES[name]
    width = SMALL if name in ("q", "k") else WIDTH
    lines = [f"{name} = {formula}" if formula else name]
    if value is not None:
        shown = [_number(n, name in ("scores", "lse")) for n in value.flatten().tolist()]
        numbers = ", ".join(shown)
        lines.append(f"({numbers})" if value.numel() > 1 else numbers)
    box(ax, x, y, width, HEIGHT, "", fill)
    for n, line in enumerate(lines):
        rise = HEIGHT / 2 + (0.2 - 0.42 * n if len(lines) > 1 else 0)
        weight = "bold" if n == 0 and not formula else "normal"
        style = {"weight": weight, "fontsize": 9.5, "color": text_on(fill)}
        ax.text(x + width / 2, y + rise, line, ha="center", va="center", **style)
