"""course.check.spec: exercises written as marked functions, and mistakes as slips of the answer."""

import sys
import traceback
import types

import pytest
import torch
from doubling import told

from course.check import Seen, judge
from course.check.report import Status
from course.check.rewritten import DoesNotApply, rewritten, source_of
from course.check.spec import Exercise, Slip, also_right, both, holds, mistake, right, slip


@right
def scaled(x, n):
    y = 2 * x
    return y + n


@also_right
def scaled_by_adding(x, n):
    return n + x + x


@holds("any three of them")
def plain_numbers(answer, rng):
    x = torch.randn(3, generator=rng)
    return Seen.of(answer, (x, 3), wanted=2 * x + 3)


@holds("n = 0 adds nothing", name="n = 0", see="2 · Nothing")
def nothing_to_add(answer, rng):
    x = torch.randn(3, generator=rng)
    return Seen.of(answer, (x, 0), wanted=2 * x)


slip("three times", "This takes x **three** times.", ("2 * x", "3 * x"))
slip("n subtracted", "This **subtracts** n.", ("y + n", "y - n"), see="2 · Nothing")
slip("x alone", "This takes x **once**.", ("2 * x", "1 * x"))
slip("n twice", "This adds n **twice**.", ("n + x + x", "n + x + x + n"), of=scaled_by_adding)


@mistake("This returns **nothing but n**.")
def only_n(x, n):
    return torch.full_like(x, n)


SCALED = Exercise.of(__name__, "9.9 scaled twice", title="Twice", section="1 · Twice", trials=2)


def named(name):
    return next(made for made in SCALED.mistakes if made.name == name)


def test_an_exercise_is_what_its_file_marks_in_order():
    assert (SCALED.id, SCALED.name, SCALED.label) == ("9.9", "scaled twice", "9.9 scaled twice")
    assert SCALED.solution_name == "scaled" and SCALED.right is scaled
    assert SCALED.also_right == (scaled_by_adding,)
    assert [prop.name for prop in SCALED.properties] == ["plain numbers", "n = 0"]
    assert SCALED.properties[1].see == "2 · Nothing"
    assert [made.name for made in SCALED.mistakes] == [
        *("three times", "n subtracted", "x alone", "n twice", "only n")
    ]


def test_marks_leave_functions_as_they_are():
    assert scaled(1, 2) == 4 and only_n(torch.ones(1), 7) == 7


@pytest.mark.parametrize("answer", [scaled, scaled_by_adding])
def test_right_answers_pass(answer):
    assert judge(SCALED, answer).status is Status.PASS


@pytest.mark.parametrize("made", SCALED.mistakes, ids=lambda made: made.name)
def test_each_mistake_is_recognised(made):
    report = judge(SCALED, made.implementation)
    assert report.mistake is made, f"\n{report}"


def test_a_slip_in_other_words_is_recognised():
    assert judge(SCALED, lambda x, n: x + x + x + n).mistake is named("three times")


def test_two_slips_at_once_are_named():
    report = judge(SCALED, lambda x, n: 3 * x - n)
    assert report.mistake.name == "three times, and n subtracted"
    text = told(report)
    assert "Two things at once. First: This takes x three times. Second: This subtracts n." in text
    assert 'See lesson 09, section "2 · Nothing".' in text


@pytest.mark.parametrize(
    "names",
    [
        ("three times", "x alone"),  # they touch the same text
        ("three times", "only n"),  # written out by hand
        ("three times", "n twice"),  # of different answers
    ],
)
def test_what_cannot_be_in_one_answer_makes_no_pair(names):
    assert both(*map(named, names)) is None
    assert both(*map(named, reversed(names))) is None


def test_slips_that_depend_on_their_order_make_no_pair():
    one, other = (Slip(x, "", (change,), "", scaled) for x, change in (
        ("a", ("y + n", "y + n + x")), ("b", ("n + x", "n"))
    ))  # fmt: skip
    assert both(one, other) is None


def test_a_slip_must_apply():
    with pytest.raises(DoesNotApply, match="does not contain 'z'"):
        Slip("z", "", (("z", "x"),), "", scaled).implementation  # noqa: B018


def test_the_source_of_an_answer_is_without_marks():
    assert source_of(scaled) == "def scaled(x, n):\n    y = 2 * x\n    return y + n\n"


def test_a_traceback_quotes_the_rewritten_line():
    wrong = rewritten(scaled, [("y + n", "y + no_such_name")], "test")
    try:
        wrong(1, 2)
    except NameError as error:
        assert "return y + no_such_name" in "".join(traceback.format_exception(error))
    assert scaled(1, 2) == 4


@pytest.mark.parametrize(("rights", "probes"), [(0, 1), (2, 1), (1, 0)])
def test_a_file_marks_one_right_answer_and_something_that_holds(rights, probes, monkeypatch):
    module = types.ModuleType("marking")
    monkeypatch.setitem(sys.modules, "marking", module)

    def function():
        pass

    function.__module__ = "marking"
    for _ in range(rights):
        right(function)
    for _ in range(probes):
        holds("always")(function)
    with pytest.raises(ValueError, match=f"it marks {rights} and {probes}"):
        Exercise.of("marking", "9.9 x", title="", section="")
