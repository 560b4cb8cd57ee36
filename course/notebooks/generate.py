"""Make exercises/ from solutions/, with nbgrader's own preprocessors.

A cell tagged `answers-only` (say, a remark on the solution) is left out of the exercises. The
checksums that nbgrader adds for a class are left to `nbgrader generate_assignment`.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode
from nbgrader.preprocessors import CheckCellMetadata, ClearOutput, ClearSolutions, LockCells

from course.notebooks.answers import answered, digest, sources
from course.notebooks.copies import write
from course.notebooks.files import ROOT, normalise, notebooks, read, text
from course.notebooks.history import committed, staged, tracked

ANSWERS_ONLY = "answers-only"
MADE = ".jupyter/generated.json"
GENERATE = "run `make exercises`"
KEPT = (
    "it has answers or notes in it, and `make exercises` does not overwrite them. Keep yours in"
    " work/exercises/; `git restore exercises` brings the course's back"
)


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
    """Write the exercises for these solution notebooks; return 1 if one of them was kept instead.

    Kept is what was not generated: an exercise notebook with somebody's answers or notes in it.
    Exercises without a solution notebook are removed if they are ours.
    """
    made, kept = _made(), []
    for path in paths:
        goal = target(path)
        content = text(exercise_from(read(path))).encode()
        if goal.exists() and digest(goal.read_bytes()) != digest(content) and not ours(goal, made):
            kept.append(goal)
            continue
        write(goal, content)
        made[goal.name] = digest(content)
        print(f"{goal.relative_to(ROOT)}")
    for orphan in orphans():
        if not ours(orphan, made):
            kept.append(orphan)
            continue
        orphan.unlink()
        made.pop(orphan.name, None)
        print(f"{orphan.relative_to(ROOT)} removed: it has no solution notebook")
    write(ROOT / MADE, json.dumps(made, indent=1).encode())
    for goal in kept:
        print(f"{goal.relative_to(ROOT)} kept: {KEPT}")
    return 1 if kept else 0


def ours(goal: Path, made: dict[str, str]) -> bool:
    """Say whether nothing is lost with an exercise notebook: git has it, or it was generated."""
    content, name = goal.read_bytes(), goal.relative_to(ROOT).as_posix()
    if made.get(goal.name) == digest(content):
        return True
    written = sources(content)
    stored = (look(ROOT, name) for look in (committed, staged))
    return (
        written is not None
        and not answered(content)
        and any(written == sources(found) for found in stored if found)
    )


def _made() -> dict[str, str]:
    """Return {name: digest} of the exercises generated here since the last `make clean`."""
    try:
        return dict(json.loads((ROOT / MADE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def orphans() -> list[Path]:
    """Return the exercise notebooks without a solution, save those that git does not track."""
    solved, known, made = {target(path) for path in notebooks("solutions")}, tracked(ROOT), _made()
    return [
        path
        for path in notebooks("exercises")
        if path not in solved
        and (known is None or path.relative_to(ROOT).as_posix() in known or path.name in made)
    ]


def drifted(paths: list[Path]) -> list[str]:
    """Return a sentence for each exercise notebook that differs from what would be generated.

    It says what mends it: `make exercises`, or git where the notebook is no longer the course's.
    """
    made = _made()
    complaints = [
        f"exercises/{path.name} has no solution notebook: {GENERATE if ours(path, made) else KEPT}"
        for path in orphans()
    ]
    for path in paths:
        goal = target(path)
        if not goal.exists():
            complaints.append(f"exercises/{path.name} is missing: {GENERATE}")
            continue
        wanted = text(exercise_from(read(path))).encode()
        if digest(goal.read_bytes()) != digest(wanted):
            mend = GENERATE if ours(goal, made) else KEPT
            complaints.append(
                f"exercises/{path.name} is not what solutions/{path.name} generates: {mend}"
            )
    return complaints
