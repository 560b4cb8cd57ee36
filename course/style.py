"""How every figure in the course looks: palette, sizes, axis units.

The colours are Okabe and Ito's colour-blind safe set (2008), given meanings: keys are always
blue, values always green, and so on, in every lesson. Figures have a light card of their own as
background, so they look the same in a light and in a dark JupyterLab.
"""

import io
import math
from collections.abc import Iterable
from types import SimpleNamespace

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.projections import register_projection
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

COLORS = SimpleNamespace(
    q="#D55E00",  # vermillion
    k="#0072B2",  # blue
    v="#009E73",  # green
    score="#56B4E9",  # sky
    p="#CC79A7",  # purple-pink
    out="#8F5B00",  # brown
    max="#E69F00",  # orange
    sum="#7A5195",  # violet
    mask="#C9C9C4",  # what may not be seen
    idle="#E6E4DE",  # hardware that is doing nothing
    accent="#D55E00",
    ink="#222222",
    muted="#666666",
    grid="#DDDBD4",
    card="#FCFBF8",
)
SPLITS = [
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#7A5195",
    "#8F5B00",
]

SIZES = {"wide": (9.0, 3.4), "square": (5.2, 5.0), "tall": (9.0, 6.4)}

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "axes.edgecolor": COLORS.muted,
    "axes.labelcolor": COLORS.ink,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": COLORS.card,
    "axes.grid": False,
    "grid.color": COLORS.grid,
    "text.color": COLORS.ink,
    "xtick.color": COLORS.muted,
    "ytick.color": COLORS.muted,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "figure.facecolor": COLORS.card,
}


class CourseAxes(Axes):
    """Axes whose titles are bold and left-aligned, in the course's style."""

    name = "course"

    def set_title(self, label: str, *args: object, **options: object) -> Text:
        """Like matplotlib's, with the course's defaults."""
        defaults = {"loc": "left", "fontweight": "bold", "fontsize": 11.5}
        return super().set_title(label, *args, **(defaults | options))


register_projection(CourseAxes)


class CourseFigure(Figure):
    """A matplotlib Figure that shows itself in Jupyter without pyplot's global state."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with matplotlib.rc_context(RC):
            self.savefig(buffer, format="png", dpi=110, bbox_inches="tight", pad_inches=0.12)
        return buffer.getvalue()

    def __repr__(self) -> str:
        """The same on every machine: nbval compares it."""
        return f"<Figure with {len(self.axes)} axes>"


def figure(
    rows: int = 1,
    cols: int = 1,
    size: str | tuple[float, float] = "wide",
    **subplots: object,
) -> tuple[CourseFigure, object]:
    """A new figure in the course's style and its axes (one Axes, or an array as in pyplot).

    size: "wide", "square", "tall", or (width, height) in inches. Further keywords go to
    `Figure.subplots` (sharex, width_ratios, …). Raises ValueError for an unknown size name.
    """
    if isinstance(size, str) and size not in SIZES:
        raise ValueError(f"size must be one of {sorted(SIZES)} or (width, height); got {size!r}")
    with matplotlib.rc_context(RC):
        fig = CourseFigure(
            figsize=SIZES[size] if isinstance(size, str) else size, layout="constrained"
        )
        FigureCanvasAgg(fig)
        subplots["subplot_kw"] = {"projection": "course"} | subplots.get("subplot_kw", {})
        return fig, fig.subplots(rows, cols, **subplots)


def bare(ax: Axes) -> Axes:
    """Turn an Axes into a sheet of paper: no spines, no ticks; for diagrams."""
    ax.set_axis_off()
    return ax


def cells(
    ax: Axes,
    values: Iterable[Iterable[float | str]],
    *,
    origin: tuple[float, float] = (0.0, 0.0),
    color: str | None = None,
    colors: Iterable[Iterable[str]] | None = None,
    fmt: str = "{:g}",
    label: str | None = None,
    cell: float = 1.0,
    fontsize: float = 10,
) -> tuple[float, float]:
    """Draw a matrix as a grid of boxes, row 0 on top; the upper left corner at `origin`.

    values: numbers (formatted by `fmt`) or strings ("" shows nothing). color fills all cells,
    `colors` each one. Returns (width, height). Use on a `bare` Axes with equal aspect.
    """
    rows = [list(r) for r in values]
    fills = None if colors is None else [list(r) for r in colors]
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            fill = fills[i][j] if fills else (color or COLORS.card)
            x, y = origin[0] + j * cell, origin[1] - (i + 1) * cell
            ax.add_patch(Rectangle((x, y), cell, cell, facecolor=fill, edgecolor="white", lw=1.5))
            text = value if isinstance(value, str) else fmt.format(value)
            ax.text(
                x + cell / 2, y + cell / 2, text, ha="center", va="center", fontsize=fontsize,
                color=text_on(fill),
            )  # fmt: skip
    width, height = cell * max(map(len, rows), default=0), cell * len(rows)
    if label:
        ax.text(origin[0], origin[1] + 0.15 * cell, label, ha="left", va="bottom", weight="bold")
    return width, height


def text_on(fill: str) -> str:
    """Black or white, whichever reads better on `fill`."""
    return "white" if luminance(fill) < 0.30 else COLORS.ink


def luminance(color: str | tuple[float, ...]) -> float:
    """The relative luminance of a colour, from 0 (black) to 1 (white), as WCAG 2 defines it."""
    r, g, b = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in matplotlib.colors.to_rgb(color)
    )
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def box(ax: Axes, x: float, y: float, w: float, h: float, text: str, fill: str) -> None:
    """A rounded, labelled box with its lower left corner at (x, y); for diagrams."""
    ax.add_patch(
        FancyBboxPatch(
            (x, y), w, h, boxstyle="round,pad=0,rounding_size=0.08", facecolor=fill, lw=0
        )
    )
    ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", color=text_on(fill))


def arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str = "",
    color: str = COLORS.muted,
) -> None:
    """An arrow from `start` to `end`, with an optional text beside its middle."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.6})
    if text:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        ax.text(x, y, f" {text} ", ha="left", va="center", fontsize=9, color=COLORS.muted)


def seconds(ax_axis: object) -> None:
    """Label an axis that holds seconds as ns, µs, ms or s. Pass `ax.xaxis` or `ax.yaxis`."""
    units = [(1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s")]

    def show(value: float, _: int) -> str:
        if value <= 0:
            return "0" if value == 0 else ""
        size, unit = max((u for u in units if value >= u[0] * 0.999), default=units[0])
        return f"{value / size:g} {unit}"

    ax_axis.set_major_formatter(FuncFormatter(show))


def bytes_(ax_axis: object) -> None:
    """Label an axis that holds bytes in powers of 1024: KiB, MiB, GiB."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]

    def show(value: float, _: int) -> str:
        if value <= 0:
            return "0" if value == 0 else ""
        step = min(int(math.log(value * 1.001, 1024)), 4) if value >= 1 else 0
        return f"{value / 1024**step:g} {units[step]}"

    ax_axis.set_major_formatter(FuncFormatter(show))


def tokens(ax_axis: object) -> None:
    """Label an axis that holds token counts as 512, 4k, 128k, 1M (k = 1024)."""

    def show(value: float, _: int) -> str:
        if value >= 1024**2:
            return f"{value / 1024**2:g}M"
        return f"{value / 1024:g}k" if value >= 1024 else f"{value:g}"

    ax_axis.set_major_formatter(FuncFormatter(show))
