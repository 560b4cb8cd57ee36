"""A course of one lesson, 03_double, for tests of what happens to learners' copies of it."""

from pathlib import Path

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, writes

STUB = "def f(x):\n    raise NotImplementedError()"
ANSWER = "def f(x):\n    return 2 * x"
LESSON, EXERCISE = "notebooks/03_double.ipynb", "exercises/03_double.ipynb"


def notebook(*code: str, text: str = "first version", ran: bool = False) -> bytes:
    """A small notebook; its code cells are solution cells, as nbgrader marks them."""
    marks = {"nbgrader": {"grade_id": "ex_3_1", "solution": True}}
    cells = [new_markdown_cell(text, id="text")]
    cells += [new_code_cell(code, id=f"c{i}", metadata=marks) for i, code in enumerate(code)]
    if ran:
        for i, cell in enumerate(cells[1:]):
            cell.execution_count = i + 1
            cell.outputs = [new_output("stream", text="ran")]
            cell.metadata = {**marks, "execution": {"iopub.status.busy": "now"}}
        cells.append(new_code_cell("", id="empty"))  # JupyterLab adds it when the last cell is run
    return writes(new_notebook(cells=cells)).encode()


def put(root: Path, name: str, content: bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def lay(root: Path) -> Path:
    """Put the course's three notebooks into a folder, and return it."""
    put(root, LESSON, notebook("print(1)", text="see [it](../reference/a.py)"))
    put(root, EXERCISE, notebook(STUB))
    put(root, "solutions/03_double.ipynb", notebook(ANSWER))
    return root


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
