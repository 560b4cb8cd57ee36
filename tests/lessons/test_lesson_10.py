"""Lesson 10: how exercise 10.2 is scored, and what its report says."""

import math

import pytest

from course.check import judge
from course.check.lesson_10 import split_rule
from course.check.lesson_10.split_rule import BESIDE, RULE, scored_curves
from course.check.report import Status
from course.hardware.regret import RULES, score
from course.hardware.split_curves import Curve


def verdict(name, seed):
    """The report on one of the course's rules; wrapped, since as it is it would be refused."""
    return judge(RULE, lambda shape: RULES[name](shape), seed=seed)


def test_a_passing_rule_is_told_its_regret_beside_the_others():
    report = str(verdict("FlashAttention-2", seed=1))
    mine = score("", RULES["FlashAttention-2"], scored_curves())
    for figure in (mine.median, mine.ninetieth, mine.worst):
        assert f"yours {100 * figure:.1f} %; FlashAttention-2 {100 * figure:.1f} %" in report
    assert all(report.count(name) >= 3 for name in BESIDE)


@pytest.mark.parametrize("name", BESIDE)
def test_the_rules_beside_pass_themselves(name):
    assert verdict(name, seed=2).status is Status.PASS


@pytest.mark.parametrize("name", ["never split", "always 16", "512 keys each"])
def test_rules_without_thought_do_not(name):
    assert verdict(name, seed=2).status is Status.FAIL


def test_a_right_rule_need_not_be_one_of_ours():
    def least_ticks(shape):
        def cost(S):
            fullest = math.ceil(shape.programs * S / shape.num_sms)
            return fullest * (math.ceil(shape.blocks / S) + 1) + 3 * (S > 1)

        return min(range(1, max(2, min(64, shape.blocks) + 1)), key=cost)

    assert judge(RULE, least_ticks, seed=3).status is Status.PASS


def test_a_recorded_run_takes_the_place_of_the_model(monkeypatch):
    row = {"B": 1, "Hq": 32, "Hkv": 8, "Lk": 4096, "num_splits": [1, 8, 16], "ms": [3.0, 1.0, 2.0]}
    record = {"gpu": "NVIDIA H100 80GB HBM3", "rows": [row]}
    monkeypatch.setattr(split_rule, "load", lambda name: {"splits": record}[name])
    curves = scored_curves.__wrapped__()  # bypasses the cache
    assert [curve.source for curve in curves] == ["recorded on H100 SXM"]
    assert curves[0].best == (8, 1000.0)
    # More splits than were tried count as the most tried; otherwise there would be no score.
    clamped = split_rule.clamped(lambda shape: 100, curves)
    assert clamped(curves[0].shape) == 16 and isinstance(curves[0], Curve)
