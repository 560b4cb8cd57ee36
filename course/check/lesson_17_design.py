"""Exercise 17.2: a benchmark of one's own, on made-up devices that have everything against it."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from torch import Generator, rand

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen
from course.stand_in import Inputs, StandIn

Quartiles = tuple[float, float, float]
SECTION = "5 · Many times, one number"
SLACK = 0.005  # a launch, 0.5 % of the call at the most here, is rightly part of the time
# 25 of the evenly spread samples can miss a quantile by some 8 % of them, and a tenth of them are
# outliers: 0.08 · 2 · spread / 0.9
MISS = 0.18


def quantiles(device: StandIn) -> Quartiles:
    """What a call takes, as the device was told: without noise, or evenly spread with outliers."""
    usual = 1 - (1 / device.outlier_every if device.outlier_every else 0.0)
    low, width = 1 - device.spread, 2 * device.spread
    return tuple(device.call_s * (low + width * p / usual) for p in (0.25, 0.5, 0.75))


def _ask(answer: Callable, rng: Generator, given: str, **device: float) -> Seen:
    call_s = 1e-3 * (0.5 + 1.5 * rand((), generator=rng).item())
    # no traps but those asked for; the cache holds 3 or 4 sets
    traps = {"warm": 1.0, "zeros": 1.0, "cache_bytes": integer(rng, 3, 4) * 2**20}
    made = StandIn(call_s=call_s, **(traps | device))
    rtol = SLACK + MISS * made.spread
    return Seen.of(
        answer, (made,), wanted=quantiles(made), given=f"a call of {call_s * 1e3:.3f} ms, {given}",
        names=("q1", "median", "q3"), atol=0.0, rtol=rtol,
    )  # fmt: skip


def _queue(answer: Callable, rng: Generator) -> Seen:
    return _ask(answer, rng, "nothing else in the way")


def _compiles(answer: Callable, rng: Generator) -> Seen:
    return _ask(answer, rng, "2 s more for the first one", compile_s=2.0)


def _rises(answer: Callable, rng: Generator) -> Seen:
    return _ask(answer, rng, "3 times as long until 30 ms of work are done", rise_s=0.03)


def _cache(answer: Callable, rng: Generator) -> Seen:
    return _ask(answer, rng, "0.4 times as long if the inputs are in the cache", warm=0.4)


def _data(answer: Callable, rng: Generator) -> Seen:
    return _ask(answer, rng, "0.7 times as long on zeros", zeros=0.7)


def _outliers(answer: Callable, rng: Generator) -> Seen:
    given = "each tenth 8 times as long, the others ± 10 %"
    return _ask(answer, rng, given, spread=0.1, outlier_every=10)


def _everything(answer: Callable, rng: Generator) -> Seen:
    traps = {"compile_s": 2.0, "rise_s": 0.03, "warm": 0.4, "zeros": 0.7}
    return _ask(answer, rng, "all of it at once", **traps, spread=0.1, outlier_every=10)


def enough_sets(device: StandIn, data: str = "random") -> list[Inputs]:
    """Make sets of inputs: one more than fit into the cache, and one more."""
    return [device.inputs(data) for _ in range(device.cache_bytes // device.set_bytes + 2)]


def stopwatch(
    device: StandIn, sets: list[Inputs], calls: int, warm_up: int, waits: bool = True
) -> list[float]:
    """Seconds of each of `calls` calls, after some that do not count."""
    times = []
    for i in range(warm_up + calls):
        start = device.clock()
        device.launch(sets[i % len(sets)])
        if waits:
            device.synchronize()
        if i >= warm_up:
            times.append(device.clock() - start)
    return times


def with_fault(device: StandIn, wrong: str) -> Quartiles:
    """The benchmark with one fault."""
    fit = device.cache_bytes // device.set_bytes
    sets = enough_sets(device, "zeros" if wrong == "zeros" else "random")
    sets = sets[-fit:] if wrong == "warm" else sets
    warm_up = {"no warm-up": 0, "one call": 1}.get(wrong, 80)
    if wrong == "one clock for all":
        stopwatch(device, sets, 0, warm_up)
        start = device.clock()
        for i in range(100):
            device.launch(sets[i % len(sets)])
        device.synchronize()
        return ((device.clock() - start) / 100,) * 3
    times = stopwatch(device, sets, 40, warm_up, waits=wrong != "does not wait")
    q1, median, q3 = statistics.quantiles(times)
    mean = statistics.fmean(times)
    return {
        "mean": (mean - statistics.stdev(times), mean, mean + statistics.stdev(times)),
        "least": (min(times), min(times), q3),
        "extremes": (min(times), median, max(times)),
    }.get(wrong, (q1, median, q3))


def until_warm(device: StandIn) -> Quartiles:
    """Another right answer: warms up by the clock, sorts, and counts off the quartiles."""
    sets, turn = enough_sets(device) + enough_sets(device), 0
    start = device.clock()
    while device.clock() - start < 2.5:
        device.launch(sets[turn % len(sets)])
        device.synchronize()
        turn += 1
    times = sorted(stopwatch(device, sets, 101, 0))
    return times[25], times[50], times[75]


def fault(name: str) -> Callable[[StandIn], Quartiles]:
    """Return the benchmark with one fault."""
    return lambda device: with_fault(device, name)


COLD = "3 · The first calls, and the warm ones"
FAULTS = (
    (
        "does not wait",
        "The clock is stopped when the call has been **launched, not when it is done**. What is "
        "measured is how long the host needs to put a call into the queue.",
        "2 · A call returns before it is done",
    ),
    (
        "no warm-up",
        "There is **no warm-up**: calls made while the clock of the device was still low are "
        "counted with the others.",
        COLD,
    ),
    (
        "one call",
        "The warm-up is **a single call**. That is enough to compile, but not for the clock to "
        "rise: that takes some 30 ms of work.",
        COLD,
    ),
    (
        "warm",
        "Every call **finds its inputs in the cache**. Either it is the same set each time, or all "
        "sets fit into the cache together, or each is made just before its call (what was just "
        "written is in the cache, too). Make more than fit, first, and then rotate.",
        COLD,
    ),
    (
        "zeros",
        "The inputs are **zeros**. They are easier on the device than what it will meet at work.",
        "4 · Which data",
    ),
    (
        "mean",
        "It gives **mean and standard deviation**. A few calls that were interrupted move both as "
        "far as they like; a median and quartiles they hardly move.",
        "",
    ),
    (
        "one clock for all",
        "It reads **the clock once around all calls** and divides. That is a mean in disguise: "
        "outliers are in it, and there is no spread. Take one sample a call.",
        "",
    ),
    (
        "least",
        "It gives **the least time**. That is a call at its luckiest, not one that a user can "
        "expect, and it falls the more often you try.",
        "",
    ),
    (
        "extremes",
        "The median is right; beside it stand **the least and the largest** time, not the "
        "quartiles. Extremes move with the number of samples and with every interruption.",
        "",
    ),
)

DESIGN = Exercise(
    id="17.2",
    name="benchmark",
    title="A benchmark of your own",
    section=SECTION,
    solution_name="benchmark",
    properties=(
        Property("a queue", "a launch returns before the call is done", _queue),
        Property("compiles first", "the first launch takes 2 s more", _compiles),
        Property("rising clock", "slow until the device has worked for 30 ms", _rises),
        Property("a cache", "inputs that are in the cache make a call faster", _cache),
        Property("data", "zeros make a call faster", _data),
        Property("outliers", "a tenth of the calls takes 8 times as long", _outliers),
        Property("everything", "all of these on one device", _everything),
    ),
    mistakes=tuple(Mistake(name, says, fault(name), see) for name, says, see in FAULTS),
    alternative=until_warm,
)
