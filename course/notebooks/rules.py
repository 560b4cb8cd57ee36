"""The rules that every notebook follows; those of lessons and of exercises are in `rules_of_kinds`.

A rule takes a notebook and yields findings. An error fails the tests; a warning is advice.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nbformat import NotebookNode

from course.notebooks.files import grade_id

LINES = {"": 12, "the-function": 20, "solution": 60}  # of code, at most, by the cell's role
MACHINE_PATH = re.compile(
    r"(?<![\w.:/-])/(?:home|Users|root|tmp|var|mnt|opt|work|workspace|private)/\w"
    r"|[A-Z]:\\\\?(?:Users|Program)|site-packages|ipykernel_\d"
)
ADDRESS = re.compile(r"\b0x[0-9a-f]{8,}\b")


@dataclass(frozen=True)
class Finding:
    """What breaks a rule, and in which cell ("" for the notebook as a whole)."""

    cell: str
    message: str
    error: bool = True


Rule = Callable[[NotebookNode], Iterator[Finding]]


def cells(nb: NotebookNode, kind: str) -> list[NotebookNode]:
    """Return the cells of one kind, "code" or "markdown"."""
    return [cell for cell in nb.cells if cell.cell_type == kind]


def ids(nb: NotebookNode) -> Iterator[Finding]:
    """Every cell has an id, and ids are unique."""
    for name, times in Counter(cell.get("id", "") for cell in nb.cells).items():
        if not name:
            yield Finding("", f"{times} cells have no id")
        elif times > 1:
            yield Finding(name, f"{times} cells have this id")


def metadata(nb: NotebookNode) -> Iterator[Finding]:
    """Nothing is stored about the machine that ran it."""
    if "version" in nb.metadata.get("language_info", {}) or "widgets" in nb.metadata:
        yield Finding("", "Python's version or widget state is stored: use course.notebooks run")
    for cell in nb.cells:
        if {"execution", "ExecuteTime"} & cell.metadata.keys():
            yield Finding(cell.id, "execution times are stored: use course.notebooks run")


def lengths(nb: NotebookNode) -> Iterator[Finding]:
    """One idea per cell: 12 lines; 20 for the lesson's own function, 60 for a solution."""
    for cell in cells(nb, "code"):
        role = "the-function" if "the-function" in cell.metadata.get("tags", []) else ""
        role = "solution" if grade_id(cell).startswith("ex_") else role
        lines = [line for line in cell.source.splitlines() if line.strip()]
        count = sum(not line.strip().startswith(("# NBVAL", "### ")) for line in lines)
        if count > LINES[role]:
            yield Finding(cell.id, f"{count} lines of code; at most {LINES[role]} are allowed")


def words_on_figures(nb: NotebookNode) -> Iterator[Finding]:
    """A figure is followed by text that says what to see."""
    for cell, after in zip(nb.cells, [*nb.cells[1:], None], strict=True):
        drawn = cell.cell_type == "code" and _ends_in_figure(cell.source)
        if drawn and (after is None or after.cell_type != "markdown"):
            yield Finding(cell.id, "no text after this figure says what to see in it")


def _ends_in_figure(source: str) -> bool:
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a magic; it draws none of our figures
        return False
    last = body[-1] if body else None
    return isinstance(last, ast.Expr) and ast.unparse(last).startswith("figures.")


def machine_paths(nb: NotebookNode) -> Iterator[Finding]:
    """No path and no address of the machine that ran it, in cells or outputs."""
    for cell in nb.cells:
        shown = [("cell", cell.source)] + [("output", t) for t in output_texts(cell)]
        for where, text in shown:
            if found := MACHINE_PATH.search(text):
                yield Finding(cell.id, f"a path on one machine in the {where}: {found[0]}…")
            if where == "output" and (found := ADDRESS.search(text)):
                yield Finding(cell.id, f"a memory address in the output: {found[0]}")


def output_texts(cell: NotebookNode) -> list[str]:
    """Return what a cell printed, as strings."""
    texts = []
    for output in cell.get("outputs", []):
        texts.append(output.get("text", ""))
        texts += [v for k, v in output.get("data", {}).items() if k.startswith("text/")]
    return ["".join(t) for t in texts]


def executed(nb: NotebookNode) -> Iterator[Finding]:
    """Run from top to bottom in a fresh kernel without an error, and stored that way."""
    counts = [cell.execution_count for cell in cells(nb, "code") if cell.source.strip()]
    if counts != list(range(1, len(counts) + 1)):
        yield Finding("", "not stored as run from top to bottom: use course.notebooks run")
    for cell in cells(nb, "code"):
        allowed = {"raises-exception", "nbval-raises-exception"} & {*cell.metadata.get("tags", [])}
        allowed |= {m for m in ("# NBVAL_RAISES_EXCEPTION",) if m in cell.source}
        for output in cell.outputs:
            if output.output_type == "error" and not allowed:
                yield Finding(cell.id, f"it raised {output.ename}")
            if output.output_type == "stream" and output.name == "stderr":
                yield Finding(cell.id, f"it wrote to stderr: {output.text.strip()[:60]}")


EVERYWHERE: tuple[Rule, ...] = (
    ids,
    metadata,
    lengths,
    words_on_figures,
    machine_paths,
    executed,
)
