"""Which exercises you have solved: kept in `.progress.json` beside the README, never in git.

    from course import progress
    progress.show()

The environment variable COURSE_PROGRESS_FILE names another file.
"""

from __future__ import annotations

import json
import os
import tempfile
from datetime import date
from pathlib import Path


def file() -> Path:
    """Return the progress file's path."""
    own = os.environ.get("COURSE_PROGRESS_FILE")
    return Path(own) if own else Path(__file__).resolve().parents[1] / ".progress.json"


def solved() -> dict[str, str]:
    """Return {exercise id: the day it was first solved}, empty if nothing is recorded.

    A file that can't be read that way is kept under another name, with a message.
    """
    path = file()
    try:
        passed = json.loads(path.read_text(encoding="utf-8"))["solved"]
        if not all(isinstance(x, str) for pair in passed.items() for x in pair):
            raise TypeError
        return passed
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        aside = _free_name(path)
        path.replace(aside)
        print(f"{path.name} can't be read; it is kept as {aside.name}, and a new one is started.")
        return {}


def record(exercise_id: str) -> None:
    """Record that an exercise was solved today; the first day counts.

    Does nothing in the folder `solutions` or under a grader: that is nobody's progress. If the
    file can't be written, says so and carries on.
    """
    if Path.cwd().name == "solutions" or os.environ.get("NBGRADER_EXECUTION"):
        return
    passed = solved()
    if exercise_id in passed:
        return
    passed[exercise_id] = date.today().isoformat()
    try:
        _write(file(), {"solved": dict(sorted(passed.items(), key=lambda kv: _order(kv[0])))})
    except OSError as error:
        print(f"The pass could not be recorded in {file().name}: {error.strerror}.")


def forget() -> None:
    """Start afresh: remove the progress file."""
    file().unlink(missing_ok=True)


def show() -> None:
    """Print the lessons, and which of their exercises are solved."""
    from course.check import catalogue  # here, as checks import this module to record passes

    passed, done, total = solved(), 0, 0
    for lesson in catalogue.lessons():
        try:
            exercises = catalogue.exercises(lesson)
        except catalogue.NeedsPackage as error:
            print(f"  lesson {lesson}   can't be checked: {error.reason}")
            continue
        marks = "".join("●" if exercise.id in passed else "○" for exercise in exercises)
        left = [exercise.label for exercise in exercises if exercise.id not in passed]
        print(f"  lesson {lesson}   {marks:<4}   {'next: ' + left[0] if left else 'done'}")
        done, total = done + len(exercises) - len(left), total + len(exercises)
    print(f"{done} of {total} exercises solved")


def _order(exercise_id: str) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in exercise_id.split(".")]


def _free_name(path: Path) -> Path:
    n = 1
    while (aside := path.with_name(f"{path.name}.unreadable-{n}")).exists():
        n += 1
    return aside


def _write(path: Path, content: dict) -> None:
    """Write everything or nothing: make a full copy beside the file, then rename it over it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            json.dump(content, f, indent=1)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
