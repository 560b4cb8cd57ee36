"""An exercise to test the checker with: double a tensor."""

import dataclasses

import torch

from course.check import Exercise, Mistake, Property, Seen


def numbers(answer, rng):
    x = torch.randn(3, generator=rng)
    return Seen.of(answer, (x,), wanted=2 * x)


def zeros(answer, rng):
    return Seen.of(answer, (torch.zeros(2),), wanted=torch.zeros(2))


def double(x):
    return 2 * x


def half(x):
    return x / 2


def plus_one(x):
    return 2 * x + 1


DOUBLE = Exercise(
    id="9.1",
    name="double",
    title="Double it",
    section="1 · Twice",
    right=double,
    also_right=(lambda x: x + x,),
    properties=(
        Property("numbers", "any three of them", numbers),
        Property("zeros", "stay zeros", zeros),
    ),
    mistakes=(
        Mistake("half", "This **halves**.", half),
        Mistake("one more", "This is one too many.", plus_one, see="2 · Else"),
    ),
)


def having(**changes) -> Exercise:
    return dataclasses.replace(DOUBLE, **changes)


def probing(probe, **changes) -> Exercise:
    """An exercise of a single property."""
    return having(properties=(Property("only", "one", probe),), mistakes=(), **changes)


def told(report) -> str:
    return " ".join(str(report).split())
