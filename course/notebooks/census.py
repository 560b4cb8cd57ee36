"""How much course is there? Counted from the notebooks and the specs, not from a list."""

from __future__ import annotations

import re

from course.check import catalogue
from course.notebooks.files import asked, notebooks, read


def census() -> dict[str, dict[str, int]]:
    """Return {lesson: {what: how many}}, each lesson named after its notebook, "03_…"."""
    table = {}
    for path in notebooks("notebooks"):
        nb, number = read(path), path.name[:2]
        code = [cell.source for cell in nb.cells if cell.cell_type == "code"]
        prose = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
        table[path.stem] = {
            "words": len(re.findall(r"\w+", prose)),
            "code cells": len(code),
            "figures": sum(len(re.findall(r"\bfigures\.\w+\(", source)) for source in code),
            **_exercises(number),
        }
    return table


def _exercises(lesson: str) -> dict[str, int]:
    written = [path for path in notebooks("solutions") if path.name.startswith(lesson)]
    specs = catalogue.exercises(lesson) if lesson in catalogue.lessons() else ()
    return {
        "exercises": sum(1 for path in written for _ in asked(read(path))),
        "checks": sum(len(spec.properties) for spec in specs),
        "mistakes": sum(len(spec.mistakes) for spec in specs),
    }


def show() -> int:
    """Print the census as a table with totals."""
    table = census()
    if not table:
        print("There are no lessons yet.")
        return 0
    columns = list(next(iter(table.values())))
    rows = [*table.items(), ("all", {c: sum(row[c] for row in table.values()) for c in columns})]
    width = max(len(name) for name, _ in rows)
    print(" " * width, *(f"{c:>10}" for c in columns))
    for name, row in rows:
        print(name.ljust(width), *(f"{row[c]:>10,}" for c in columns))
    return 0
