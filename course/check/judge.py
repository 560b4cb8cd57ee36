"""The verdict on an answer: run every property, and find the mistake behind a failure."""

from __future__ import annotations

import inspect
import os
import random
from dataclasses import replace
from time import process_time
from typing import Any

from course import progress
from course.check import catalogue, compiler, conditions
from course.check.borrowed import borrowed_from_us
from course.check.compare import Complaint, complain
from course.check.launches import Watched, is_kernel
from course.check.observe import (
    Raised,
    ReturnedNothing,
    TookTooLong,
    Unverified,
    observe,
    time_limit,
    watch,
)
from course.check.recognise import recognise, seeds
from course.check.report import Outcome, Report, Status
from course.check.rewritten import attribute
from course.check.spec import Exercise

UNWRITTEN = "This one is not written yet: put your code in place of `raise NotImplementedError()`."
NONE_CAME = "This one is not written yet, or the `return` is missing: the function returned None."


class CheckFailed(AssertionError):
    """An answer did not pass. The report is printed; this is what graders see."""

    def _render_traceback_(self) -> list[str]:
        """Tell Jupyter to show one line: the report above it says more than a traceback would."""
        return [f"CheckFailed: {self}"]


def check(exercise_id: str, answer: Any) -> None:
    """Check an answer to an exercise, print the report, and note a pass in the progress file.

    exercise_id: the id, followed by the name for the reader: `check("3.2 merge", merge)`.
    Raises CheckFailed if a property does not hold. An answer that can't be checked on this
    machine is reported as *not verified*: no error, but no pass either; only a grader
    (nbgrader sets NBGRADER_EXECUTION) gets the error, so that it gives no points.
    """
    report = judge(exercise_id, answer)
    print(report)
    if report.status is Status.PASS:
        progress.record(report.exercise_id)
    elif report.status is Status.FAIL or os.environ.get("NBGRADER_EXECUTION"):
        raise CheckFailed(report.headline)


@conditions.fresh()
def judge(exercise_id: str | Exercise, answer: Any, *, seed: int | None = None) -> Report:
    """Return the verdict on an answer; print nothing, and raise nothing that the answer raises.

    It does not depend on what the process is set to, and changes none of it (`conditions`). seed:
    fixes the inputs; None draws fresh ones. Raises UnknownExercise.
    """
    if isinstance(exercise_id, Exercise):
        exercise = exercise_id
    else:
        try:
            exercise = catalogue.find(exercise_id)
        except catalogue.NeedsPackage as error:
            return Report.unverified(exercise_id, error.reason)
    if missing := exercise.missing():
        return Report.unverified(exercise.label, f"{', '.join(missing)} is not installed here")
    if reason := unfit(exercise, answer):
        return Report.failed(exercise, reason)
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    tried = answer
    if is_kernel(answer):
        compiler.start()  # by the time that it is needed, it is ready
        tried = watch(answer, exercise)
    outcomes: list[Outcome] = []
    try:
        with time_limit(exercise.seconds):
            for i in range(len(exercise.properties)):
                outcomes.append(run(exercise, i, tried, seed))
                if outcomes[-1].unwritten:
                    return Report.failed(exercise, outcomes[-1].sentence, unwritten=True)
    except TookTooLong:
        outcomes.append(Outcome.too_slow(exercise, len(outcomes)))
    report = Report.of(exercise, outcomes)
    if report.status is Status.FAIL and not any(outcome.slow for outcome in outcomes):
        return report.naming(recognise(exercise, outcomes, seed))
    if report.status is Status.PASS and isinstance(tried, Watched):
        return compiled(report, tried)
    return report


def compiled(report: Report, kernel: Watched) -> Report:
    """Return the report on a kernel that passed, with what a compiler for GPUs says about it."""
    try:
        trouble = compiler.trouble(kernel, *kernel.launched)
    except compiler.NoCompiler as reason:
        return replace(report, compiled=f"not compiled here: {reason}")
    if trouble:
        return replace(report, status=Status.FAIL, trouble=trouble)
    return replace(report, compiled=f"compiled for {' and '.join(compiler.TARGETS)}")


def unfit(exercise: Exercise, answer: Any) -> str:
    """Return why `answer` can't even be tried, or ""."""
    if answer is None or answer is Ellipsis:
        return UNWRITTEN
    if callable(exercise.right) and not callable(answer):
        call = f'check("{exercise.label}", {exercise.solution_name})'
        return f"Pass the function itself, without calling it: {call}."
    if borrowed := borrowed_from_us(exercise, answer):
        return f"It uses the course's own `{borrowed}`: write this one yourself."
    kernel = attribute(answer, "fn")  # a Triton kernel: the compiler would choke on the stub
    if inspect.isfunction(kernel):
        try:
            source = inspect.getsource(kernel)
        except OSError:
            return ""
        if "raise NotImplementedError" in source:
            return UNWRITTEN
    return ""


def run(exercise: Exercise, index: int, answer: Any, seed: int) -> Outcome:
    """Try `answer` under one property and say how it went."""
    prop = exercise.properties[index]
    started = process_time()
    observations = observe(exercise, prop, answer, seeds(exercise, index, seed))
    outcome = Outcome(prop, index, tuple(observations), seconds=process_time() - started)
    for observation in observations:
        if isinstance(observation, Unverified):
            return outcome.but(Status.NOT_VERIFIED, observation, observation.why)
        if isinstance(observation, Raised):
            if observation.unwritten:
                nothing = isinstance(observation.root, ReturnedNothing)
                sentence = NONE_CAME if nothing else UNWRITTEN
                return outcome.but(Status.FAIL, observation, sentence, unwritten=True)
            return outcome.but(Status.FAIL, observation, said(observation))
        complaint: Complaint | None = complain(observation)
        if complaint:
            values = complaint.kind in ("value", "nan")
            return outcome.but(Status.FAIL, observation, complaint.sentence, values=values)
    return outcome


def said(raised: Raised) -> str:
    """Return an exception as a sentence."""
    kind = type(raised.root).__name__
    if kind == "ChangedInput":
        return f"It changes its argument `{raised.error}`: work on a copy, the caller needs it."
    message = str(raised.root).strip().splitlines() or [""]
    where = f"\nin your code, {raised.line}" if raised.line else ""
    return f"It raised {kind}: {message[0]}{where}"
