"""All exercises of all lessons, looked up by id."""

from __future__ import annotations

import difflib
import importlib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from course.check import conditions
from course.check.spec import Exercise


class UnknownExercise(LookupError):
    """No exercise has that id; the message lists the nearest ones."""

    def _render_traceback_(self) -> list[str]:
        return [f"UnknownExercise: {self}"]


class NeedsPackage(ImportError):
    """A lesson's specs can't be imported here.

    name: the package (triton) that is not installed; None: something else is wrong, as the message
    says, such as triton imported in another mode than this process needs.
    """

    @property
    def reason(self) -> str:
        """Why, for the learner."""
        return f"{self.name} is not installed here" if self.name else str(self)


def lessons() -> list[str]:
    """Return the numbers of the lessons that have exercises: ["01", "03", …]."""
    folders = Path(__file__).parent.glob("lesson_*/__init__.py")
    return sorted(m[1] for f in folders if (m := re.fullmatch(r"lesson_(\d\d)", f.parent.name)))


@cache
def exercises(lesson: str) -> tuple[Exercise, ...]:
    """Return the exercises of a lesson ("03").

    Raises NeedsPackage if its spec files import something that can't be imported here.
    """
    try:
        with conditions.fresh():  # a spec may make tensors when it is imported
            module = importlib.import_module(f"course.check.lesson_{lesson}")
    except ImportError as error:
        package = (error.name or "").split(".")[0]
        if package in ("course", "reference", "kernels", "torch"):
            raise  # our own bug, not a missing package
        missing = package if package and find_spec(package) is None else None
        raise NeedsPackage(str(error), name=missing) from error
    return module.EXERCISES


def find(exercise_id: str) -> Exercise:
    """Return the exercise with an id such as "3.2", or an id and name, "3.2 merge".

    Raises UnknownExercise, naming the nearest ids; NeedsPackage as `exercises` does.
    """
    wanted = (exercise_id.split() or [""])[0]
    lesson = wanted.split(".")[0].zfill(2)
    if lesson in lessons():
        for exercise in exercises(lesson):
            if exercise.id == wanted:
                return exercise
    raise UnknownExercise(_nearest(exercise_id, lesson))


def _nearest(exercise_id: str, lesson: str) -> str:
    labels = []
    for number in lessons():
        try:
            labels += [exercise.label for exercise in exercises(number)]
        except NeedsPackage:
            continue
    own = [label for label in labels if label.split(".")[0].zfill(2) == lesson]
    near = own or difflib.get_close_matches(exercise_id, labels, n=4, cutoff=0.3) or labels[:4]
    quoted = ", ".join(f'"{label}"' for label in near)
    return f'There is no exercise "{exercise_id}". Nearest: {quoted or "none"}.'
