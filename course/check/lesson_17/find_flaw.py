"""Exercise 17.1: which flaw does a benchmark have? Try it on devices whose truth is known."""

import torch

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from course.stand_in import StandIn

NO_WAIT, WARM, ZEROS, NONE = "no synchronise", "warm cache", "zeros", "none"
JITTER = 1e-3  # no benchmark gives the same number twice
QUEUE = "2 · A call returns before it is done"
COLD = "3 · The first calls, and the warm ones"


@right
def find_flaw(benchmark):
    plain = benchmark(StandIn())
    if benchmark(StandIn(call_s=2e-3)) < 1.5 * plain:
        return "no synchronise"
    if benchmark(StandIn(cache_bytes=0)) > 1.1 * plain:
        return "warm cache"
    if benchmark(StandIn(zeros=1.0)) > 1.1 * plain:
        return "zeros"
    return "none"


@also_right
def by_values(benchmark):
    """Give each flaw an effect of a different size, and read the size."""
    alike = benchmark(StandIn(call_s=1.0, warm=1.0, zeros=1.0))
    ratio = benchmark(StandIn(call_s=10.0, warm=0.5, zeros=0.8)) / alike
    expected = {NO_WAIT: 1.0, WARM: 5.0, ZEROS: 8.0, NONE: 10.0}
    return min(expected, key=lambda name: abs(expected[name] - ratio))


def timed(device, calls, sets, data="random", waits="at the end"):
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


def seen(answer, rng, wanted, given, *how, unit=None, **more):
    """Let the answer judge a benchmark whose unit is unknown and that jitters a little."""
    unit = unit or 10 ** (3 + 4 * torch.rand((), generator=rng).item())
    # its own generator: however often an answer measures, the next probe draws the same inputs
    own = torch.Generator().manual_seed(integer(rng, 0, 2**31 - 1))

    def benchmark(device):
        jitter = JITTER * (2 * torch.rand((), generator=own).item() - 1)
        return unit * (1 + jitter) * timed(device, *how, **more)

    def tidy(benchmark):
        name = answer(benchmark)  # capitals and spelling are not the question
        return name.strip().lower().replace("ize", "ise") if isinstance(name, str) else name

    return Seen.of(tidy, (benchmark,), wanted=wanted, given=f"a benchmark that {given}")


def enough(rng):
    """Numbers of calls, and of sets: more than fit into any cache the exercise allows."""
    return integer(rng, 40, 60), integer(rng, 20, 30)


@holds("no synchronise at all")
def never_waits(answer, rng):
    given = "launches all calls and then reads the clock"
    return seen(answer, rng, NO_WAIT, given, *enough(rng), waits="never")


@holds("it synchronises, but not where it counts")
def waits_elsewhere(answer, rng):
    cases = ("before", "before it starts the clock"), ("after", "after it has read the clock")
    return [
        seen(answer, rng, NO_WAIT, f"synchronises only {told}", *enough(rng), waits=waits)
        for waits, told in cases
    ]


@holds("the same inputs in every call")
def one_set(answer, rng):
    given, calls = "uses one set of inputs for all calls", integer(rng, 40, 60)
    return [seen(answer, rng, WARM, given, calls, 1, unit=unit) for unit in (None, 1e3)]


@holds("two or three sets, which fit into the cache")
def a_few_sets(answer, rng):
    sets = integer(rng, 2, 3)
    given = f"rotates through {sets} sets of inputs"
    return seen(answer, rng, WARM, given, integer(rng, 40, 60), sets)


@holds("cold and synchronised, but all inputs are zeros")
def zeros(answer, rng):
    given, zeros = "rotates through many sets of zeros", {"data": "zeros"}
    return [seen(answer, rng, ZEROS, given, *enough(rng), unit=x, **zeros) for x in (None, 1e3)]


@holds("an honest benchmark is recognised as one")
def no_flaw(answer, rng):
    given = "has none of the three flaws, and waits for the device"
    return [
        seen(answer, rng, NONE, f"{given} {waits}", *enough(rng), waits=waits)
        for waits in ("at the end", "each call")
    ]


slip(
    "looks for the call",
    "It checks **whether `synchronize` is called**, not whether the wait falls between the two "
    "readings of the clock. A wait before the clock starts, or after it stops, does not count.",
    ("plain = benchmark(StandIn())", "plain = benchmark(device := StandIn())"),
    ("benchmark(StandIn(call_s=2e-3)) < 1.5 * plain", '"synchronize" not in device.log'),
    see=QUEUE,
)
slip(
    "counts the sets",
    "It takes **more than one set of inputs** for a cold cache. But two sets that fit into "
    "the cache together are both found there. What matters is whether a device without a "
    "cache gives a different result.",
    ("plain = benchmark(StandIn())", "plain = benchmark(device := StandIn())"),
    ("benchmark(StandIn(cache_bytes=0)) > 1.1 * plain", '"launch 1" not in device.log'),
    see=COLD,
)
slip(
    "one verdict",
    "It notices that a number is **too good, and calls every such benchmark unsynchronised**. "
    "All three flaws make the number too good: to tell them apart, change one thing at a time.",
    ('"warm cache"', '"no synchronise"'),
    ('"zeros"', '"no synchronise"'),
)
slip(
    "known times",
    'It answers **"none" every time**. Are you comparing the result with times that you know? '
    "The benchmark does not tell its unit: compare its result on one device with its result "
    "on another.",
    ("benchmark(StandIn(call_s=2e-3)) < 1.5 * plain", "plain < 1e-4"),
    ("benchmark(StandIn(cache_bytes=0)) > 1.1 * plain", "plain < 0.5e-3"),
    ("benchmark(StandIn(zeros=1.0)) > 1.1 * plain", "plain < 0.8e-3"),
)
slip(
    "the wrong thing doubled",
    "The doubling is judged **the wrong way round**, or it is the launch that takes twice as "
    "long. If the call takes twice as long, an honest result doubles, and that of a benchmark "
    "that did not wait stays the same.",
    ("call_s=2e-3", "launch_s=4e-6"),
    see=QUEUE,
)
slip(
    "room for nothing",
    "It expects the result to double **to the last digit**. A launch takes time as well, and "
    "no benchmark gives the same number twice. Leave room: ask for 1.5 times, not 2.",
    ("< 1.5 * plain", "< 2 * plain"),
)
slip(
    "not moved at all",
    "It expects the result **not to move at all** (`==`) if nobody waited. No benchmark gives "
    "the same number twice. Leave room: anything below 1.5 times has not doubled.",
    ("< 1.5 * plain", "== plain"),
)
slip(
    "the wrong way round",
    "The cache is judged **the wrong way round**. Without a cache an honest benchmark gives "
    "the same result as before; one that relies on the cache gets slower.",
    ("(cache_bytes=0)) >", "(cache_bytes=0)) <="),
    see=COLD,
)
slip(
    "room added",
    "The room is **added** to the first result. How much 1.1 is depends on the unit, and the "
    "benchmark does not tell it: multiply.",
    ("1.1 * plain", "1.1 + plain"),
)
slip(
    "zeros not tried",
    "It never tries a device on which **zeros are as slow as all else**: a benchmark of zeros "
    "comes out as honest.",
    ("benchmark(StandIn(zeros=1.0)) > 1.1 * plain", "False"),
    see="4 · Which data",
)
slip(
    "cache not tried",
    "It never tries a device **without a cache**: a benchmark that finds its inputs there "
    "comes out as honest.",
    ("benchmark(StandIn(cache_bytes=0)) > 1.1 * plain", "False"),
    see=COLD,
)
slip(
    "never none",
    'It **always finds a flaw**: whatever is left after two trials is called "zeros". An '
    'honest benchmark has to come out as "none", so zeros need a trial of their own.',
    ('"none"', '"zeros"'),
    see="4 · Which data",
)

FLAW = Exercise.of(
    __name__,
    "17.1 find the flaw",
    title="Three benchmarks, three flaws",
    section="6 · A device whose truth is known",
)
