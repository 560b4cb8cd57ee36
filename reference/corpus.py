"""The text that the small model learns from: this course's own.

The prose of the lessons (but for two) and the docstrings of `reference` and `kernels`, collected
from the current checkout in a fixed order and cut into pieces; every 25th piece is held out.
"""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIECE = 1500
"""Minimum bytes per piece: a few paragraphs that belong together."""
HOLD_OUT = 25
UNSEEN = ("11_precision.ipynb", "12_paged_kv_cache.ipynb")
"""Lessons that no model learns from: `python -m benchmarks quality` measures on their prose."""


def lesson_prose(notebook: Path) -> str:
    """The markdown cells of a notebook, one after the other."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return "\n\n".join(source.strip() for source in sources)


def docstrings(module: Path) -> str:
    """The docstrings of a module, its classes and functions, in the order of the file."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [
        node
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, kinds)
    ]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    return "\n\n".join(text for node in nodes if (text := ast.get_docstring(node)))


def documents(root: Path = ROOT) -> Iterator[str]:
    """The lessons but UNSEEN, then the modules of `reference` and `kernels`, sorted by name.

    Raises FileNotFoundError if there are no lessons: an installed package has none.
    """
    lessons = sorted((root / "notebooks").glob("*.ipynb"))
    if not lessons:
        raise FileNotFoundError(f"no notebooks in {root}: train from a checkout of the course")
    yield from (lesson_prose(lesson) for lesson in lessons if lesson.name not in UNSEEN)
    for package in ("reference", "kernels"):
        yield from filter(None, map(docstrings, sorted((root / package).glob("*.py"))))


def pieces(document: str, size: int = PIECE) -> Iterator[str]:
    """Cut a document between paragraphs into pieces of at least `size` bytes (except the last)."""
    piece = ""
    for paragraph in document.split("\n\n"):
        piece += paragraph.strip("\n") + "\n\n"
        if len(piece.encode()) >= size:
            yield piece
            piece = ""
    if piece:
        yield piece


def collect(root: Path = ROOT) -> tuple[bytes, bytes]:
    """The training text and the held-out text, UTF-8; every HOLD_OUT-th piece is held out."""
    parts = [piece for document in documents(root) for piece in pieces(document)]
    held_out = parts[HOLD_OUT // 2 :: HOLD_OUT]
    training = [part for i, part in enumerate(parts) if i % HOLD_OUT != HOLD_OUT // 2]
    return "".join(training).encode(), "".join(held_out).encode()
