"""Make exercises/ from solutions/, with nbgrader's own preprocessors.

A cell tagged `answers-only` (say, a remark on the solution) is left out of the exercises. The
checksums that nbgrader adds for a class are left to `nbgrader generate_assignment`.
"""

from __future__ import annotations

import copy
from pathlib import Path

from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode
from nbgrader.preprocessors import CheckCellMetadata, ClearOutput, ClearSolutions, LockCells

from course.notebooks.files import ROOT, normalise, notebooks, read, text

ANSWERS_ONLY = "answers-only"


def exercise_from(solution: NotebookNode) -> NotebookNode:
    """Return the exercise notebook of a solution notebook: solutions and outputs cleared.

    Raises whatever nbgrader raises, for example for invalid metadata or unpaired markers.
    """
    nb, resources = copy.deepcopy(solution), {}
    for preprocessor in (
        TagRemovePreprocessor(remove_cell_tags={ANSWERS_ONLY}),
        CheckCellMetadata(),
        ClearSolutions(),
        LockCells(),
        ClearOutput(),
    ):
        nb, resources = preprocessor.preprocess(nb, resources)
    return normalise(nb)


def target(solution: Path) -> Path:
    """Return the path of the exercise notebook that comes from a solution notebook."""
    return ROOT / "exercises" / solution.name


def generate(paths: list[Path]) -> int:
    """Write the exercises for these solution notebooks; remove exercises that have no solution."""
    for path in paths:
        goal = target(path)
        goal.parent.mkdir(exist_ok=True)
        goal.write_text(text(exercise_from(read(path))), encoding="utf-8")
        print(f"{goal.relative_to(ROOT)}")
    for orphan in orphans():
        orphan.unlink()
        print(f"{orphan.relative_to(ROOT)} removed: it has no solution notebook")
    return 0


def orphans() -> list[Path]:
    """Return the exercise notebooks without a solution notebook."""
    kept = {target(path) for path in notebooks("solutions")}
    return [path for path in notebooks("exercises") if path not in kept]


def drifted(paths: list[Path]) -> list[str]:
    """Return a sentence for each exercise notebook that differs from what would be generated."""
    complaints = [f"exercises/{path.name} has no solution notebook" for path in orphans()]
    for path in paths:
        goal = target(path)
        if not goal.exists():
            complaints.append(f"exercises/{path.name} is missing")
        elif goal.read_text(encoding="utf-8") != text(exercise_from(read(path))):
            complaints.append(f"exercises/{path.name} is not what solutions/{path.name} generates")
    return complaints
