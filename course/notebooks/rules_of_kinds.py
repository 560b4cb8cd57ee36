"""The rules of lessons (their frame) and of exercises (hints, marks, nbgrader's metadata)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from nbformat import NotebookNode

from course.notebooks import links
from course.notebooks.files import ROOT, Asked, asked, grade_id
from course.notebooks.rules import Finding, Rule, cells

# Two parts prose to one part code: at ten words per line, 20 words per line of code. Below 10,
# there is no more prose than code, and the lesson has become a listing.
FEWEST_WORDS = 10
PROMISE = 200  # characters: one line on a screen, or nearly
SCALE = r"[●○]{3}"
HEADING = re.compile(r"^### Exercise (\d+\.\d+) · ([^`\n]+?)\s*(?:`|$)", re.M)
RATING = re.compile(rf"difficulty {SCALE}\s+·\s+importance {SCALE}\s+·\s+\d+ min")
SOLUTION = {"grade": False, "locked": False, "schema_version": 3, "solution": True, "task": False}
CHECK = {"grade": True, "locked": True, "schema_version": 3, "solution": False, "task": False}


def lesson_rules(path: Path) -> tuple[Rule, ...]:
    """Return the rules of a lesson, for the notebook at `path`."""
    return partial(frame, path=path), ending, prose, *ways(path)


def solution_rules(path: Path) -> tuple[Rule, ...]:
    """Return the rules of a notebook of exercises with their solutions."""
    return partial(front, path=path), every_exercise, markers, imports_first, *ways(path)


def ways(path: Path) -> tuple[Rule, ...]:
    """Return the rules of the links, for the notebook at `path`."""
    return partial(links.resolve, path=path), partial(links.way, path=path)


def frame(nb: NotebookNode, path: Path) -> Iterator[Finding]:
    """H1 · one-line promise · "You will be able to" · needs and minutes · H2 sections."""
    yield from title(nb, path)
    code = next((i for i, cell in enumerate(nb.cells) if cell.cell_type == "code"), len(nb.cells))
    opening = "\n".join(cell.source for cell in nb.cells[:code])
    if "you will be able to" not in opening.lower():
        yield Finding("", 'before the first code, "You will be able to" is missing')
    if not re.search(r"(?im)^.*\bneeds\b.*\b\d+ min", opening):
        yield Finding("", 'no line with needs and minutes, such as "**Needs** lesson 01 · 40 min"')
    if len(headings(nb)) < 4:
        yield Finding("", f"{len(headings(nb))} H2 sections; a lesson has at least 4")
    exercises = f"](../exercises/{path.name})"
    if (ROOT / "solutions" / path.name).exists() and exercises not in whole(nb):
        yield Finding("", f"no link to its exercises: {exercises[1:]}")


def title(nb: NotebookNode, path: Path) -> Iterator[Finding]:
    """The first cell is an H1 with the number; a promise of one line follows."""
    first = nb.cells[0] if nb.cells else None
    lines = [line for line in (first.source if first else "").splitlines() if line.strip()]
    if first is None or first.cell_type != "markdown" or not lines:
        yield Finding("", "the first cell must be a title")
        return
    if not re.match(rf"# .*{path.name[:2]}\b", lines[0]):
        yield Finding(first.id, f'the title must be an H1 with the number: "# {path.name[:2]} · …"')
    follow = [line for cell in cells(nb, "markdown")[:2] for line in cell.source.splitlines()]
    follow = [line for line in follow if line.strip() and line != lines[0]]
    if not follow or follow[0].startswith(("#", "-", "|", "!")) or len(follow[0]) > PROMISE:
        yield Finding(first.id, "a promise of one line must follow the title")


def headings(nb: NotebookNode) -> list[str]:
    """Return the texts of all H2 headings, in order."""
    return re.findall(r"^## +(.+?)\s*$", whole(nb), re.M)


def whole(nb: NotebookNode) -> str:
    """Return all markdown of a notebook."""
    return "\n".join(cell.source for cell in cells(nb, "markdown"))


def ending(nb: NotebookNode) -> Iterator[Finding]:
    """A lesson ends with a recap and its sources."""
    found = headings(nb)
    for wanted in ("Recap", "Sources"):
        if wanted not in found:
            yield Finding("", f'the section "## {wanted}" is missing')
    if {"Recap", "Sources"} <= {*found} and found.index("Recap") > found.index("Sources"):
        yield Finding("", "the recap must come before the sources")


def prose(nb: NotebookNode) -> Iterator[Finding]:
    """About two parts prose to one part code; only a warning."""
    lines = sum(len(cell.source.splitlines()) for cell in cells(nb, "code"))
    words = len(whole(nb).split())
    if words < FEWEST_WORDS * lines:
        ratio = f"{words} words for {lines} lines of code"
        yield Finding(
            "", f"{ratio}: under {FEWEST_WORDS} per line, a lesson reads like a listing", False
        )


def front(nb: NotebookNode, path: Path) -> Iterator[Finding]:
    """Exercises begin with a title and link back to their lesson."""
    yield from title(nb, path)
    if f"](../notebooks/{path.name}" not in whole(nb):
        yield Finding("", f"no link to its lesson: (../notebooks/{path.name})")


def imports_first(nb: NotebookNode) -> Iterator[Finding]:
    """The introduction says to run the cell after it, which imports `check`."""
    intro, after = ([cell.source for cell in nb.cells[:2]] + ["", ""])[:2]
    if "First run the cell below" not in intro:
        yield Finding("", 'the introduction does not say "First run the cell below"')
    if "from course.check import check" not in after:
        yield Finding("", "the cell below the introduction does not import `check`")


def every_exercise(nb: NotebookNode) -> Iterator[Finding]:
    """2 to 6 exercises, each with heading, ratings, three hints, solution and check cells."""
    found = list(asked(nb))
    if not 2 <= len(found) <= 6:
        yield Finding("", f"{len(found)} exercises; a notebook has 2 to 6")
    for exercise in found:
        for message in faults(exercise):
            yield Finding(exercise.solution.id, f"exercise {exercise.exercise_id}: {message}")


def faults(exercise: Asked) -> Iterator[str]:
    """Yield what is wrong with one exercise."""
    heading = HEADING.search(exercise.text)
    if not heading or heading[1] != exercise.exercise_id:
        yield f'no heading "### Exercise {exercise.exercise_id} · Title" before it'
    if not RATING.search(exercise.text):
        yield 'no line "difficulty ●●○ · importance ●●● · 10 min"'
    if (hints := exercise.text.count("<details>")) != 3:
        yield f"{hints} hints in <details>; there must be three: nudge, idea, almost the code"
    if exercise.text.count("</details>") != hints:
        yield "a <details> is not closed"
    ours = dict(exercise.solution.metadata["nbgrader"])
    if {key: ours.get(key) for key in SOLUTION} != SOLUTION:
        yield f"its solution cell's nbgrader metadata must have {SOLUTION}"
    if "### BEGIN SOLUTION" not in exercise.solution.source:
        yield "no ### BEGIN SOLUTION in its solution cell"
    if exercise.check is None:
        yield "no check cell"
        return
    theirs = dict(exercise.check.metadata["nbgrader"])
    if {key: theirs.get(key) for key in CHECK} != CHECK or not theirs.get("points"):
        yield f"its check cell's nbgrader metadata must have points and {CHECK}"
    if not re.search(rf'check\("{re.escape(exercise.exercise_id)} \w', exercise.check.source):
        yield f'its check cell must call check("{exercise.exercise_id} …", …)'


def markers(nb: NotebookNode) -> Iterator[Finding]:
    """Solutions are only in solution cells, so none reaches the exercises."""
    for cell in nb.cells:
        begun, ended = (cell.source.count(f"### {word} SOLUTION") for word in ("BEGIN", "END"))
        if begun != ended:
            yield Finding(cell.id, f"{begun} BEGIN SOLUTION, {ended} END SOLUTION")
        if begun and not grade_id(cell).startswith("ex_"):
            yield Finding(cell.id, "a solution outside a solution cell")
