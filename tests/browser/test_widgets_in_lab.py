"""Every widget of every lesson, in a real JupyterLab: a control is moved, and the figure changes.

`make browser` runs this file; `make test` leaves it out, since it needs a Chromium.
"""

import ast
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from course import widgets

ROOT = Path(__file__).resolve().parents[2]
RUN_MS, DRAW_MS = 240_000, 10_000
CELL = ".jp-Notebook .jp-Cell"
ERROR = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']"
DONE = """error => document.querySelector(error) ||
    [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
        .every(prompt => /\\[\\d+\\]/.test(prompt.textContent))"""

pytestmark = pytest.mark.browser


def widget_cells(path: Path) -> Iterator[tuple[int, str]]:
    """The number of each cell that ends in a call to `widgets`, and the widget's name."""
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type != "code" or "widgets." not in cell.source:
            continue
        last = ast.parse(cell.source).body[-1]
        call = last.value.func if isinstance(last, ast.Expr) else None
        if isinstance(call, ast.Attribute) and ast.unparse(call.value) == "widgets":
            yield number, call.attr


LESSONS = {
    path.relative_to(ROOT).as_posix(): found
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    if (found := list(widget_cells(path)))
}


def test_every_widget_is_in_a_lesson():
    used = {name for found in LESSONS.values() for _, name in found}
    assert used == set(widgets.__all__)


@pytest.mark.parametrize("path", LESSONS)
def test_moving_a_control_changes_the_figure(path, lab, chromium):
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(lab % path)
    page.wait_for_selector(CELL, timeout=90_000)
    run_all(page)
    errors = page.locator(ERROR)
    assert errors.count() == 0, errors.first.inner_text()
    for number, name in LESSONS[path]:
        cell = page.locator(CELL).nth(number)
        output = cell.locator(".jp-OutputArea-output .jupyter-widgets")
        output.first.scroll_into_view_if_needed(timeout=DRAW_MS)
        for control in controls(cell):
            moved(cell, control, f"{path}: {name}")
    page.close()


def run_all(page) -> None:
    """Run all cells, and wait until each has its number, or one has failed."""
    page.wait_for_selector("[data-status='idle']", state="attached", timeout=90_000)  # the kernel
    page.click("text=Run >> nth=0")
    page.click("text=Run All Cells >> nth=0")
    page.wait_for_function(DONE, arg=ERROR, timeout=RUN_MS)


def controls(cell) -> list:
    """The slider handles and the menus of a cell's widget; there must be at least one."""
    found = cell.locator(".noUi-handle").all() + cell.locator("select").all()
    assert found, "no slider or menu"
    return found


def moved(cell, control, name: str) -> None:
    """Move a control, the other way if it is at its end: the page must change."""
    shown = cell.locator(".widget-html-content").last
    before = shown.inner_html(timeout=DRAW_MS)
    assert "<img" in before, f"{name}: not a figure but {before[:200]}"
    for step in (1, -1):
        move(control, step)
        until = time.monotonic() + DRAW_MS / 1000
        while time.monotonic() < until:
            if shown.inner_html() != before:
                return
            cell.page.wait_for_timeout(100)
    pytest.fail(f"{name}: the figure does not follow its control")


def move(control, step: int) -> None:
    """Move a slider or a menu by one step; a menu wraps from its end to its start."""
    if control.evaluate("element => element.tagName") == "SELECT":
        chosen, most = control.evaluate("element => [element.selectedIndex, element.length]")
        control.select_option(index=(chosen + step) % most)
    else:
        control.focus()
        control.press("ArrowRight" if step > 0 else "ArrowLeft")
