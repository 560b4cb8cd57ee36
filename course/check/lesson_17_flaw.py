"""Exercise 17.1: which flaw does a benchmark have? Try it on devices whose truth is known."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen
from course.stand_in import StandIn

Benchmark = Callable[[StandIn], float]
NO_WAIT, WARM, ZEROS, NONE = "no synchronise", "warm cache", "zeros", "none"
SECTION = "6 · A device whose truth is known"
JITTER = 1e-3  # no benchmark gives the same number twice


def timed(
    device: StandIn, calls: int, sets: int, data: str = "random", waits: str = "at the end"
) -> float:
    """Seconds per call over `calls` calls and `sets` sets of inputs, after a round of warm-up.

    waits: "at the end", "each call", only "before" the clock starts, "after" it stops, "never".
    """
    inputs = [device.inputs(data) for _ in range(sets)]
    for one in inputs:
        device.launch(one)
    if waits != "never":
        device.synchronize()
    start = device.clock()
    for i in range(calls):
        device.launch(inputs[i % sets])
        if waits == "each call":
            device.synchronize()
    if waits == "at the end":
        device.synchronize()
    seconds = (device.clock() - start) / calls
    if waits == "after":
        device.synchronize()
    return seconds


def _ask(
    answer: Callable, rng: Generator, wanted: str, given: str, *how: object, **more: object
) -> Seen:
    """Let the answer judge a benchmark whose unit is unknown and that jitters a little."""
    unit = 10 ** (3 + 4 * torch.rand((), generator=rng).item())
    # its own generator: however often an answer measures, the next probe draws the same inputs
    own = Generator().manual_seed(integer(rng, 0, 2**31 - 1))

    def benchmark(device: StandIn) -> float:
        jitter = JITTER * (2 * torch.rand((), generator=own).item() - 1)
        return unit * (1 + jitter) * timed(device, *how, **more)

    def tidy(benchmark: Benchmark) -> object:
        name = answer(benchmark)  # capitals and spelling are not the question
        return name.strip().lower().replace("ize", "ise") if isinstance(name, str) else name

    return Seen.of(tidy, (benchmark,), wanted=wanted, given=f"a benchmark that {given}")


def _enough(rng: Generator) -> tuple[int, int]:
    """Numbers of calls, and of sets: more than fit into any cache the exercise allows."""
    return integer(rng, 40, 60), integer(rng, 20, 30)


def _never_waits(answer: Callable, rng: Generator) -> Seen:
    given = "launches all calls and then reads the clock"
    return _ask(answer, rng, NO_WAIT, given, *_enough(rng), waits="never")


def _waits_elsewhere(answer: Callable, rng: Generator) -> list[Seen]:
    return [
        _ask(answer, rng, NO_WAIT, f"synchronises only {told}", *_enough(rng), waits=waits)
        for waits, told in (
            ("before", "before it starts the clock"),
            ("after", "after it has read the clock"),
        )
    ]


def _one_set(answer: Callable, rng: Generator) -> Seen:
    return _ask(answer, rng, WARM, "uses one set of inputs for all calls", integer(rng, 40, 60), 1)


def _few_sets(answer: Callable, rng: Generator) -> Seen:
    sets = integer(rng, 2, 3)
    return _ask(
        answer, rng, WARM, f"rotates through {sets} sets of inputs", integer(rng, 40, 60), sets
    )


def _zeros(answer: Callable, rng: Generator) -> Seen:
    return _ask(
        answer, rng, ZEROS, "rotates through many sets of zeros", *_enough(rng), data="zeros"
    )


def _honest(answer: Callable, rng: Generator) -> list[Seen]:
    given = "has none of the three flaws, and waits for the device"
    return [
        _ask(answer, rng, NONE, f"{given} {waits}", *_enough(rng), waits=waits)
        for waits in ("at the end", "each call")
    ]


def by_values(benchmark: Benchmark) -> str:
    """Another way: give each flaw an effect of a different size, and read the size."""
    alike = benchmark(StandIn(call_s=1.0, warm=1.0, zeros=1.0))
    ratio = benchmark(StandIn(call_s=10.0, warm=0.5, zeros=0.8)) / alike
    expected = {NO_WAIT: 1.0, WARM: 5.0, ZEROS: 8.0, NONE: 10.0}
    return min(expected, key=lambda name: abs(expected[name] - ratio))


def by_log(benchmark: Benchmark, wrong: str) -> str:
    """Look at what was called, not at what it did; wrong: which fault it has."""
    device = StandIn()
    base = benchmark(device)
    if wrong == "looks for the call":
        if "synchronize" not in device.log:
            return NO_WAIT
    elif benchmark(StandIn(call_s=2e-3)) < 1.5 * base:
        return NO_WAIT
    launched = {entry for entry in device.log if entry.startswith("launch")}
    few = len(launched) == 1 if wrong == "counts the sets" else len(launched) <= 4
    if few:
        return WARM
    return ZEROS if benchmark(StandIn(zeros=1.0)) > 1.1 * base else NONE


def by_trials(benchmark: Benchmark, wrong: str) -> str:
    """Change one thing at a time, with at most one fault in the way it is done."""
    base = benchmark(StandIn())
    if wrong == "known times":
        return next((name for name, most in KNOWN.items() if base < most), NONE)
    doubled = {"launch_s": 4e-6} if wrong == "the wrong thing doubled" else {"call_s": 2e-3}
    again = benchmark(StandIn(**doubled))
    stuck = {"room for nothing": again < 2 * base, "not moved at all": again == base}
    if stuck.get(wrong, again < 1.5 * base):
        return NO_WAIT
    cold = benchmark(StandIn(cache_bytes=0))
    if cold <= 1.1 * base if wrong == "the wrong way round" else cold > 1.1 * base:
        return NO_WAIT if wrong == "one verdict" else WARM
    if wrong == "never none":
        return ZEROS
    easy = benchmark(StandIn(zeros=1.0)) > 1.1 * base
    return (NO_WAIT if wrong == "one verdict" else ZEROS) if easy else NONE


KNOWN = {NO_WAIT: 1e-4, WARM: 0.5e-3, ZEROS: 0.8e-3}  # bounds, seconds


def fault(name: str) -> Callable[[Benchmark], str]:
    """Return an answer with one fault."""
    way = by_log if name in ("looks for the call", "counts the sets") else by_trials
    return lambda benchmark: way(benchmark, name)


FAULTS = (
    (
        "looks for the call",
        "It checks **whether `synchronize` is called**, not whether the wait falls between the "
        "two readings of the clock. A wait before the clock starts, or after it stops, does not "
        "count.",
        "2 · A call returns before it is done",
    ),
    (
        "counts the sets",
        "It takes **more than one set of inputs** for a cold cache. But two sets that fit into "
        "the cache together are both found there. What matters is whether a device without a "
        "cache gives a different result.",
        "3 · The first calls, and the warm ones",
    ),
    (
        "one verdict",
        "It notices that a number is **too good, and calls every such benchmark unsynchronised**. "
        "All three flaws make the number too good: to tell them apart, change one thing at a time.",
        "",
    ),
    (
        "known times",
        'It answers **"none" every time**. Are you comparing the result with times that you know? '
        "The benchmark does not tell its unit: compare its result on one device with its result "
        "on another.",
        "",
    ),
    (
        "the wrong thing doubled",
        "The doubling is judged **the wrong way round**, or it is the launch that takes twice as "
        "long. If the call takes twice as long, an honest result doubles, and that of a benchmark "
        "that did not wait stays the same.",
        "2 · A call returns before it is done",
    ),
    (
        "room for nothing",
        "It expects the result to double **to the last digit**. A launch takes time as well, and "
        "no benchmark gives the same number twice. Leave room: ask for 1.5 times, not 2.",
        "",
    ),
    (
        "not moved at all",
        "It expects the result **not to move at all** (`==`) if nobody waited. No benchmark gives "
        "the same number twice. Leave room: anything below 1.5 times has not doubled.",
        "",
    ),
    (
        "the wrong way round",
        "The cache is judged **the wrong way round**. Without a cache an honest benchmark gives "
        "the same result as before; one that relies on the cache gets slower.",
        "3 · The first calls, and the warm ones",
    ),
    (
        "never none",
        'It **always finds a flaw**: whatever is left after two trials is called "zeros". An '
        'honest benchmark has to come out as "none", so zeros need a trial of their own.',
        "4 · Which data",
    ),
)

FLAW = Exercise(
    id="17.1",
    name="find the flaw",
    title="Three benchmarks, three flaws",
    section=SECTION,
    solution_name="find_flaw",
    properties=(
        Property("never waits", "no synchronise at all", _never_waits),
        Property("waits elsewhere", "it synchronises, but not where it counts", _waits_elsewhere),
        Property("one set", "the same inputs in every call", _one_set),
        Property("a few sets", "two or three sets, which fit into the cache", _few_sets),
        Property("zeros", "cold and synchronised, but all inputs are zeros", _zeros),
        Property("no flaw", "an honest benchmark is recognised as one", _honest),
    ),
    mistakes=tuple(Mistake(name, says, fault(name), see) for name, says, see in FAULTS),
    alternative=by_values,
)
