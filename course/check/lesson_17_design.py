"""Exercise 17.2: a benchmark of your own, on made-up devices that set every trap."""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator, Tensor, rand

from course.check.draw import integer
from course.check.lesson_17_design_answers import Quartiles, fault, until_warm
from course.check.spec import Exercise, Mistake, Property, Seen
from course.stand_in import Inputs, StandIn

SECTION = "5 · Many times, one number"
SLACK = 0.005  # a launch, here at most 0.5 % of the call, is rightly part of the time
# 25 evenly spread samples can miss a quantile by some 8 % of them, and a tenth of them are
# outliers: 0.08 · 2 · spread / 0.9. Two correct answers can be twice as far apart
MISS = 2 * 0.18


def quantiles(device: StandIn) -> Quartiles:
    """What a call takes on this device: without noise, or evenly spread with outliers."""
    usual = 1 - (1 / device.outlier_every if device.outlier_every else 0.0)
    low, width = 1 - device.spread, 2 * device.spread
    return tuple(device.call_s * (low + width * p / usual) for p in (0.25, 0.5, 0.75))


class Slowing(StandIn):
    """A device whose calls take twice as long from call number `slow_from` on."""

    def __init__(self, slow_from: int, **given: float) -> None:
        super().__init__(**given)
        self._left = slow_from

    def launch(self, inputs: Inputs) -> None:
        """Put a call into the queue, as StandIn does."""
        if self._left == 0:
            self.call_s *= 2
        self._left -= 1
        super().launch(inputs)


def plain(values: object, unit: float = 1.0) -> object:
    """Return quartiles as a tuple, from a tuple, list or tensor; anything else as it is."""
    values = values.tolist() if isinstance(values, Tensor) else values
    if isinstance(values, (tuple, list)) and all(isinstance(x, (int, float)) for x in values):
        return tuple(x * unit for x in values)
    return values


def _ask(answer: Callable, rng: Generator, given: str, **device: float) -> Seen:
    call_s = 1e-3 * (0.5 + 1.5 * rand((), generator=rng).item())
    # no traps but those asked for; the cache holds 3 or 4 sets
    traps = {"call_s": call_s, "warm": 1.0, "zeros": 1.0}
    made = StandIn(**(traps | {"cache_bytes": integer(rng, 3, 4) * 2**20} | device))
    wanted = plain(quantiles(made), 1e3)
    told = f"a call of {made.call_s * 1e3:.3f} ms, {given} (all times below in ms)"

    def in_ms(device: StandIn) -> object:
        return plain(answer(device), 1e3)

    rtol = SLACK + MISS * made.spread
    return Seen.of(
        in_ms, (made,), wanted=wanted, given=told, atol=0.0, rtol=rtol,
        names=("q1", "median", "q3"),
    )  # fmt: skip


def _queue(answer: Callable, rng: Generator) -> Seen:
    return _ask(answer, rng, "and no trap but the queue")


def _clock(answer: Callable, rng: Generator) -> Seen:
    """Whether the device's own clock is read: a real clock says nothing about it."""
    device = StandIn(call_s=1e-3, cache_bytes=integer(rng, 3, 4) * 2**20)
    Seen.of(answer, (device,), wanted=None)
    given = "any device: is device.clock() read?"
    return Seen("clock" in device.log, True, given=given)


def _rise(rng: Generator) -> dict[str, float]:
    """A clock that stays low for 65 calls or more: most answers take fewer samples."""
    return {"rise_s": 0.2, "call_s": 1e-3 * (0.5 + 0.1 * rand((), generator=rng).item())}


def _rises(answer: Callable, rng: Generator) -> Seen:
    return _ask(answer, rng, "3 times as long until 200 ms of work are done", **_rise(rng))


def _compiles(answer: Callable, rng: Generator) -> Seen:
    given = "2 s more for the first one, then 3 times as long until 200 ms of work are done"
    return _ask(answer, rng, given, compile_s=2.0, **_rise(rng))


def _cache(answer: Callable, rng: Generator) -> list[Seen]:
    fits = [integer(rng, *ends) for ends in ((3, 4), (24, 28), (33, 40))]
    return [
        _ask(
            answer, rng, f"0.4 times as long from the cache, which holds {fit} sets", warm=0.4,
            cache_bytes=fit * 2**20,
        )
        for fit in fits
    ]  # fmt: skip


def _data(answer: Callable, rng: Generator) -> Seen:
    return _ask(answer, rng, "0.7 times as long on zeros", zeros=0.7)


def _outliers(answer: Callable, rng: Generator) -> Seen:
    given = "every tenth 8 times as long, the others ± 10 %"
    return _ask(answer, rng, given, spread=0.1, outlier_every=10)


def _samples(answer: Callable, rng: Generator) -> Seen:
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


def _everything(answer: Callable, rng: Generator) -> Seen:
    traps = {"compile_s": 2.0, "warm": 0.4, "zeros": 0.7, "spread": 0.1, "outlier_every": 10}
    size = {"cache_bytes": integer(rng, 24, 40) * 2**20}
    return _ask(answer, rng, "all the traps at once", **traps, **size, **_rise(rng))


COLD = "3 · The first calls, and the warm ones"
FAULTS = (
    (
        "does not wait",
        "The clock is stopped when the call has been **launched, not when it is done**. What you "
        "measure is how long the host takes to put a call into the queue.",
        "2 · A call returns before it is done",
    ),
    (
        "no warm-up",
        "There is **no warm-up, or it is too short**: the calls counted were made while the "
        "device's clock was low. One call, or a few, are enough to compile, but the clock rises "
        "only after 200 ms of work.",
        COLD,
    ),
    (
        "compiling is no work",
        "The warm-up is timed by the clock, **and the compiling counts towards it**: after those "
        "two seconds it is over, though the device has hardly worked. Start the clock after the "
        "first call, or count calls.",
        COLD,
    ),
    (
        "warm",
        "Every call **finds its inputs in the cache**. Either you use the same set each time, or "
        "all the sets fit into the cache together, or each is made just before its call (what was "
        "just written is in the cache, too). First make more sets than fit, then rotate through "
        "them.",
        COLD,
    ),
    (
        "so many sets",
        "It makes **the same number of sets for every device**. A larger cache holds them all: "
        "how many are needed follows from `device.cache_bytes` and `device.set_bytes`.",
        COLD,
    ),
    (
        "starts over",
        "After the warm-up it **starts again with the first set**. The warm-up ended somewhere in "
        "the middle of the sets, so the first ones were used a moment ago and are in the cache. "
        "Continue with the next one.",
        COLD,
    ),
    (
        "milliseconds",
        "The answer is in **milliseconds**. Return seconds, the unit of the clock.",
        "",
    ),
    (
        "zeros",
        "The inputs are **zeros**. They are easier on the device than the data it meets at work.",
        "4 · Which data",
    ),
    (
        "mean",
        "It returns **minimum, mean and maximum**. A few interrupted calls move the mean and the "
        "maximum as far as they like, but hardly move a median and quartiles.",
        "",
    ),
    (
        "one clock for all",
        "It reads **the clock once around all calls** and divides. That is a mean in disguise: it "
        "includes the outliers, and shows no spread. Take one sample per call.",
        "",
    ),
    (
        "extremes",
        "The median is right, but with it come **the minimum and the maximum**, not the "
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
        Property("its clock", "time is what device.clock() says", _clock),
        Property("a queue", "a launch returns before the call is done", _queue),
        Property("rising clock", "slow until the device has worked for 200 ms", _rises, COLD),
        Property(
            "compiles first", "2 s more for the first launch, then a rising clock", _compiles, COLD
        ),
        Property("a cache", "small or large; inputs in it make a call faster", _cache, COLD),
        Property("data", "zeros make a call faster", _data, "4 · Which data"),
        Property("outliers", "a tenth of the calls take 8 times as long", _outliers),
        Property("enough samples", "at least 25, so that 12 slow ones are a minority", _samples),
        Property("everything", "all of these on one device", _everything),
    ),
    mistakes=tuple(Mistake(name, says, fault(name), see) for name, says, see in FAULTS),
    alternative=until_warm,
)
