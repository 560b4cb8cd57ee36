"""course.check.blunders: what is said about an answer that no mistake of its exercise explains."""

from dataclasses import replace

import pytest
import torch
from doubling import DOUBLE, told

from course.check import Property, Seen, judge
from course.check.blunders import blunder


def seen(*pairs):
    return [Seen(got, wanted, "x") for got, wanted in pairs]


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([((1, 2.5), (2.5, 1))], "another **order**"),
        ([(("memory", 4.0), (4.0, "memory")), (("x", 1.0), (1.0, "x"))], "another **order**"),
        ([((3, 1, 2), (1, 2, 3)), ((6, 4, 5), (4, 5, 6))], "another **order**"),
        ([(2000.0, 2.0), (7.0, 0.007)], "too large by a factor of 1,000: check the **units**"),
        ([((4, 2e-6), (4, 2.0))], "too small by a factor of 1,000,000"),
        ([(1e9, 2**30)], "too small by a factor of 1.07 (GiB and GB)"),
        ([(0.5, 50)], "too small by a factor of 100"),
    ],
)
def test_order_and_units(pairs, says):
    assert says in blunder(seen(*pairs))


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [((1, 1), (1, 2))],
        [((1, 2), (2, 1)), ((3, 4), (3, 5))],  # swapped only once
        [(2000.0, 2.0), (8.0, 2.0)],  # factors differ
        [(3.0, 1.0)],  # not a factor between units
        [(True, False)],
        [(("a", 1000), ("b", 1))],  # something else is wrong, too
        [(torch.ones(2), torch.ones(2) * 1000)],
        [((1, 2), (1, 2, 3))],
        [(0.0, 5.0)],
    ],
    ids=str,
)
def test_nothing_is_said_where_nothing_is_sure(pairs):
    assert blunder(seen(*pairs)) == ""


def test_a_report_says_it_where_no_mistake_is_recognised():
    pair = Property(
        "pair", "sum and size", lambda f, _: Seen(f([1, 2, 3]), (6, 3), "x = [1, 2, 3]")
    )
    exercise = replace(DOUBLE, properties=(pair,), mistakes=())
    report = judge(exercise, lambda x: (len(x), sum(x)))
    assert "The values are right, but they come in another order" in told(report)
    assert "order" not in told(judge(exercise, lambda x: (sum(x), 4)))
    assert "units" in told(judge(exercise, lambda x: (1000 * sum(x), len(x))))


def test_it_is_silent_beside_an_exception():
    def raises(f, _):
        return Seen(f(None), 1, "nothing")

    pair = Property("pair", "sum and size", lambda f, _: Seen(f([1, 2, 3]), (6, 3), "x"))
    exercise = replace(DOUBLE, properties=(pair, Property("bad", "None", raises)), mistakes=())
    assert judge(exercise, lambda x: (len(x), sum(x))).blunder == ""
