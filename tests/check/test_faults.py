"""What can be wrong with an answer, and the sentence for it."""

import contextlib
import time
from typing import NamedTuple

import numpy as np
import pytest
import torch
from doubling import DOUBLE, double, having, probing, told

from course.check import Seen, judge
from course.check.compare import complain
from course.check.kinds import kind
from course.check.observe import tensors_in
from course.check.report import Status


class Named(NamedTuple):
    """Two values with names."""

    x: torch.Tensor
    n: int


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda x: (2 * x)[None], "The answer must have shape (3,); got (1, 3)."),
        (lambda x: 2 * x.double(), "The answer must have dtype float32; got float64."),
        (lambda x: 2 * x / (x != x[0]), "The answer"),
        (lambda x: torch.full_like(x, torch.nan), "The answer is NaN (not a number) in 3 of 3"),
        (lambda x: [1, 2], "got a list"),
        (lambda x: 2 * x.requires_grad_(), ""),
        (lambda x: x.mul_(2), "It changes its argument `x`"),
        (lambda x: x[5], "It raised IndexError: index 5"),
        (lambda: 0, "It raised TypeError"),
    ],
    ids=["shape", "dtype", "inf", "nan", "list", "grad", "in-place", "raises", "arguments"],
)
def test_general_faults_have_sentences_of_their_own(answer, says):
    report = judge(DOUBLE, answer)
    assert (report.status is Status.PASS) is (says == "")
    assert says in told(report)


def test_exception_is_told_with_the_learners_own_line():
    def broken(x):
        y = x + 1
        return y**2 - y.no_such_thing**2

    text = told(judge(DOUBLE, broken))
    assert "It raised AttributeError" in text and "with x = [" in text
    assert "return y**2 - y.no_such_thing**2" in text and "observe.py" not in text


def test_result_that_the_probe_cannot_use_is_a_failure_not_a_crash():
    def unpacks(answer, rng):
        a, b = answer(torch.ones(1))
        return Seen(a, b)

    report = judge(probing(unpacks), lambda x: 3)
    assert report.status is Status.FAIL and "TypeError" in told(report)


def test_tuples_name_their_parts():
    def probe(answer, rng):
        wanted = (torch.ones(1), torch.zeros(1))
        return Seen.of(answer, (torch.ones(1),), wanted=wanted, names=("o", "lse"))

    exercise = probing(probe)
    wrong = judge(exercise, lambda x: (x, x))
    assert "The difference is in `lse`." in told(wrong)
    assert "3 values" in told(judge(exercise, lambda x: (x, x, x)))
    assert "(o, lse)" in told(judge(exercise, lambda x: (x, x, x)))


@pytest.mark.parametrize(
    ("got", "wanted", "fine"),
    [
        (3, 3, True),
        (3, 4, False),
        (3.0, 3, True),
        (torch.tensor(3), 3, True),
        (torch.tensor(0.1), 0.1, True),
        (0.1001, 0.1, False),
        (True, True, True),
        (False, True, False),
        ("a", "a", True),
        ("a", "b", False),
        ([(0, 2), (2, 3)], [(0, 2), (2, 3)], True),
        ([(0, 2)], [(0, 2), (2, 3)], False),
        ({"a": 1}, {"a": 1}, True),
        ({"b": 1}, {"a": 1}, False),
        (torch.tensor([torch.nan, 1]), torch.tensor([torch.nan, 1]), True),
        (torch.tensor([0.0, 1]), torch.tensor([torch.nan, 1]), False),
        (torch.tensor(-torch.inf), torch.tensor(-torch.inf), True),
        (torch.tensor(torch.inf), torch.tensor(-torch.inf), False),
        (None, None, True),
    ],
    ids=str,
)
def test_comparison(got, wanted, fine):
    exercise = probing(lambda answer, rng: Seen(got, wanted), right=0)
    assert (judge(exercise, 1).status is Status.PASS) is fine


def test_tolerance_is_the_stated_one():
    def probe(answer, rng):
        return Seen.of(answer, (torch.ones(2),), wanted=torch.ones(2), atol=0.1)

    assert judge(probing(probe), lambda x: x + 0.09).status is Status.PASS
    assert judge(probing(probe), lambda x: x + 0.11).status is Status.FAIL


def test_large_tensors_are_told_by_their_worst_entry():
    def probe(answer, rng):
        x = torch.zeros(30, 40)
        return Seen.of(answer, (x,), wanted=x)

    def off(x):
        y = x.clone()
        y[3, 7], y[4, 4] = 5.0, 1.0
        return y

    text = told(judge(probing(probe), off))
    assert "differs in 2 of 1200 entries, the first at [3, 7]; the worst at [3, 7]: got 5" in text
    assert len(text) < 500


def test_large_tensors_are_shown_from_where_they_differ():
    wanted = torch.zeros(3, 5)
    got = wanted.clone()
    got[1, 2] = 7.0
    text = told(judge(probing(lambda answer, rng: Seen((got, 1), (wanted, 1))), double))
    assert "float32 (3, 5) from [1, 2] on [7, 0, 0, …], 1)" in text
    assert "float32 (3, 5) from [1, 2] on [0, 0, 0, …], 1)" in text
    got[:, :] = 0
    got[2, 4] = 3.0
    assert "from [2, 4] on [3]" in told(judge(probing(lambda a, rng: Seen(got, wanted)), double))


@pytest.mark.parametrize("n", [2, 20])
def test_got_and_wanted_never_look_the_same(n):
    wanted = torch.full((n,), 123.456)
    text = told(judge(probing(lambda answer, rng: Seen(wanted + 0.002, wanted)), double))
    assert "123.458" in text and "123.456" in text


def test_masks_are_drawn_in_zeros_and_ones():
    wanted = torch.ones(3, 4).tril(1).bool()
    report = judge(probing(lambda answer, rng: Seen(~wanted, wanted)), double)
    lines = [line.strip() for line in str(report).splitlines()]
    drawn = ["got        wanted", "0 0 1 1    1 1 0 0", "0 0 0 1    1 1 1 0", "0 0 0 0    1 1 1 1"]
    assert lines[2:6] == drawn
    assert "differs in 12 of 12 entries, the first at [0, 0]." in told(report)
    assert "worst" not in told(report) and "True" not in told(report)


def test_endless_answer_is_stopped():
    def endless(x):
        while True:
            with contextlib.suppress(Exception):  # the timeout must get through all the same
                time.sleep(0.01)

    start = time.monotonic()
    report = judge(having(seconds=0.3), endless)
    assert time.monotonic() - start < 5
    assert report.status is Status.FAIL and "longer than 0.3 s" in told(report)
    assert "1 more not tried" in told(report)


def test_what_is_wanted_is_not_what_the_answer_writes():
    x = torch.ones(2)
    for wanted in (x, (x, 3), [x], {"x": x}, Named(x, 3)):
        x.fill_(1)
        seen = Seen.of(lambda x: x.zero_(), (x,), wanted=wanted)
        assert type(seen.wanted) is type(wanted)
        kept = next(t for _, t in tensors_in((seen.wanted,)))
        assert kept.tolist() == [1, 1] and x.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("value", "said"),
    [(np.int64(3), "int"), ((1, 2.0), "int and float"), (True, "bool"), (torch.ones(1), "Tensor")],
)
def test_kinds_of_values(value, said):
    assert kind(value) == said


def test_numbers_of_numpy_are_numbers():
    assert complain(Seen(np.int64(3), 3)) is None
    assert complain(Seen(np.int64(4), 3)).kind == "value"
