"""An answer must not be the course's own function, however it is called."""

import functools

import pytest
import torch
from doubling import DOUBLE, having, told

from course.check import judge
from course.check.borrowed import borrowed_from_us
from course.check.report import Status
from reference import attention
from reference.attention import safe_softmax
from reference.paging import OutOfPages, PageTables


def _borrowing(x):
    return _helper(x)


def _helper(x):
    return safe_softmax(x)[0]


def _borrowing_by_module(x):
    return attention.safe_softmax(x)[0]


def _importing(x):
    from reference.attention import causal_mask, safe_softmax  # noqa: F401

    return safe_softmax(x)[0]


def _importing_a_module(x):
    import reference.attention

    return reference.attention.safe_softmax(x)[0]


@pytest.mark.parametrize("answer", [safe_softmax, _borrowing, _borrowing_by_module])
def test_our_own_function_is_no_answer(answer):
    report = judge(DOUBLE, answer)
    assert report.status is Status.FAIL
    assert "course's own `reference.attention.safe_softmax`: write this one yourself" in told(
        report
    )


def _in_an_inner_function(x):
    def inner(y):
        return safe_softmax(y)[0]

    return inner(x)


def _in_a_comprehension(x):
    return torch.stack([safe_softmax(row)[0] for row in x])


def _importing_around_an_inner_function(x):
    import reference.attention as ours

    return (lambda y: ours.safe_softmax(y)[0])(x)


def _in_an_inner_class(x):
    class Doubling:
        of = staticmethod(safe_softmax)

    return Doubling.of(x)[0]


class _Helper:
    @property
    def softmax(self):
        return safe_softmax

    @staticmethod
    def apply(x):
        return safe_softmax(x)[0]


class _Inheriting(_Helper):
    pass


def _in_a_method(x):
    return _Helper.apply(x)


def _in_a_base_class(x):
    return _Inheriting.apply(x)


def _by_default(x, softmax=safe_softmax):
    return softmax(x)[0]


def _made(softmax):
    return lambda x: softmax(x)[0]


class _OursByInheritance(PageTables):
    pass


@pytest.mark.parametrize(
    "answer",
    [
        _in_an_inner_function,
        _in_a_comprehension,
        _in_an_inner_class,
        _in_a_method,
        _in_a_base_class,
        _by_default,
        _made(safe_softmax),
        functools.partial(_made, safe_softmax),
        _Helper,
        _Inheriting,
    ],
)
def test_nothing_hides_our_own_function(answer):
    assert borrowed_from_us(DOUBLE, answer) == "reference.attention.safe_softmax"
    assert "write this one yourself" in told(judge(DOUBLE, answer))


@pytest.mark.parametrize("answer", [PageTables, _OursByInheritance, lambda x: PageTables(x, 2)])
def test_our_own_class_is_no_answer(answer):
    assert borrowed_from_us(DOUBLE, answer) == "reference.paging.tables.PageTables"


def test_our_exceptions_may_be_raised_and_other_libraries_used():
    class Answer(torch.nn.Module):
        def take(self):
            raise OutOfPages

    assert borrowed_from_us(DOUBLE, Answer) == ""


@pytest.mark.parametrize(
    "answer", [_importing, _importing_a_module, _importing_around_an_inner_function]
)
def test_an_import_within_the_function_is_no_way_around(answer):
    assert "write this one yourself" in told(judge(DOUBLE, answer))


def _has_a_method_of_that_name(x):
    return 2 * torch.Tensor.double(x).float()  # `double` here, and a global of that name below


def test_a_method_is_not_the_function_of_the_same_name(monkeypatch):
    monkeypatch.setitem(_has_a_method_of_that_name.__globals__, "double", safe_softmax)
    assert judge(DOUBLE, _has_a_method_of_that_name).status is Status.PASS


def test_what_a_right_answer_uses_may_be_used():
    exercise = having(also_right=(_borrowing_by_module,))
    assert "write this one yourself" not in told(judge(exercise, _borrowing))
