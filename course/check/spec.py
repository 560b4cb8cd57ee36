"""How an exercise is described: what must hold, the right answer, and the mistakes people make.

One file per exercise, `lesson_NN/name.py`. Read from top to bottom it says:

    @right                          the notebook's solution, word for word (a test compares them)
    def merge(x, y): ...

    @also_right                     a correct answer written differently: form must not matter
    def merge_by_lse(x, y): ...

    @holds("partials whose maxima differ")                a property; its name: "different rulers"
    def different_rulers(answer, rng):
        x, y = partial(rng, -2.0), partial(rng, 3.0)
        return Seen.of(answer, (x, y), wanted=reference.merge(x, y))

    slip("factors swapped", "The factors are **swapped**: …", ("cx, cy =", "cy, cx ="))

    @mistake("As soon as one row is empty, …", see=EMPTY)  # what no replacement says
    def empty_as_a_whole(x, y): ...

    MERGE = Exercise.of(__name__, "3.2 merge", title=…, section=…)           # collects all of these

Where they are too many for one file, mistakes lie in `name_mistakes.py`, which it imports.

A probe (a function under `@holds`) is called several times, each time with a different generator,
and must draw all its randomness from it: the same seed has to give the same inputs to the learner's
answer and to every mistake, or mistakes could not be recognised.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from typing import Any

import torch

from course.check import variants
from course.check.rewritten import (
    Changes,
    DoesNotApply,
    defined,
    plain,
    replaced,
    rewritten,
    source_of,
)
from course.check.seen import Seen

Probe = Callable[[Any, torch.Generator], Seen | list[Seen]]


@dataclass(frozen=True, eq=False)  # each is unique: compared by identity
class Property:
    """Something true of every correct answer.

    name: two or three words. about: one line, shown beside the name.
    probe(answer, rng): calls the answer on fresh inputs drawn from `rng`, returns what it saw.
    see: where to read if this fails and no mistake is recognised; default: the exercise's section.
    """

    name: str
    about: str
    probe: Probe
    see: str = ""


@dataclass(frozen=True, eq=False)  # each is unique: compared by identity
class Mistake:
    """A wrong answer that people give, as an implementation of it.

    name: a few words, unique in its exercise. says: what the learner reads, one or two whole
    sentences: what they probably did, and why it is wrong, without giving the code away.
    see: where to read; default: the exercise's own section.
    """

    name: str
    says: str
    implementation: Any
    see: str = ""


class Slip:
    """A mistake that is the right answer with some of its text replaced.

    changes: pairs (old text, new text). The implementation is written when it is first needed.
    """

    def __init__(self, name: str, says: str, changes: Changes, see: str, of: Any) -> None:
        self.name, self.says, self.changes, self.see, self.of = name, says, changes, see, of

    def __repr__(self) -> str:
        return f"Slip({self.name!r})"

    @cached_property
    def implementation(self) -> Any:
        """The wrong answer. Raises DoesNotApply if a text to replace is not there."""
        return rewritten(self.of, self.changes, f"slip: {self.name}")


@cache
def both(one: Mistake | Slip, other: Mistake | Slip) -> Slip | None:
    """Return two slips in one answer, or None if they can't be: they touch the same text."""
    if not (isinstance(one, Slip) and isinstance(other, Slip)) or one.of is not other.of:
        return None
    changes = [*one.changes, *other.changes]
    try:
        texts = {
            replaced(source_of(one.of), pairs)
            for pairs in (changes, [*other.changes, *one.changes])
        }
    except DoesNotApply:
        return None
    if len(texts) != 1:
        return None
    says = f"Two things at once. First: {one.says} Second: {other.says}"
    name = f"{one.name}, and {other.name}"
    return Slip(name, says, changes, one.see or other.see, one.of)


class OneStep:
    """A mistake that nobody has written down: the right answer with one thing changed.

    It says what is another than it should be, and not where.
    """

    see = ""

    def __init__(self, right: Any, variant: variants.Variant) -> None:
        self.right, self.variant = right, variant
        self.name = f"one step off: {variant.what}"
        self.says = f"Your answer does what the right one does when {variant.says}."

    def __repr__(self) -> str:
        return f"OneStep({self.variant.what!r})"

    @cached_property
    def implementation(self) -> Any:
        """The wrong answer."""
        return defined(self.right, self.variant.source, "one step off")


AnyMistake = Mistake | Slip | OneStep


@cache
def one_step_off(exercise: Exercise) -> tuple[OneStep, ...]:
    """Return all answers that are one step from the right one; none if it is no function."""
    try:
        source = source_of(exercise.right)
    except (OSError, TypeError):
        return ()
    return tuple(OneStep(exercise.right, variant) for variant in variants.of(source))


@dataclass(frozen=True, eq=False)  # each is unique: compared by identity
class Exercise:
    """One exercise: what is asked, how it is checked, how people get it wrong.

    id: "3.2" (lesson.number). name: as in `check("3.2 merge", …)`. title: as in the notebook's
    heading. section: the lesson's H2 to go back to, "3 · Two halves make a whole".
    right: the solution. also_right: correct answers written differently, to show that the check
        judges behaviour and not form.
    needs: packages without which it can't be checked, e.g. ("triton",): if missing, *not verified*.
    changes_inputs: the answer may write into its arguments (otherwise that is a failure).
    returns_none: the answer gives its result by writing (otherwise None means "not written yet").
    trials: seeds per property. seconds: time limit for all of them together.
    """

    id: str
    name: str
    title: str
    section: str
    right: Any
    also_right: tuple[Any, ...]
    properties: tuple[Property, ...]
    mistakes: tuple[Mistake | Slip, ...]
    needs: tuple[str, ...] = ()
    changes_inputs: bool = False
    returns_none: bool = False
    trials: int = 3
    seconds: float = 30.0
    label: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", f"{self.id} {self.name}")

    @classmethod
    def of(cls, module: str, label: str, *, title: str, section: str, **options: Any) -> Exercise:
        """Return the exercise whose parts the file `module` has marked, in the order of the file.

        Mistakes that `module_mistakes` has marked, if it is imported before, come after its own.
        label: id and name, "3.2 merge". options: the other fields. Raises ValueError unless exactly
        one answer is marked `@right`, and at least one thing `@holds`.
        """
        parts = _marked.pop(module, _Marked())
        parts.mistakes += _marked.pop(f"{module}_mistakes", _Marked()).mistakes
        if len(parts.right) != 1 or not parts.properties:
            raise ValueError(
                f"{module} must mark one answer @right and something that @holds; it marks"
                f" {len(parts.right)} and {len(parts.properties)}."
            )
        for made in parts.mistakes:
            if isinstance(made, Slip) and made.of is None:
                made.of = parts.right[0]
        number, _, name = label.partition(" ")
        return cls(
            id=number,
            name=name,
            title=title,
            section=section,
            right=parts.right[0],
            also_right=tuple(parts.also_right),
            properties=tuple(parts.properties),
            mistakes=tuple(parts.mistakes),
            **options,
        )

    @property
    def solution_name(self) -> str:
        """The name in the notebook that is passed to the check."""
        return plain(self.right).__name__

    @property
    def lesson(self) -> str:
        """The lesson's number in two digits: "03"."""
        return self.id.split(".")[0].zfill(2)

    def missing(self) -> list[str]:
        """Return those of `needs` that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]


class _Marked:
    """What one file has marked so far."""

    def __init__(self) -> None:
        self.right: list[Any] = []
        self.also_right: list[Any] = []
        self.properties: list[Property] = []
        self.mistakes: list[Mistake | Slip] = []


_marked: dict[str, _Marked] = defaultdict(_Marked)


def _in_words(function: Any) -> str:
    return plain(function).__name__.strip("_").replace("_", " ")


def right(answer: Any) -> Any:
    """Mark the right answer: the notebook's solution, of the same name."""
    _marked[plain(answer).__module__].right.append(answer)
    return answer


def also_right(answer: Any) -> Any:
    """Mark a correct answer that is written differently, here or in another file."""
    _marked[sys._getframe(1).f_globals["__name__"]].also_right.append(answer)
    return answer


def holds(about: str, *, name: str = "", see: str = "") -> Callable[[Probe], Probe]:
    """Mark a probe: a property that must hold. Its name is the function's, in words."""

    def mark(probe: Probe) -> Probe:
        prop = Property(name or _in_words(probe), about, probe, see)
        _marked[probe.__module__].properties.append(prop)
        return probe

    return mark


def mistake(says: str, *, name: str = "", see: str = "") -> Callable[[Any], Any]:
    """Mark a wrong answer. Its name is the function's, in words."""

    def mark(wrong: Any) -> Any:
        made = Mistake(name or _in_words(wrong), says, wrong, see)
        _marked[plain(wrong).__module__].mistakes.append(made)
        return wrong

    return mark


def slip(name: str, says: str, *changes: tuple[str, str], see: str = "", of: Any = None) -> None:
    """Add a wrong answer: the right one with texts replaced, each wherever it stands.

    changes: pairs (old text, new text). of: an answer to replace them in; default: the right one.
    """
    module = sys._getframe(1).f_globals["__name__"]
    _marked[module].mistakes.append(Slip(name, says, changes, see, of))
