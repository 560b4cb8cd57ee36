"""course.check.recognise: which mistake did it, found in time, and the same whatever else runs."""

import importlib
import time
from dataclasses import replace

import pytest
import torch

from course.check import Exercise, Mistake, Property, Seen, judge
from course.check.recognise import Search, seeds
from course.check.spec import Slip, both

judging = importlib.import_module("course.check.judge")  # the package has a function of this name
recognising = importlib.import_module("course.check.recognise")


def clamped(x, low, high, step):
    total = 0 * x
    for _ in range(step):
        total = total + x
    return torch.minimum(torch.maximum(total, low), high)


def slipped(name, *change):
    return Slip(name, f"It is {name}.", (change,), "", clamped)


def _between(answer, rng):
    x = 4 * torch.randn(6, generator=rng)
    low, high = torch.tensor(-1.0), torch.tensor(1.0)
    return Seen.of(answer, (x, low, high, 2), wanted=clamped(x, low, high, 2))


def _wide(answer, rng):
    sum(range(10**6))  # work, so that this one is the slower
    x = torch.randn(6, generator=rng)
    low, high = torch.tensor(-90.0), torch.tensor(90.0)
    return Seen.of(answer, (x, low, high, 3), wanted=clamped(x, low, high, 3))


SLIPS = (
    slipped("not cut above", "torch.minimum(torch.maximum(total, low), high)", "total.clamp(low)"),
    slipped("once too often", "range(step)", "range(step + 1)"),
    slipped("started at one", "0 * x", "0 * x + 1"),
    slipped("negated", "total + x", "total - x"),
)  # fmt: skip
CLAMPED = Exercise(
    id="9.8",
    name="clamped",
    title="Clamped",
    section="1",
    right=clamped,
    also_right=(),
    properties=(Property("between", "", _between), Property("wide", "", _wide)),
    mistakes=SLIPS,
)


def outcomes(answer, exercise=CLAMPED, seed=0):
    return [judging.run(exercise, i, answer, seed) for i in range(len(exercise.properties))]


def test_the_quickest_failure_is_looked_at_first_and_what_holds_last():
    search = Search(CLAMPED, outcomes(SLIPS[1].implementation), 0)
    assert [outcome.prop.name for outcome in search.order] == ["between", "wide"]
    only_wide = Search(CLAMPED, outcomes(lambda x, low, high, step: clamped(x, low, high, 2)), 0)
    assert [outcome.prop.name for outcome in only_wide.order] == ["wide", "between"]


@pytest.mark.parametrize("seed", range(3))
def test_a_pair_is_found_though_most_are_left_out(seed):
    pair = both(SLIPS[1], SLIPS[2])
    search = Search(CLAMPED, outcomes(pair.implementation, seed=seed), seed)
    assert pair.name in [made.name for made in search.pairs()]
    assert judge(CLAMPED, pair.implementation, seed=seed).mistake.name == pair.name


def test_a_pair_is_left_out_if_one_slip_has_no_effect_and_the_other_another():
    """Nothing is cut where numbers are small: with "not cut above", only the other one shows."""
    wide = replace(CLAMPED, properties=CLAMPED.properties[1:])
    search = Search(wide, outcomes(SLIPS[2].implementation, wide), 0)
    names = {made.name for made in search.pairs()}
    assert "not cut above, and started at one" in names
    assert "not cut above, and negated" not in names
    assert "once too often, and negated" in names  # both show: who knows what they do together


def test_what_is_nan_except_where_nothing_was_wanted_is_not_told_as_slips():
    """An empty row or split gives 0 and -inf, whatever is wrong with the others."""

    def asked(answer, rng):
        x = torch.randn(6, generator=rng)
        empty = torch.tensor([True, False, False, False, False, False])
        wanted = torch.where(empty, -torch.inf, clamped(x, -x.abs() - 1, x.abs() + 1, 2))
        return Seen.of(answer, (x,), wanted=wanted)

    def some(value, rest):
        return lambda x: torch.cat([torch.full((1,), value), torch.full((5,), rest)])

    exercise = replace(CLAMPED, properties=(Property("rows", "", asked),))
    nan, inf = torch.nan, torch.inf
    for answer, says_nothing in (
        (some(-inf, nan), True),
        (some(nan, nan), True),
        (some(inf, nan), False),
        (some(nan, 1.0), False),
        (some(-inf, -inf), False),
    ):
        search = Search(exercise, outcomes(answer, exercise), 0)
        assert all(map(recognising._nothing_but_nan, search.failures)) is says_nothing


def test_waiting_does_not_count_only_work_does(monkeypatch):
    """A busy machine lets a process wait: the verdict must not depend on it."""
    pair = both(SLIPS[1], SLIPS[2])
    monkeypatch.setattr(recognising, "SEARCH_SECONDS", 0.5)
    slow = Property("wide", "", lambda answer, rng: (time.sleep(0.02), _wide(answer, rng))[1])
    waiting = replace(CLAMPED, properties=(slow,), trials=1)
    assert judge(waiting, pair.implementation, seed=1).mistake.name == pair.name


def test_the_search_ends_when_its_time_is_up(monkeypatch):
    monkeypatch.setattr(recognising, "SEARCH_SECONDS", 0.0)
    pair = both(SLIPS[1], SLIPS[2])
    assert judge(CLAMPED, pair.implementation, seed=0).mistake is None
    assert judge(CLAMPED, SLIPS[3].implementation, seed=0).mistake is SLIPS[3]  # always looked for


def test_a_mistake_that_never_ends_is_passed_over():
    def forever(x, low, high, step):
        while True:
            pass

    mistakes = (Mistake("forever", "It never ends.", forever), *SLIPS)
    endless = replace(CLAMPED, mistakes=mistakes, seconds=1.0)
    assert judge(endless, SLIPS[3].implementation).mistake is SLIPS[3]


def test_seeds_differ_by_property_and_trial_and_not_by_answer():
    drawn = [seed for i in range(2) for seed in seeds(CLAMPED, i, 7)]
    assert len(set(drawn)) == 2 * CLAMPED.trials and drawn[0] == 7
