"""Exercise 7.2: the time of one decode step, predicted from its shapes."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Generator

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen
from course.hardware import makespan, schedule

Shape = tuple[int, int, int, int, int]  # B, Hq, Lk, D, bytes_each
Gpu = tuple[int, float, float]  # sms, bandwidth in GB/s, launch in µs
SMALL, LARGE = (10, 1000.0, 5.0), (108, 1800.0, 10.0)


def by_schedule(
    B: int,
    Hq: int,
    Lk: int,
    D: int,
    bytes_each: int,
    sms: int,
    bandwidth: float,
    launch_us: float,
) -> float:
    """Another right answer: time one program in seconds, deal all of them out, wait for the last.

    bandwidth: what can be reached, GB/s. Returns µs.
    """
    elements = sum(Lk * D for _ in ("K", "V"))
    seconds = elements * bytes_each / (bandwidth * 1e9 / sms)
    return launch_us + 1e6 * makespan(schedule([seconds] * (B * Hq), sms=sms))


def _seen(answer: Callable, shape: Shape, gpu: Gpu) -> Seen:
    wanted = by_schedule(*shape, *gpu)
    # about ten fp32 roundings (6e-8 each), in case an answer computes in it
    return Seen.of(answer, (*shape, *gpu), wanted=wanted, atol=0.0, rtol=1e-6)


def _by_hand(answer: Callable, rng: Generator) -> list[Seen]:
    return [_seen(answer, (1, heads, 1000, 50, 2), SMALL) for heads in (4, 11)]


def _one_wave(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, (1, integer(rng, 4, 64), 64 * integer(rng, 64, 999), 128, 2), LARGE)


def _as_many(answer: Callable, rng: Generator) -> Seen:
    sms = integer(rng, 4, 40)
    return _seen(answer, (1, sms, 64 * integer(rng, 9, 99), 64, 2), (sms, 900.0, 8.0))


def _tail(answer: Callable, rng: Generator) -> Seen:
    shape = integer(rng, 4, 6), 32, 64 * integer(rng, 64, 999), 128, 2
    return _seen(answer, shape, LARGE)


def _dtypes(answer: Callable, rng: Generator) -> list[Seen]:
    Lk = 64 * integer(rng, 64, 999)
    return [_seen(answer, (1, 8, Lk, 64, each), (40, 320.0, 6.0)) for each in (1, 4)]


def _short(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, (1, 32, integer(rng, 1, 64), 128, 2), (132, 4000.0, integer(rng, 5, 20)))


def _gpus(answer: Callable, rng: Generator) -> Seen:
    gpu = integer(rng, 40, 304), 100.0 * integer(rng, 3, 80), float(integer(rng, 2, 12))
    return _seen(answer, (integer(rng, 1, 9), 16, 4096, 128, 2), gpu)


def step(
    B: int,
    Hq: int,
    Lk: int,
    D: int,
    bytes_each: int,
    sms: int,
    bandwidth: float,
    launch_us: float,
    wrong: str = "",
) -> float:
    """The predicted time, µs, with at most one catalogued fault."""
    programs = B * Hq
    drawn = (1 if wrong == "K alone" else 2) * Lk * D * bytes_each
    if wrong == "batch in the bytes":
        drawn *= B
    fullest = {
        "not rounded": programs / sms,
        "one too many": programs // sms + 1,
    }.get(wrong, math.ceil(programs / sms))
    sharers = {"whole bandwidth": 1, "shared by programs": programs}.get(wrong, sms)
    share = bandwidth * (0.9 if wrong == "90 % again" else 1.0) / sharers  # GB/s
    scale = {"nanoseconds": 1.0, "seconds and µs": 1e-9}.get(wrong, 1e-3)  # bytes / (GB/s): ns
    us = launch_us + fullest * drawn / share * scale
    return us * {"in ms": 1e-3, "in seconds": 1e-6}.get(wrong, 1.0)


def _fault(name: str) -> Callable:
    def wrong_step(B, Hq, Lk, D, bytes_each, sms, bandwidth, launch_us):
        return step(B, Hq, Lk, D, bytes_each, sms, bandwidth, launch_us, wrong=name)

    return wrong_step


WAVES = "1 · Four SMs, a handful of programs"
TOLD = (
    (
        "whole bandwidth",
        "A program is given the **whole** bandwidth. Its SM draws at most a share, the "
        "bandwidth divided by the number of SMs.",
        "",
    ),
    (
        "shared by programs",
        "The bandwidth is divided by the number of **programs**. It is the SMs that each have a "
        "share, and an SM with a program draws no more just because its neighbours have none.",
        "",
    ),
    (
        "not rounded",
        "The programs are divided evenly over the SMs, as if a program could be cut into pieces: "
        "this is the roofline, the time with no SM idle. The fullest SM has a whole number of "
        "programs, and the step waits for it.",
        WAVES,
    ),
    (
        "one too many",
        "The fullest SM has one program too many if they come out even: 10 programs on 10 SMs are "
        "one each. Dividing with // and adding 1 is not rounding up.",
        WAVES,
    ),
    (
        "batch in the bytes",
        "B is counted twice: it makes more programs, and each of your programs also reads the "
        "keys of all users. A program reads K and V of one head of one user.",
        "",
    ),
    (
        "K alone",
        "Half the bytes are missing: a program reads keys **and** values.",
        "",
    ),
    (
        "90 % again",
        "The factor of 90 % is applied again. `bandwidth` is already what can be reached; the one "
        "in the lesson's formula is the data sheet's.",
        "",
    ),
    (
        "nanoseconds",
        "The time spent reading is 1,000 times too long: bytes divided by GB/s give nanoseconds. "
        "1 GB/s is 1,000 bytes per µs.",
        "",
    ),
    (
        "seconds and µs",
        "The time spent reading is in seconds, the launch in µs, and the two are added. 1 s is "
        "10⁶ µs.",
        "",
    ),
    (
        "in ms",
        "Your answer is in milliseconds. It should be in µs, like the launch.",
        "",
    ),
    (
        "in seconds",
        "Your answer is in seconds. It should be in µs, like the launch.",
        "",
    ),
)

LATENCY = Exercise(
    id="7.2",
    name="predict",
    title="How long will it take?",
    section="3 · An idle SM is lost bandwidth",
    solution_name="predict_us",
    properties=(
        Property("by hand", "the two examples of the table", _by_hand),
        Property("one wave", "fewer programs than SMs, a long context", _one_wave),
        Property("all SMs", "exactly as many programs as SMs", _as_many, see=WAVES),
        Property("a tail", "more programs than SMs, but not a multiple", _tail, see=WAVES),
        Property("bytes each", "1 and 4 bytes per number", _dtypes),
        Property("short", "the launch is almost everything", _short),
        Property("any GPU", "other SMs, bandwidths, launches", _gpus),
    ),
    mistakes=tuple(Mistake(name, says, _fault(name), see) for name, says, see in TOLD),
    alternative=by_schedule,
)
