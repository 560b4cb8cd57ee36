"""Exercise 2.2: how many operations per byte decode does, and what it waits for."""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen

MEMORY, ARITHMETIC = "memory", "arithmetic"
RIDGE = "The ridge"


def one_by_one(
    G: int, Lq: int, bytes_each: int, peak_tflops: float, bandwidth: float
) -> tuple[float, str]:
    """Another correct answer: from the times for one KV head with a million keys of D = 128."""
    numbers = 2 * 10**6 * 128  # of K and V
    operations = sum(2 for _ in range(G * Lq)) * numbers
    moved = numbers * bytes_each
    longer = moved / (bandwidth * 1e9) > operations / (peak_tflops * 1e12)
    return operations / moved, MEMORY if longer else ARITHMETIC


def _seen(answer: Callable, *args: float) -> Seen:
    # two divisions and two products: a few roundings of a float
    return Seen.of(
        answer, args, wanted=one_by_one(*args), names=("intensity", "limit"), atol=0.0, rtol=1e-12
    )


def _one_head(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, 1, 1, 2, 100.0 * integer(rng, 3, 9), 1000.0 * integer(rng, 1, 4))


def _group(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, integer(rng, 2, 16), 1, 2, 312.0, 2039.0)


def _several_queries(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, integer(rng, 3, 8), integer(rng, 2, 9), 2, 312.0, 2039.0)


def _formats(answer: Callable, rng: Generator) -> list[Seen]:
    G = integer(rng, 2, 8)
    return [_seen(answer, G, 1, bytes_each, 67.0, 3350.0) for bytes_each in (4, 1)]


def _near_the_ridge(answer: Callable, rng: Generator) -> list[Seen]:
    """The ridge at 125 operations per byte, then a little higher: floats hold these exactly."""
    queries = 5 ** integer(rng, 0, 2)
    return [
        _seen(answer, 125 // queries, queries, 2, 256.0, 2048.0),
        _seen(answer, 125 // queries, queries, 2, 257.0, 2048.0),
        _seen(answer, 126, 1, 2, 256.0, 2048.0),
    ]


def _this_cpu(answer: Callable, rng: Generator) -> list[Seen]:
    """Ridges of 1 to 2.5 and of 0.25 operations per byte."""
    return [
        _seen(answer, 8, 1, 4, 0.01 * integer(rng, 2, 5), 20.0),
        _seen(answer, 1, 1, 4, 0.01, 40.0),
    ]


def _answer(
    intensity: Callable[..., float], limit: Callable[[float, float], bool] | None = None
) -> Callable:
    """An answer with its own formula, and its own idea of when memory is the limit."""

    def wrong(
        G: int, Lq: int, bytes_each: int, peak_tflops: float, bandwidth: float
    ) -> tuple[float, str]:
        x = intensity(G, Lq, bytes_each)
        if limit is None:
            slow = x < peak_tflops * 1e12 / (bandwidth * 1e9)
        else:
            slow = limit(x, peak_tflops, bandwidth)
        return x, MEMORY if slow else ARITHMETIC

    return wrong


def right(G: int, Lq: int, bytes_each: int) -> float:
    """2 · G · Lq / bytes."""
    return 2 * G * Lq / bytes_each


INTENSITY = Exercise(
    id="2.2",
    name="decode limit",
    title="What decode waits for",
    section="6 · Why decode waits for memory",
    solution_name="decode_limit",
    properties=(
        Property("one head", "G = 1, Lq = 1, 16 bits: one operation per byte", _one_head),
        Property("a group", "G query heads share each key", _group),
        Property("several queries", "Lq > 1, as when drafts are verified", _several_queries),
        Property("formats", "4 bytes and 1 byte per element", _formats),
        Property("near the ridge", "below it, on it, above it", _near_the_ridge, RIDGE),
        Property("a CPU", "a ridge of a few operations per byte", _this_cpu, RIDGE),
    ),
    mistakes=(
        Mistake(
            "a multiply-add counted once",
            "The intensity is **half** of what it should be. A product and an addition are two "
            "operations for each element and query row; or, if you counted only K's operations, "
            "count only K's bytes, too.",
            _answer(lambda G, Lq, b: G * Lq / b),
        ),
        Mistake(
            "bytes of K alone",
            "The intensity is **twice** what it should be: the operations of K and V, over the "
            "bytes of one of them.",
            _answer(lambda G, Lq, b: 4 * G * Lq / b),
        ),
        Mistake(
            "group forgotten",
            "G does not appear: a key that is read once is used by **all G query heads** that "
            "share it.",
            _answer(lambda G, Lq, b: 2 * Lq / b),
        ),
        Mistake(
            "queries forgotten",
            "Lq does not appear: a key that is read once is used by **all Lq new tokens**.",
            _answer(lambda G, Lq, b: 2 * G / b),
        ),
        Mistake(
            "bytes an operation",
            "The intensity is **upside down**: these are bytes per operation, not "
            "operations per byte.",
            _answer(lambda G, Lq, b: b / (2 * G * Lq)),
        ),
        Mistake(
            "a thousand too small",
            "The intensities are right, but the verdicts are not: the ridge is **a thousand "
            "times** too low. peak_tflops is in 10¹² operations per second, bandwidth in 10⁹ "
            "bytes per second.",
            _answer(right, lambda x, peak, bandwidth: x < peak / bandwidth),
            see=RIDGE,
        ),
        Mistake(
            "ridge upside down",
            "The intensities are right, but the ridge is **upside down**: it is operations "
            "per second over bytes per second.",
            _answer(right, lambda x, peak, bandwidth: x < bandwidth / (1e3 * peak)),
            see=RIDGE,
        ),
        Mistake(
            "verdicts swapped",
            "The intensities are right, but the two verdicts are **swapped**: few operations per "
            "byte means waiting for memory.",
            _answer(right, lambda x, peak, bandwidth: x >= 1e3 * peak / bandwidth),
            see=RIDGE,
        ),
        Mistake(
            "always memory",
            'The intensities are right, but the verdict is **always** "memory". That is usual for '
            "decode, but not a law: compare the intensity with the device's ridge, and mind the "
            "units.",
            _answer(right, lambda x, peak, bandwidth: True),
            see=RIDGE,
        ),
        Mistake(
            "on the ridge",
            "Only the case **on the ridge** is wrong: both take equally long there, and the task "
            "counts that as arithmetic.",
            _answer(right, lambda x, peak, bandwidth: x <= 1e3 * peak / bandwidth),
            see=RIDGE,
        ),
    ),
    alternative=one_by_one,
)
