"""A sample of `make mutants`: every check refuses what it is given of it."""

import importlib.util
import os
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "mutants.py"
spec = importlib.util.spec_from_file_location("mutants", PATH)
mutants = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutants)

EVERY = 40
SAMPLE = list(mutants.every_mutant([], EVERY))
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="a mutant runs in a fork")


@needs_fork
@pytest.mark.parametrize(("exercise", "mutant"), SAMPLE, ids=[x.exercise for _, x in SAMPLE])
def test_a_mutant_is_refused(exercise, mutant):
    verdict = mutants.tried(exercise, mutant)
    same = mutants.equivalents().get(mutant.exercise, {})
    assert verdict.said != "passed" or mutant.what in same, mutant.what


def test_every_exercise_is_in_the_sample():
    from course.check import catalogue

    ids = {x.id for lesson in catalogue.lessons() for x in catalogue.exercises(lesson)}
    assert {mutant.exercise for _, mutant in SAMPLE} == ids


def test_equivalent_mutants_exist_and_have_reasons():
    known = {}
    for _, mutant in mutants.every_mutant([], 1):
        known.setdefault(mutant.exercise, set()).add(mutant.what)
    for exercise, reasons in mutants.equivalents().items():
        for what, reason in reasons.items():
            assert what in known.get(exercise, ()), f"{exercise}: there is no mutant {what!r}"
            assert len(reason) >= 15, f"{exercise}: {what!r} needs a reason"


def test_the_table_counts():
    verdicts = [
        mutants.Verdict("1.1", "a", "named", "x"),
        mutants.Verdict("1.1", "b", "unnamed"),
        mutants.Verdict("1.1", "c", "passed"),
        mutants.Verdict("3.2", "d", "crashed"),
    ]
    text, share, named = mutants.table(verdicts)
    assert share == 0.75 and named == pytest.approx(1 / 3)
    assert "got through:\n  1.1  c" in text
