"""What the learner reads: a headline, one line per property, and the mistake if recognised."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch

from course.check import conditions
from course.check.blunders import blunder
from course.check.compare import contrast
from course.check.observe import Observation, Raised
from course.check.seen import Seen
from course.check.spec import AnyMistake, Exercise, Property
from course.check.wording import rows

WIDTH = 96
LINES = 3  # for the inputs, for got, and for wanted
MASK = 64  # bool matrices of up to this many entries are drawn
SHOWN = 2  # failing properties shown in full; the others only by name


class Status(Enum):
    """How a property, or a whole exercise, came out."""

    PASS = "✓"
    FAIL = "✗"
    NOT_VERIFIED = "?"


@dataclass(frozen=True)
class Outcome:
    """One property tried on one answer.

    telling: the observation that decided it. values: whether to show got and wanted.
    unwritten, slow: it failed because nothing was written yet, or because time ran out.
    seconds: of CPU time that it took.
    """

    prop: Property
    index: int
    observations: tuple[Observation, ...]
    status: Status = Status.PASS
    telling: Observation | None = None
    sentence: str = ""
    values: bool = False
    unwritten: bool = False
    slow: bool = False
    seconds: float = 0.0

    def but(self, status: Status, telling: Observation, sentence: str, **marks: bool) -> Outcome:
        """Return this outcome as one that did not pass; marks: values, unwritten."""
        return replace(self, status=status, telling=telling, sentence=sentence, **marks)

    @classmethod
    def too_slow(cls, exercise: Exercise, index: int) -> Outcome:
        """Return the outcome of a property during which time ran out."""
        sentence = f"It took longer than {exercise.seconds:g} s. Is there a loop that never ends?"
        prop = exercise.properties[index]
        return cls(prop, index, (), status=Status.FAIL, sentence=sentence, slow=True)

    def lines(self, width: int, in_full: bool) -> list[str]:
        """Return the report's lines about this property; names are padded to `width`."""
        first = f"  {self.status.value} {self.prop.name.ljust(width)}  "
        margin = " " * len(first)
        if self.status is Status.NOT_VERIFIED:
            return [f"{first}not verified: {self.sentence}"]
        if self.status is Status.PASS:
            remarks = {x.remark: None for x in self.observations if isinstance(x, Seen)}
            return [first + self.prop.about, *(margin + told for told in remarks if told)]
        if not in_full:
            return [first + self.prop.about]
        given = _given(self.telling)
        body = _hanging("with ", given) if given else []
        if isinstance(self.telling, Seen) and self.values:
            body += _got_and_wanted(self.telling)
        for sentence in self.sentence.splitlines():
            body += _wrap(sentence)
        return [first + self.prop.about, *(margin + line for line in body)]


def _given(telling: Observation | None) -> str:
    if isinstance(telling, Raised):
        return "".join(getattr(telling.error, "__notes__", [])[:1])
    return telling.given if isinstance(telling, Seen) else ""


def _got_and_wanted(seen: Seen) -> list[str]:
    if _is_mask(seen.got) and _is_mask(seen.wanted) and seen.got.shape == seen.wanted.shape:
        got_rows = ["got", *rows(seen.got)]
        width = max(len(row) for row in got_rows) + 4
        pairs = zip(got_rows, ["wanted", *rows(seen.wanted)], strict=True)
        return [got.ljust(width) + wanted for got, wanted in pairs]
    got, wanted = contrast(seen)
    if len(got) + len(wanted) <= 48:
        return [f"got {got}    wanted {wanted}"]
    return [*_hanging("got    ", got), *_hanging("wanted ", wanted)]


def _is_mask(x: Any) -> bool:
    return (
        isinstance(x, torch.Tensor)
        and x.dtype == torch.bool
        and x.dim() == 2
        and (0 < x.numel() <= MASK)
    )


def _hanging(word: str, text: str) -> list[str]:
    rest = WIDTH - 24 - len(word)
    lines = textwrap.wrap(text, rest, max_lines=LINES, placeholder=" …", break_long_words=False)
    return [(" " * len(word) if i else word) + line for i, line in enumerate(lines)]


def _wrap(text: str, width: int = WIDTH - 24) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


@dataclass(frozen=True)
class Report:
    """The verdict on an answer; `print(report)` shows it.

    status: PASS, FAIL or NOT_VERIFIED. mistake: the catalogued one it was recognised as;
    blunder: what else could be said about it (`course.check.blunders`).
    reason: why there are no outcomes (not written, not a function, a package is missing).
    compiled: for which GPUs the kernel was compiled. trouble: what the compiler says against it.
    """

    label: str
    status: Status
    outcomes: tuple[Outcome, ...] = ()
    total: int = 0
    reason: str = ""
    unwritten: bool = False
    mistake: AnyMistake | None = None
    blunder: str = ""
    compiled: str = ""
    trouble: str = ""
    section: str = ""
    lesson: str = ""

    @property
    def exercise_id(self) -> str:
        """The exercise's id: "3.2"."""
        return self.label.split()[0]

    @property
    def headline(self) -> str:
        """One line: "✗ 3.2 merge · 2 of 5 properties hold"."""
        mark = f"{self.status.value} {self.label} · "
        if self.unwritten:
            return mark + "not written yet"
        if self.status is Status.NOT_VERIFIED and not self.outcomes:
            return f"{mark}not verified: {self.reason}"
        if not self.outcomes:
            return mark + "could not be tried"
        if self.trouble:
            return mark + "does not compile for a GPU"
        held = sum(outcome.status is Status.PASS for outcome in self.outcomes)
        hold = f"{mark}{held} of {self.total} properties hold"
        left = sum(outcome.status is Status.NOT_VERIFIED for outcome in self.outcomes)
        return f"{hold}, {left} not verified" if left else hold

    @classmethod
    def of(cls, exercise: Exercise, outcomes: list[Outcome]) -> Report:
        """Return the report on outcomes: one failure fails it, one unverified leaves it open."""
        statuses = {outcome.status for outcome in outcomes}
        status = next(s for s in (Status.FAIL, Status.NOT_VERIFIED, Status.PASS) if s in statuses)
        return cls._about(exercise, status, outcomes=tuple(outcomes))

    @classmethod
    def failed(cls, exercise: Exercise, reason: str, unwritten: bool = False) -> Report:
        """Return the report on an answer that could not be tried."""
        unwritten = unwritten or "not written yet" in reason
        return cls._about(exercise, Status.FAIL, reason=reason, unwritten=unwritten)

    @classmethod
    def unverified(cls, label: str, reason: str) -> Report:
        """Return the report on an exercise that can't be checked on this machine."""
        return cls(label, Status.NOT_VERIFIED, reason=reason)

    @classmethod
    def _about(cls, exercise: Exercise, status: Status, **fields: object) -> Report:
        return cls(
            exercise.label,
            status,
            total=len(exercise.properties),
            section=exercise.section,
            lesson=exercise.lesson,
            **fields,
        )

    def naming(self, mistake: AnyMistake | None) -> Report:
        """Return the same report with the recognised mistake or, failing that, a blunder."""
        if mistake:
            return replace(self, mistake=mistake)
        failing = [o for o in self.outcomes if o.status is Status.FAIL]
        seen = [o.telling for o in failing if o.values and isinstance(o.telling, Seen)]
        return replace(self, blunder=blunder(seen) if len(seen) == len(failing) else "")

    @conditions.fresh()
    def __str__(self) -> str:
        lines = [self.headline]
        if self.reason and self.status is Status.FAIL:
            lines += [f"  {line}" for line in _wrap(self.reason, WIDTH - 2)]
        width = max((len(outcome.prop.name) for outcome in self.outcomes), default=0)
        told: list[str] = []  # a sentence repeated says nothing new
        for outcome in self.outcomes:
            new = outcome.values or outcome.sentence not in told
            in_full = outcome.status is Status.FAIL and len(told) < SHOWN and new
            told += [outcome.sentence] if in_full else []
            lines += outcome.lines(width, in_full)
        if self.total > len(self.outcomes) > 0:
            lines.append(f"  … {self.total - len(self.outcomes)} more not tried")
        if self.compiled:
            lines.append(f"  · {self.compiled}")
        return "\n".join(lines + self._advice())

    def _advice(self) -> list[str]:
        if self.trouble:
            says = f"The interpreter runs it, a GPU would not. {self.trouble}"
            return ["", *(f"  {line}" for line in _wrap(says, WIDTH - 2))]
        if self.status is not Status.FAIL or self.unwritten or not self.outcomes:
            return []
        # Stress (**so**) is for markdown, and this is plain text. Only here: elsewhere the
        # learner's own code is quoted, and there ** is a power.
        says = self.mistake.says if self.mistake else self.blunder
        advice = _wrap(says.replace("**", ""), WIDTH - 2)
        advice.append(f'See lesson {self.lesson}, section "{self._where_to_read()}".')
        return ["", *(f"  {line}" for line in advice)]

    def _where_to_read(self) -> str:
        """The mistake's section; without one, that of the first property that fails."""
        failing = (o.prop for o in self.outcomes if o.status is Status.FAIL)
        return (self.mistake or next(failing)).see or self.section
