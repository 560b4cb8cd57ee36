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

    bandwidth: that can be reached, GB/s. Returns µs.
    """
    elements = sum(Lk * D for _ in ("K", "V"))
    seconds = elements * bytes_each / (bandwidth * 1e9 / sms)
    return launch_us + 1e6 * makespan(schedule([seconds] * (B * Hq), sms=sms))


def _seen(answer: Callable, shape: Shape, gpu: Gpu) -> Seen:
    wanted = by_schedule(*shape, *gpu)
    # some ten roundings of fp32 (6e-8 each), should anybody compute in it
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
    """The predicted time, µs, with at most one catalogued fault in it."""
    programs = Hq if wrong == "no batch" else B * Hq
    tensors = 1 if wrong == "K alone" else 2
    size = {"two bytes": 2, "numbers": 1}.get(wrong, bytes_each)
    drawn = tensors * Lk * D * size
    fullest = math.ceil(programs / sms)
    fullest = {
        "rounded down": programs // sms,
        "not rounded": programs / sms,
        "even above one": max(1.0, programs / sms),
        "one wave": 1,
        "in a row": programs,
    }.get(wrong, fullest)
    share = bandwidth / sms
    if wrong == "whole bandwidth":
        share = bandwidth
    if wrong == "shared by programs":
        share = bandwidth / min(programs, sms)
    scale = {"GiB": 1e6 / 2**30, "ms": 1e-6, "seconds": 1e-9}.get(wrong, 1e-3)
    started = {"no launch": 0.0, "a launch a wave": fullest * launch_us}.get(wrong, launch_us)
    return started + fullest * drawn / share * scale


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
        "not rounded",
        "The programs are divided evenly over the SMs, as if a program could be cut in pieces: "
        "this is the roofline, the time with no SM idle. The fullest SM has a whole number of "
        "programs, and the step waits for it.",
        WAVES,
    ),
    (
        "shared by programs",
        "The programs that there are share **all** of the bandwidth among themselves. An SM with "
        "a program draws no more because its neighbours have none.",
        "",
    ),
    (
        "even above one",
        "With more programs than SMs you divide them evenly. There are whole programs only: "
        "round up what the fullest SM gets.",
        WAVES,
    ),
    (
        "rounded down",
        "The programs on the fullest SM are rounded **down**: with fewer programs than SMs that "
        "is none at all, and a tail is left out.",
        WAVES,
    ),
    (
        "one wave",
        "The time does not grow where there are more programs than SMs: some SM then has two.",
        WAVES,
    ),
    (
        "in a row",
        "The programs run **one after the other** in your sum. They run side by side, one on each "
        "SM as long as there are SMs.",
        WAVES,
    ),
    (
        "K alone",
        "Half of the bytes are missing: a program reads keys **and** values.",
        "",
    ),
    (
        "two bytes",
        "Every number is taken to have 2 bytes. It has `bytes_each`.",
        "",
    ),
    (
        "numbers",
        "You count numbers, not bytes: each has `bytes_each`.",
        "",
    ),
    (
        "no batch",
        "B does not appear: every user brings programs of their own.",
        "2 · 32 heads on 108 SMs",
    ),
    (
        "no launch",
        "The launch is missing. With a short context it is most of the time.",
        "",
    ),
    (
        "a launch a wave",
        "A launch is counted for every wave. All programs are launched at once; later waves "
        "start by themselves.",
        "",
    ),
    (
        "GiB",
        "Nearly: a GB is 10⁹ bytes here, as in data sheets, and not 2³⁰.",
        "",
    ),
    (
        "ms",
        "The reading is in milliseconds, the launch in microseconds. 1 GB/s is 1,000 bytes a µs.",
        "",
    ),
    (
        "seconds",
        "The reading is in seconds, the launch in microseconds. 1 GB/s is 1,000 bytes a µs.",
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
        Property("all SMs", "exactly as many programs as SMs", _as_many),
        Property("a tail", "more programs than SMs, not a multiple", _tail, see=WAVES),
        Property("bytes each", "1 and 4 bytes a number", _dtypes),
        Property("short", "the launch is nearly everything", _short),
        Property("any GPU", "other SMs, bandwidths, launches", _gpus),
    ),
    mistakes=tuple(Mistake(name, says, _fault(name), see) for name, says, see in TOLD),
    alternative=by_schedule,
)
