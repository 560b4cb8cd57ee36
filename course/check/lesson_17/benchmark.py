"""Exercise 17.2: a benchmark of your own, on made-up devices that set every trap."""

import statistics

import torch

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip
from course.stand_in import StandIn

COLD = "3 · The first calls, and the warm ones"
DATA = "4 · Which data"
SLACK = 0.005  # a launch, here at most 0.5 % of the call, is rightly part of the time
# 25 evenly spread samples can miss a quantile by some 8 % of them, and a tenth of them are
# outliers: 0.08 · 2 · spread / 0.9. Two correct answers can be twice as far apart
MISS = 2 * 0.18


@right
def benchmark(device):
    sets = [device.inputs() for _ in range(device.cache_bytes // device.set_bytes + 2)]
    times = []
    for i in range(250):
        start = device.clock()
        device.launch(sets[i % len(sets)])
        device.synchronize()
        if i >= 200:  # before that: compiling, and a clock that rises
            times.append(device.clock() - start)
    return tuple(statistics.quantiles(times))


def enough_sets(device):
    """Make sets of inputs, two more than fit into the cache."""
    return [device.inputs() for _ in range(device.cache_bytes // device.set_bytes + 2)]


def stopwatch(device, sets, calls, warm_up):
    """Seconds of each of `calls` calls, after `warm_up` calls that do not count."""
    times = []
    for i in range(warm_up + calls):
        start = device.clock()
        device.launch(sets[i % len(sets)])
        device.synchronize()
        if i >= warm_up:
            times.append(device.clock() - start)
    return times


@also_right
def until_warm(device):
    """Warm up by the clock, sort, and count off the quartiles."""
    sets, turn = enough_sets(device) + enough_sets(device), 0
    start = device.clock()
    while device.clock() - start < 2.5:
        device.launch(sets[turn % len(sets)])
        device.synchronize()
        turn += 1
    turn %= len(sets)
    times = sorted(stopwatch(device, sets[turn:] + sets[:turn], 101, 0))
    return times[25], times[50], times[75]


def quantiles(device):
    """What a call takes on this device: without noise, or evenly spread with outliers."""
    usual = 1 - (1 / device.outlier_every if device.outlier_every else 0.0)
    low, width = 1 - device.spread, 2 * device.spread
    return tuple(device.call_s * (low + width * p / usual) for p in (0.25, 0.5, 0.75))


class Slowing(StandIn):
    """A device whose calls take twice as long from call number `slow_from` on."""

    def __init__(self, slow_from, **given):
        super().__init__(**given)
        self._left = slow_from

    def launch(self, inputs):
        """Put a call into the queue, as StandIn does."""
        if self._left == 0:
            self.call_s *= 2
        self._left -= 1
        super().launch(inputs)


def plain(values, unit=1.0):
    """Return quartiles as a tuple, from a tuple, list or tensor; anything else as it is."""
    values = values.tolist() if isinstance(values, torch.Tensor) else values
    if isinstance(values, (tuple, list)) and all(isinstance(x, (int, float)) for x in values):
        return tuple(x * unit for x in values)
    return values


def seen(answer, rng, given, **device):
    """Measure on a device that has no traps but those asked for; its cache holds 3 or 4 sets."""
    call_s = 1e-3 * (0.5 + 1.5 * torch.rand((), generator=rng).item())
    usual = {"call_s": call_s, "warm": 1.0, "zeros": 1.0}
    made = StandIn(**(usual | {"cache_bytes": integer(rng, 3, 4) * 2**20} | device))

    def in_ms(device):
        return plain(answer(device), 1e3)

    return Seen.of(
        in_ms,
        (made,),
        wanted=plain(quantiles(made), 1e3),
        given=f"a call of {made.call_s * 1e3:.3f} ms, {given} (all times below in ms)",
        atol=0.0,
        rtol=SLACK + MISS * made.spread,
        names=("q1", "median", "q3"),
    )


@holds("time is what device.clock() says")
def its_clock(answer, rng):
    """Whether the device's own clock is read: a real clock says nothing about it."""
    device = StandIn(call_s=1e-3, cache_bytes=integer(rng, 3, 4) * 2**20)
    Seen.of(answer, (device,), wanted=None)
    return Seen("clock" in device.log, True, given="any device: is device.clock() read?")


@holds("a launch returns before the call is done")
def a_queue(answer, rng):
    return seen(answer, rng, "and no trap but the queue")


def rise(rng):
    """A clock that stays low for 65 calls or more: most answers take fewer samples."""
    return {"rise_s": 0.2, "call_s": 1e-3 * (0.5 + 0.1 * torch.rand((), generator=rng).item())}


@holds("slow until the device has worked for 200 ms", see=COLD)
def rising_clock(answer, rng):
    return seen(answer, rng, "3 times as long until 200 ms of work are done", **rise(rng))


@holds("2 s more for the first launch, then a rising clock", see=COLD)
def compiles_first(answer, rng):
    given = "2 s more for the first one, then 3 times as long until 200 ms of work are done"
    return seen(answer, rng, given, compile_s=2.0, **rise(rng))


@holds("small or large; inputs in it make a call faster", see=COLD)
def a_cache(answer, rng):
    fits = [integer(rng, *ends) for ends in ((3, 4), (24, 28), (33, 40))]
    given = "0.4 times as long from the cache, which holds {} sets"
    return [seen(answer, rng, given.format(fit), warm=0.4, cache_bytes=fit * 2**20) for fit in fits]


@holds("zeros make a call faster", see=DATA)
def data(answer, rng):
    return seen(answer, rng, "0.7 times as long on zeros", zeros=0.7)


@holds("a tenth of the calls take 8 times as long")
def outliers(answer, rng):
    given = "every tenth 8 times as long, the others ± 10 %"
    return seen(answer, rng, given, spread=0.1, outlier_every=10)


@holds("at least 25, so that 12 slow ones are a minority")
def enough_samples(answer, rng):
    """The last 12 calls take twice as long: fewer than half of 25 samples, more than half of 23."""
    traps = {"warm": 1.0, "zeros": 1.0, "cache_bytes": integer(rng, 3, 4) * 2**20}
    before = StandIn(**traps)
    usual = plain(Seen.of(answer, (before,), wanted=None).got)
    made = sum(entry.startswith("launch") for entry in before.log)
    later = plain(Seen.of(answer, (Slowing(made - 12, **traps),), wanted=None).got)
    given = "the last 12 calls twice as long: does the median stay the same?"
    try:
        stays = abs(later[1] / usual[1] - 1) < 0.1
    except (TypeError, IndexError, ZeroDivisionError):
        stays = False
    return Seen(stays, True, given=given)


@holds("all of these on one device")
def everything(answer, rng):
    traps = {"compile_s": 2.0, "warm": 0.4, "zeros": 0.7, "spread": 0.1, "outlier_every": 10}
    size = {"cache_bytes": integer(rng, 24, 40) * 2**20}
    return seen(answer, rng, "all the traps at once", **traps, **size, **rise(rng))


slip(
    "does not wait",
    "The clock is stopped when the call has been **launched, not when it is done**. What you "
    "measure is how long the host takes to put a call into the queue.",
    ("        device.synchronize()\n", ""),
    see="2 · A call returns before it is done",
)
slip(
    "no warm-up",
    "There is **no warm-up, or it is too short**: the calls counted were made while the "
    "device's clock was low. One call, or a few, are enough to compile, but the clock rises "
    "only after 200 ms of work.",
    ("range(250)", "range(50)"),
    ("i >= 200", "i >= 0"),
    see=COLD,
)
slip(
    "compiling is no work",
    "The warm-up is timed by the clock, **and the compiling counts towards it**: after those "
    "two seconds it is over, though the device has hardly worked. Start the clock after the "
    "first call, or count calls.",
    ("times = []", "times, start = [], device.clock()"),
    (
        "    for i",
        "    while device.clock() - start < 0.2:\n        stopwatch(device, sets, 0, 1)\n    for i",
    ),
    ("range(250)", "range(50)"),
    ("i >= 200", "i >= 0"),
    see=COLD,
)
slip(
    "warm",
    "Every call **finds its inputs in the cache**. Either you use the same set each time, or all "
    "the sets fit into the cache together, or each is made just before its call (what was just "
    "written is in the cache, too). First make more sets than fit, then rotate through them.",
    ("device.set_bytes + 2", "device.set_bytes"),
    see=COLD,
)
slip(
    "so many sets",
    "It makes **the same number of sets for every device**. A larger cache holds them all: "
    "how many are needed follows from `device.cache_bytes` and `device.set_bytes`.",
    ("device.cache_bytes // device.set_bytes + 2", "20"),
    see=COLD,
)
slip(
    "starts over",
    "After the warm-up it **starts again with the first set**. The warm-up ended somewhere in "
    "the middle of the sets, so the first ones were used a moment ago and are in the cache. "
    "Continue with the next one.",
    ("i % len(sets)", "i % 200 % len(sets)"),
    see=COLD,
)
slip(
    "milliseconds",
    "The answer is in **milliseconds**. Return seconds, the unit of the clock.",
    ("device.clock() - start", "1e3 * (device.clock() - start)"),
)
slip(
    "zeros",
    "The inputs are **zeros**. They are easier on the device than the data it meets at work.",
    ("device.inputs()", 'device.inputs("zeros")'),
    see=DATA,
)
slip(
    "mean",
    "It returns **minimum, mean and maximum**. A few interrupted calls move the mean and the "
    "maximum as far as they like, but hardly move a median and quartiles.",
    ("tuple(statistics.quantiles(times))", "min(times), statistics.mean(times), max(times)"),
)


@mistake(
    "It reads **the clock once around all calls** and divides. That is a mean in disguise: it "
    "includes the outliers, and shows no spread. Take one sample per call."
)
def one_clock_for_all(device):
    sets = enough_sets(device)
    stopwatch(device, sets, 0, 200)
    start = device.clock()
    for i in range(200, 300):
        device.launch(sets[i % len(sets)])
    device.synchronize()
    return ((device.clock() - start) / 100,) * 3


slip(
    "extremes",
    "The median is right, but with it come **the minimum and the maximum**, not the "
    "quartiles. Extremes move with the number of samples and with every interruption.",
    ("tuple(statistics.quantiles(times))", "min(times), statistics.median(times), max(times)"),
)

DESIGN = Exercise.of(
    __name__,
    "17.2 benchmark",
    title="A benchmark of your own",
    section="5 · Many times, one number",
)
