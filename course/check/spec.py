"""How an exercise is described: properties that must hold, and mistakes that people make.

A spec file `lesson_NN.py` holds `EXERCISES: tuple[Exercise, ...]`. Everything in it is plain
data and small functions; `judge` runs them. A whole property:

    def different_rulers(answer, rng):
        x, y = partial(rng, low=-2.0), partial(rng, low=3.0)
        return Seen.of(answer, (x, y), wanted=merge(x, y))

    Property("different rulers", "partials whose maxima differ", different_rulers)

A probe is called several times, each time with a different generator, and must draw all its
randomness from it: the same seed has to give the same inputs to the learner's answer and to
every catalogued mistake, or mistakes could not be recognised.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch

from course.check.guards import Guarded
from course.check.wording import short


class NotVerified(Exception):
    """Raised by a probe that cannot check here: `raise NotVerified("needs a GPU")`."""


@dataclass(frozen=True)
class Seen:
    """What an answer returned in one call, and what was wanted.

    got, wanted: tensors, numbers, bools, strings, None, or (named) tuples, lists and dicts of
    them. Shapes, dtypes and NaN are compared too; NaN is only right where NaN is wanted.

    given: the inputs, in a few words: printed when the property fails.
    atol, rtol: |got - wanted| ≤ atol + rtol · |wanted|; None takes `torch.testing`'s default for
        the coarser dtype of the two (fp32: 1e-5 and 1.3e-6). If you give one, give both.
    names: what to call the parts of a tuple in a message, e.g. ("o", "lse"); a NamedTuple's
        fields are used automatically.
    guards: guarded buffers that the call was given; they must be intact afterwards.
    any_dtype: don't insist on `wanted`'s dtype.
    remark: what to print below the property if it holds, such as a score.
    """

    got: Any
    wanted: Any
    given: str = ""
    atol: float | None = None
    rtol: float | None = None
    names: tuple[str, ...] = ()
    guards: tuple[Guarded, ...] = ()
    any_dtype: bool = False
    remark: str = ""

    @classmethod
    def of(
        cls,
        answer: Callable,
        args: Sequence[Any],
        *,
        wanted: Any,
        given: str | None = None,
        kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Seen:
        """Call `answer(*args, **kwargs)`; describe the inputs automatically if `given` is None.

        options: the other fields of `Seen` (atol, rtol, names, guards, any_dtype, remark).
        """
        kwargs = kwargs or {}
        if given is None:
            given = describe_call(answer, args, kwargs)
        try:
            got = answer(*args, **kwargs)
        except Exception as error:
            error.add_note(given)  # the report says which inputs raised it
            raise
        return cls(got, wanted, given, **options)


def describe_call(answer: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    """Return "x = …, y = …" under the parameter names of `answer`."""
    try:
        names = list(inspect.signature(answer).parameters)
    except (TypeError, ValueError):
        names = []
    names += [f"argument {i + 1}" for i in range(len(names), len(args))]
    pairs = [*zip(names, args, strict=False), *kwargs.items()]
    return ", ".join(f"{name} = {short(value)}" for name, value in pairs)


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


@dataclass(frozen=True, eq=False)  # each is unique: compared by identity
class Exercise:
    """One exercise: what is asked, how it is checked, how people get it wrong.

    id: "3.2" (lesson.number). name: as in `check("3.2 merge", …)`. title: as in the notebook's
    heading. section: the lesson's H2 to go back to, "3 · Two halves make a whole".
    solution_name: the name in the solution cell that is passed to the check.
    alternative: a correct answer written differently from the solution, to show that the check
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
    solution_name: str
    properties: tuple[Property, ...]
    mistakes: tuple[Mistake, ...]
    alternative: Any
    needs: tuple[str, ...] = ()
    changes_inputs: bool = False
    returns_none: bool = False
    trials: int = 3
    seconds: float = 30.0
    label: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", f"{self.id} {self.name}")

    @property
    def lesson(self) -> str:
        """The lesson's number in two digits: "03"."""
        return self.id.split(".")[0].zfill(2)

    def missing(self) -> list[str]:
        """Return those of `needs` that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]
