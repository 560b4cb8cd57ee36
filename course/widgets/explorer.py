"""Sliders and menus for one figure: every widget of the course except the stepper.

A widget is a plain function, `draw(**values)`, that returns a `View`: a figure, and a sentence that
says what to see in it. `explorer` adds a control for each of its arguments. The function is what
gets tested; the controls only call it.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ipywidgets
from matplotlib.figure import Figure

LABEL_WIDTH = "110px"
CONTROL_WIDTH = "420px"


class View(NamedTuple):
    """What a widget shows: a figure from `course.figures`, and what to see in it."""

    figure: Figure
    sentence: str


Draw = Callable[..., View]


@dataclass(frozen=True)
class Steps:
    """A slider that stops at given values. Raises ValueError unless `start` is one of them.

    label: text in front of it. values: in order. shown: format of a value, as in `str.format`.
    """

    label: str
    values: Sequence[Any]
    start: Any
    shown: str = "{:,}"

    def __post_init__(self) -> None:
        _check_start(self)

    def control(self) -> ipywidgets.SelectionSlider:
        """Return the slider."""
        options = [(self.shown.format(value), value) for value in self.values]
        # drawing takes longer than moving the slider: draw where it comes to rest
        return ipywidgets.SelectionSlider(
            options=options, value=self.start, continuous_update=False, **_looks(self.label)
        )


@dataclass(frozen=True)
class Choice:
    """A menu of names. Raises ValueError unless `start` is one of them."""

    label: str
    values: Sequence[str]
    start: str

    def __post_init__(self) -> None:
        _check_start(self)

    def control(self) -> ipywidgets.Dropdown:
        """Return the menu."""
        return ipywidgets.Dropdown(options=self.values, value=self.start, **_looks(self.label))


def page(view: View) -> str:
    """Return the HTML of a view: the figure, and the sentence below it and as its alt text."""
    png = base64.b64encode(view.figure._repr_png_()).decode()
    sentence = html.escape(view.sentence)
    image = f'<img src="data:image/png;base64,{png}" alt="{sentence}" style="max-width: 100%">'
    return f"{image}<p>{sentence}</p>"


def explorer(draw: Draw, **controls: Steps | Choice) -> ipywidgets.VBox:
    """Return controls above the figure that `draw` makes from their values.

    draw: called with every control's value as a keyword, at once and whenever one changes. A
    ValueError that it raises is shown in place of the figure: two controls may not fit together.
    Raises ValueError if there is no control.
    """
    if not controls:
        raise ValueError("explorer needs at least one control; got none")
    made = {name: control.control() for name, control in controls.items()}
    shown = ipywidgets.HTML()

    def show(_change: object = None) -> None:
        values = {name: control.value for name, control in made.items()}
        try:
            shown.value = page(draw(**values))
        except ValueError as trouble:
            shown.value = f"<p>{html.escape(str(trouble))}</p>"

    for control in made.values():
        control.observe(show, names="value")
    show()
    return ipywidgets.VBox([*made.values(), shown])


def _check_start(control: Steps | Choice) -> None:
    if control.start not in control.values:
        raise ValueError(f"{control.label} must start at one of its values; got {control.start!r}")


def _looks(label: str) -> dict[str, Any]:
    """Return the arguments that line up all controls."""
    return {
        "description": label,
        "layout": ipywidgets.Layout(width=CONTROL_WIDTH),
        "style": {"description_width": LABEL_WIDTH},
    }
