"""Answers to exercise 17.2: a correct one, those with one fault, and the parts they share."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from course.stand_in import Inputs, StandIn

Quartiles = tuple[float, float, float]


def enough_sets(device: StandIn, data: str = "random") -> list[Inputs]:
    """Make sets of inputs, two more than fit into the cache."""
    return [device.inputs(data) for _ in range(device.cache_bytes // device.set_bytes + 2)]


def stopwatch(
    device: StandIn, sets: list[Inputs], calls: int, warm_up: int, waits: bool = True
) -> list[float]:
    """Seconds of each of `calls` calls, after `warm_up` calls that do not count."""
    times = []
    for i in range(warm_up + calls):
        start = device.clock()
        device.launch(sets[i % len(sets)])
        if waits:
            device.synchronize()
        if i >= warm_up:
            times.append(device.clock() - start)
    return times


def all_at_once(device: StandIn, sets: list[Inputs]) -> Quartiles:
    """One reading of the clock before a hundred calls, and one after."""
    stopwatch(device, sets, 0, 200)
    start = device.clock()
    for i in range(200, 300):
        device.launch(sets[i % len(sets)])
    device.synchronize()
    return ((device.clock() - start) / 100,) * 3


def with_fault(device: StandIn, wrong: str) -> Quartiles:
    """The benchmark with one fault."""
    fit = device.cache_bytes // device.set_bytes
    sets = enough_sets(device, "zeros" if wrong == "zeros" else "random")
    sets = {"warm": sets[-fit:], "so many sets": sets[:20]}.get(wrong, sets)
    if wrong == "one clock for all":
        return all_at_once(device, sets)
    warm_up = 0 if wrong == "no warm-up" else 200
    start = device.clock()
    if wrong == "compiling is no work":
        while device.clock() - start < 0.2:
            stopwatch(device, sets, 0, 1)
        warm_up = 0
    if wrong == "starts over":
        stopwatch(device, sets, 0, 200)
        warm_up = 0
    times = stopwatch(device, sets, 50, warm_up, waits=wrong != "does not wait")
    times = [t * 1e3 for t in times] if wrong == "milliseconds" else times
    ends = {"mean": statistics.fmean, "extremes": statistics.median}.get(wrong)
    return (min(times), ends(times), max(times)) if ends else tuple(statistics.quantiles(times))


def until_warm(device: StandIn) -> Quartiles:
    """Another correct answer: warms up by the clock, sorts, and counts off the quartiles."""
    sets, turn = enough_sets(device) + enough_sets(device), 0
    start = device.clock()
    while device.clock() - start < 2.5:
        device.launch(sets[turn % len(sets)])
        device.synchronize()
        turn += 1
    turn %= len(sets)
    times = sorted(stopwatch(device, sets[turn:] + sets[:turn], 101, 0))
    return times[25], times[50], times[75]


def fault(name: str) -> Callable[[StandIn], Quartiles]:
    """Return the benchmark with one fault."""
    return lambda device: with_fault(device, name)
