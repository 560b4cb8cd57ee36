"""The mistake behind a failure: the one that does, on these inputs, what the answer did.

Three searches, each only where the one before finds nothing:

    the exercise's mistakes        what people do, with a text for each
    one change                     the right answer with one thing changed (`variants`)
    two slips at once              those that can be told to be in one answer

A mistake has to agree with the answer under every property. The failing ones come first, and of
these the quickest: which mistakes agree does not depend on the order, how long it takes does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache
from time import process_time

import torch

from course.check.compare import complain, same
from course.check.observe import (
    Observation,
    Raised,
    TookTooLong,
    Unverified,
    observe,
    tensors_in,
    time_limit,
)
from course.check.report import Outcome, Status
from course.check.seen import Seen
from course.check.spec import AnyMistake, Exercise, Slip, both, one_step_off

SEARCH_SECONDS = 6.0  # for the last two searches together, in CPU time: what else runs is no matter


def seeds(exercise: Exercise, index: int, seed: int) -> list[int]:
    """Return the seeds of one property: the same for every answer, different for each property."""
    return [seed + 1009 * index + trial for trial in range(exercise.trials)]


def recognise(exercise: Exercise, outcomes: list[Outcome], seed: int) -> AnyMistake | None:
    """Return the mistake that behaves as the answer did on these inputs, or None."""
    return Search(exercise, outcomes, seed).found()


class Search:
    """The search for the mistake in one answer."""

    def __init__(self, exercise: Exercise, outcomes: list[Outcome], seed: int) -> None:
        self.exercise, self.seed = exercise, seed
        self.order = sorted(outcomes, key=lambda o: (o.status is not Status.FAIL, o.seconds))
        took = sum(outcome.seconds for outcome in outcomes)
        self.patience = min(exercise.seconds, 2.0 + 20 * took)  # with one mistake, by the clock
        self.failures = [o.telling for o in outcomes if o.status is Status.FAIL]
        # with nothing but exceptions to go by, their messages must agree too, not just their types
        self.to_the_word = all(isinstance(telling, Raised) for telling in self.failures)

    def found(self) -> AnyMistake | None:
        """Return the first mistake that explains the answer, or None."""
        if found := next(filter(self.explains, self.exercise.mistakes), None):
            return found
        if all(_nothing_but_nan(telling) for telling in self.failures):
            return None  # anything gives NaN: one change, or two slips, would explain too much
        end = process_time() + SEARCH_SECONDS
        for mistake in itertools.chain(one_step_off(self.exercise), self.pairs()):
            if process_time() > end:
                return None
            if self.explains(mistake):
                return mistake
        return None

    def explains(self, mistake: AnyMistake) -> bool:
        """Say whether a mistake does everywhere what the answer did."""
        try:
            with time_limit(self.patience):  # it may have a loop that never ends
                return all(self.agrees(mistake, outcome) for outcome in self.order)
        except TookTooLong:
            return False

    def agrees(self, mistake: AnyMistake, outcome: Outcome) -> bool:
        """Say whether it does so under one property; most differ at the first seed already."""
        whole = self.exercise.trials
        return all(self.alike(mistake, outcome, trials) for trials in sorted({1, whole}))

    def alike(self, mistake: AnyMistake, outcome: Outcome, trials: int) -> bool:
        """Say whether it does so at the first few seeds."""
        again = self.seen(mistake, outcome, trials)
        seen = outcome.observations[: len(again)]
        complete = trials < self.exercise.trials or len(again) == len(outcome.observations)
        return (
            complete
            and len(seen) == len(again)
            and all(_alike(x, y, self.to_the_word) for x, y in zip(seen, again, strict=True))
        )

    def seen(self, mistake: AnyMistake, outcome: Outcome, trials: int) -> tuple[Observation, ...]:
        """Return what a mistake does under one property."""
        return _of_mistake(self.exercise, mistake, outcome.index, self.seed, trials)

    def pairs(self) -> Iterator[Slip]:
        """Yield pairs of slips that may explain the answer.

        Under the property that is looked at first, and at its first seed, either both go wrong or
        one does alone what the answer did, with the other of no effect. The rest is not tried.
        """
        first = self.order[0]
        wrong, as_answer = set(), set()
        for mistake in self.exercise.mistakes:
            if any(map(_went_wrong, self.seen(mistake, first, 1))):
                wrong.add(mistake)
            if self.alike(mistake, first, 1):
                as_answer.add(mistake)
        for pair in itertools.combinations(self.exercise.mistakes, 2):
            possible = wrong.issuperset(pair) or not as_answer.isdisjoint(pair)
            if possible and (made := both(*pair)):
                yield made


def _went_wrong(observation: Observation) -> bool:
    return isinstance(observation, Raised) or bool(
        isinstance(observation, Seen) and complain(observation)
    )


def _nothing_but_nan(telling: Observation | None) -> bool:
    """Say whether an answer gave tensors, and no number in them but what nothing at all gives.

    That is 0 or -inf where it is wanted: what a row or a split without keys has.
    """
    if not isinstance(telling, Seen):
        return False
    found, wanted = ([t for _, t in tensors_in(x)] for x in (telling.got, telling.wanted))
    floats = [t for t in found if t.is_floating_point() and t.numel()]
    if [t.shape for t in found] != [t.shape for t in wanted]:
        return bool(floats) and all(bool(t.isnan().all()) for t in floats)
    pairs = [(got.cpu(), want.cpu()) for got, want in zip(found, wanted, strict=True)]
    pairs = [(got, want) for got, want in pairs if got.is_floating_point() and got.numel()]
    some = any(bool(got.isnan().any()) for got, _ in pairs)
    return some and all(bool(_nan_or_empty(got, want).all()) for got, want in pairs)


def _nan_or_empty(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return got.isnan() | ((got == wanted) & ((wanted == 0) | (wanted == -math.inf)))


@lru_cache(maxsize=8192)
def _of_mistake(
    exercise: Exercise, mistake: AnyMistake, index: int, seed: int, trials: int
) -> tuple[Observation, ...]:
    """What a mistake does under one property. Cached: with one seed, many answers need it."""
    prop = exercise.properties[index]
    chosen = seeds(exercise, index, seed)[:trials]
    return tuple(observe(exercise, prop, mistake.implementation, chosen))


def _alike(x: Observation, y: Observation, to_the_word: bool) -> bool:
    if isinstance(x, Seen) and isinstance(y, Seen):
        harm = [[guard.intact() for guard in seen.guards] for seen in (x, y)]
        told = {complaint.kind for complaint in map(complain, (x, y)) if complaint}
        if "conduct" in told and _conduct(x) != _conduct(y):
            return False
        return harm[0] == harm[1] and same(x.got, y.got, x)
    if isinstance(x, Raised) and isinstance(y, Raised):
        same_words = str(x.error) == str(y.error) or not to_the_word
        return type(x.error) is type(y.error) and same_words
    return isinstance(x, Unverified) and isinstance(y, Unverified)


def _conduct(seen: Seen) -> str:
    """What a kernel did, without the line where: that of the learner reads differently."""
    return seen.conduct[0].partition(" (line ")[0] if seen.conduct else ""
