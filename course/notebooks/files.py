"""Where the notebooks are, how they are read, and the one form in which they are stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},  # no version: every machine would write its own
}
WIDGET = "application/vnd.jupyter.widget-view+json"


def notebooks(kind: str) -> list[Path]:
    """Return the notebooks of "notebooks", "solutions" or "exercises", in order."""
    return sorted((ROOT / kind).glob("[0-9][0-9]_*.ipynb"))


def read(path: Path) -> NotebookNode:
    """Return a notebook in the current format. Raises ValueError if the file is not one."""
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise ValueError(f"{path.name} is not a notebook: {error}") from error


def text(nb: NotebookNode) -> str:
    """Return the notebook as it is stored: valid, and the same text for the same notebook."""
    nbformat.validate(nb)
    return nbformat.writes(nb, version=4).rstrip("\n") + "\n"


def normalise(nb: NotebookNode) -> NotebookNode:
    """Remove in place what differs from run to run or machine to machine; return the notebook.

    Removed are Python's version, widget state and views, execution times, Jupyter's own marks.
    """
    nb.metadata = nbformat.from_dict(METADATA)
    for cell in nb.cells:
        for key in ("execution", "ExecuteTime", "collapsed", "scrolled", "jupyter", "trusted"):
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    return nb


@dataclass(frozen=True)
class Asked:
    """One exercise in a solutions notebook: its text, its solution cell, its check cell."""

    exercise_id: str  # "3.2"
    text: str  # the markdown from its heading to its solution cell
    solution: NotebookNode
    check: NotebookNode | None


def grade_id(cell: NotebookNode) -> str:
    """Return nbgrader's id of a cell, such as "ex_3_2", or ""."""
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def asked(nb: NotebookNode) -> Iterator[Asked]:
    """Yield the exercises of a notebook of solutions or exercises, in order."""
    ids = {grade_id(cell): cell for cell in nb.cells}
    prose: list[str] = []
    for cell in nb.cells:
        found = re.fullmatch(r"ex_(\d+)_(\d+)", grade_id(cell))
        if cell.cell_type == "markdown":
            heading = re.search(r"^### Exercise ", cell.source, re.M)
            prose = [cell.source] if heading else [*prose, cell.source]
        elif found:
            number = f"{found[1]}.{found[2]}"
            yield Asked(number, "\n".join(prose), cell, ids.get(f"check_{found[1]}_{found[2]}"))
            prose = []
