"""An answer may be anything that can be called: whatever it lacks, it gets a verdict."""

import functools

import pytest
import torch
from doubling import DOUBLE, half, told

from course.check import judge
from course.check.borrowed import borrowed_from_us
from course.check.report import Status
from reference.attention import safe_softmax


def by_exec(source, **names):
    """What a bare `exec` defines as `f`: its module is None, and it has no source."""
    exec(source, names)
    return names["f"]


def without_a_module(function):
    function.__module__ = None
    return function


class Object:
    def __call__(self, x):
        return 2 * x

    def method(self, x):
        return 2 * x

    @staticmethod
    def static(x):
        return 2 * x


class OfAnyAttribute(Object):
    def __getattr__(self, name):
        return None


class OfKeys(Object, dict):
    """Its keys are its attributes: another name raises KeyError."""

    __getattr__ = dict.__getitem__


class OfKeysAlone(Object):
    def __getattr__(self, name):
        raise KeyError(name)


class Made:
    def __new__(cls, x):
        return 2 * x


class EqualToNothing(type):
    __hash__ = None

    def __eq__(cls, other):
        raise TypeError


class Unhashable(metaclass=EqualToNothing):
    def __new__(cls, x):
        return 2 * x


class Module(torch.nn.Module):
    def forward(self, x):
        return 2 * x


def wraps_itself(x):
    return 2 * x


wraps_itself.__wrapped__ = wraps_itself

ANSWERS = {
    "exec": by_exec("def f(x): return 2 * x"),
    "exec, a lambda": by_exec("f = lambda x: 2 * x"),
    "exec, a class": by_exec("class f:\n    def __new__(cls, x): return 2 * x"),
    "exec, with a helper": by_exec("def g(x): return 2 * x\ndef f(x): return g(x)"),
    "exec, with a default": by_exec("def f(x, g=lambda x: 2 * x): return g(x)"),
    "a helper without a module": by_exec(
        "f = lambda x: g(x)", __name__=__name__, g=without_a_module(lambda x: 2 * x)
    ),
    "a global of keys": by_exec("f = lambda x: 2 * x if g is not x else x", g=OfKeys()),
    "a number for a fn": by_exec("def f(x): return 2 * x\nf.fn = 3"),
    "lambda": lambda x: 2 * x,
    "partial": functools.partial(torch.mul, 2),
    "cached": functools.cache(lambda x: 2 * x),
    "object": Object(),
    "method": Object().method,
    "static method": Object.static,
    "any attribute": OfAnyAttribute(),
    "attributes are keys": OfKeysAlone(),
    "class": Made,
    "unhashable class": Unhashable,
    "torch module": Module(),
    "wraps itself": wraps_itself,
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_any_right_answer_passes(answer):
    report = judge(DOUBLE, answer)
    assert report.status is Status.PASS, f"\n{report}"


@pytest.mark.parametrize(
    "wrong",
    [by_exec("def f(x): return x / 2"), functools.partial(half), without_a_module(lambda x: x / 2)],
    ids=["exec", "partial", "no module"],
)
def test_a_mistake_is_named_whatever_has_made_it(wrong):
    assert judge(DOUBLE, wrong).mistake.name == "half"


class Raising(OfKeysAlone):
    def __call__(self, x):
        return x.no_such_thing


class Writing(OfKeysAlone):
    def __call__(self, x):
        return x.mul_(2)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (by_exec("def f(x): return x.no_such_thing"), "It raised AttributeError"),
        (Raising(), "It raised AttributeError"),
        (Writing(), "It changes its argument `argument 1`"),
        (by_exec("def f(x): raise NotImplementedError()"), "not written yet"),
        (torch.Tensor.relu, "wanted"),
    ],
    ids=["exec raises", "object raises", "object writes", "exec, a stub", "built in"],
)
def test_any_wrong_answer_is_told(answer, says):
    report = judge(DOUBLE, answer)
    assert report.status is Status.FAIL
    assert says in told(report)


def test_exec_does_not_hide_our_own_function():
    helper = "def g(x): return h(x)[0]\ndef f(x): return g(x)"
    for source in ("def f(x): return h(x)[0]", helper):
        answer = by_exec(source, h=safe_softmax)
        assert borrowed_from_us(DOUBLE, answer) == "reference.attention.safe_softmax"
