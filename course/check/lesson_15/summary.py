"""Exercise 15.2: latencies, throughput and goodput from a trace of when each token came."""

import itertools
import math

from course.check.draw import integer
from course.check.lesson_15 import summary_mistakes  # noqa: F401  (more of what people do)
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip

FEELS = "6 · What a user feels"
LOAD = "7 · Under load"
TICK = 1 / 64  # seconds: sums of these are exact, so that "exactly at the limit" means something
NEVER = 10**6  # a limit that nobody misses


@right
def summary(traces, ttft_limit, tpot_limit):
    def p95(values):
        ranked = sorted(values)
        return ranked[math.ceil(95 * len(ranked) / 100) - 1]

    ttfts, tpots, gaps, tokens, good = [], [], [], 0, 0
    for arrival, times in traces:
        tokens += len(times)
        if not times:
            continue
        ttft, later = times[0] - arrival, len(times) - 1
        on_time = ttft <= ttft_limit
        ttfts.append(ttft)
        if later > 0:
            tpot = (times[-1] - times[0]) / later
            on_time = on_time and tpot <= tpot_limit
            tpots.append(tpot)
            gaps += [times[i + 1] - times[i] for i in range(later)]
        good += on_time
    last = max(times[-1] for _, times in traces if times)
    seconds = last - min(arrival for arrival, _ in traces)
    return p95(ttfts), p95(tpots), max(gaps), tokens / seconds, good / seconds


@also_right
def column_by_column(traces, ttft_limit, tpot_limit):
    """One figure after the other; the percentile by counting."""

    def at_most(values, percent=95):
        return min(v for v in values if 100 * sum(w <= v for w in values) >= percent * len(values))

    answered = [(arrival, times) for arrival, times in traces if times]
    waits = [times[0] - arrival for arrival, times in answered]
    speeds = [
        (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None
        for _, times in answered
    ]
    pauses = (b - a for _, times in traces for a, b in itertools.pairwise(times))
    both = [
        wait <= ttft_limit and (speed is None or speed <= tpot_limit)
        for wait, speed in zip(waits, speeds, strict=True)
    ]
    took = max(max(times) for _, times in answered) - min(traces, key=lambda trace: trace[0])[0]
    written = [speed for speed in speeds if speed is not None]
    count = sum(len(times) for _, times in traces)
    return at_most(waits), at_most(written), max(pauses), count / took, sum(both) / took


NAMES = ("ttft", "tpot", "gap", "throughput", "goodput")


def seen(answer, traces, ttft_limit=NEVER, tpot_limit=NEVER):
    args = traces, ttft_limit, tpot_limit
    shown = "; ".join(f"{arrival:g}: {_shown(times)}" for arrival, times in traces[:4])
    more = f"; … ({len(traces)} requests)" if len(traces) > 4 else ""
    given = f"traces (arrival: times) {shown}{more}; limits {ttft_limit:g} and {tpot_limit:g}"
    return Seen.of(answer, args, wanted=summary(*args), given=given, names=NAMES)


def _shown(times):
    few = [f"{t:g}" for t in times[:4]] + ["…"] * (len(times) > 4)
    return f"[{', '.join(few)}]"


def trace(rng, arrival, tokens, ttft=40, gap=20):
    """A request with that many tokens. ttft, gap: the most they may be, in ticks."""
    ticks = [arrival + integer(rng, 5, ttft)] if tokens else []
    for _ in range(tokens - 1):
        ticks.append(ticks[-1] + integer(rng, 1, gap))
    return arrival * TICK, [t * TICK for t in ticks]


def some(rng, count, least=2, most=9):
    """So many requests, in no order."""
    arrivals = [integer(rng, 10, 20 * count + 10) for _ in range(count)]
    return [trace(rng, arrival, integer(rng, least, most)) for arrival in arrivals]


@holds("three requests: one quick, one with a pause, one late")
def by_hand(answer, rng):
    quick, paused, late = (
        (1.0, [1.5, 1.75, 2.0]),
        (1.25, [2.0, 2.25, 4.0, 4.25]),
        (2.0, [6.0, 6.5]),
    )
    return seen(answer, [quick, paused, late], 1.0, 0.5)


@holds("one request alone")
def one_request(answer, rng):
    arrival = integer(rng, 100, 900)
    return [
        seen(answer, [trace(rng, arrival, integer(rng, 4, 9))]),
        seen(answer, [trace(rng, arrival, 2)]),
    ]


@holds("20 and 40 requests: the 95th of 100 is not the largest")
def percentiles(answer, rng):
    return [seen(answer, some(rng, 20)), seen(answer, some(rng, 40))]


@holds("from 3 to 50 requests: the rank is rounded up")
def ranks(answer, rng):
    return [seen(answer, some(rng, n)) for n in (3, 12, 21, 33, 50)]


@holds("requests come in any order, and the last to come ends first")
def any_order(answer, rng):
    first = trace(rng, 20, 40)
    rest = [trace(rng, 40 + 5 * i, integer(rng, 2, 4)) for i in range(5)]
    return [seen(answer, [*rest[:2], first, *rest[2:]]), seen(answer, [*rest[::-1], first])]


@holds("one long pause, which an average hides")
def pause(answer, rng):
    arrival, times = trace(rng, 50, integer(rng, 30, 40), gap=3)
    cut, stalled = integer(rng, 5, 20), integer(rng, 100, 200) * TICK
    times = [t + stalled * (i >= cut) for i, t in enumerate(times)]
    return seen(answer, [*some(rng, 4), (arrival, times)], NEVER, 0.5)


@holds("some have one token: a TTFT and no TPOT", see=FEELS)
def single_tokens(answer, rng):
    ones = [trace(rng, integer(rng, 5, 90), 1) for _ in range(6)]
    return [seen(answer, [*ones, *some(rng, 3)]), seen(answer, [*some(rng, 17), *ones])]


@holds("some were cancelled before their first token", see=FEELS)
def no_tokens(answer, rng):
    none = [(integer(rng, 30, 90) * TICK, []) for _ in range(4)]
    return [
        seen(answer, [*some(rng, 6), *none], 0.5, 0.25),
        seen(answer, [*some(rng, 18), *none, *none]),
        seen(answer, [(TICK, []), *some(rng, 6), *none]),
    ]


@holds("both limits have to be met", see=LOAD)
def both_limits(answer, rng):
    good = [trace(rng, integer(rng, 5, 90), 8, ttft=20, gap=10) for _ in range(3)]
    late = [(a, [t + 2 for t in times]) for a, times in good[:2]]
    slow = [(a, [times[0] + 2 * (t - times[0]) + i for i, t in enumerate(times)])
            for a, times in good[:1]]  # fmt: skip
    one = [trace(rng, integer(rng, 5, 90), 1, ttft=20)]
    return [
        seen(answer, [*good, *late, *slow], 1.0, 0.75),
        seen(answer, [*slow, *late, *good, *slow], 2.0, 0.5),
        seen(answer, [*one, *late, *good], 1.0, 0.75),
        seen(answer, [*late, *slow, *slow], 1.0, 0.75),
    ]


@holds("exactly at the limit is in time", see=LOAD)
def at_the_limit(answer, rng):
    arrival, later = integer(rng, 5, 60), 2 ** integer(rng, 1, 3)
    ttft, tpot = integer(rng, 8, 30), integer(rng, 2, 9)
    times = [(arrival + ttft + tpot * i) * TICK for i in range(later + 1)]
    exact = (arrival * TICK, times)
    over = (arrival * TICK, [*times[:-1], times[-1] + TICK])
    late = (arrival * TICK, [*times[:-1], times[-1] - TICK])  # TTFT alone at its limit
    slow = ((arrival + 1) * TICK, times)  # TPOT alone
    return seen(answer, [exact, over, late, slow, slow], ttft * TICK, tpot * TICK)


RANK = "ranked[math.ceil(95 * len(ranked) / 100) - 1]"

slip(
    "an index of 95 in 100",
    "The value with **index** ⌊0.95 · n⌋ is taken. The rank is ⌈0.95 · n⌉, and ranks begin with 1.",
    (RANK, "ranked[int(0.95 * len(ranked))]"),
    see=FEELS,
)
slip(
    "rounded to the nearest",
    "The rank is rounded to the **nearest**; round it up.",
    (RANK, "ranked[round(0.95 * len(ranked)) - 1]"),
    see=FEELS,
)
slip(
    "TTFT at the limit is too late",
    "A TTFT **exactly at its limit** counts as too late. At most means that it is in time.",
    ("ttft <= ttft_limit", "ttft < ttft_limit"),
    see=LOAD,
)
slip(
    "TPOT at the limit is too late",
    "A TPOT **exactly at its limit** counts as too long. At most means that it is allowed.",
    ("tpot <= tpot_limit", "tpot < tpot_limit"),
    see=LOAD,
)
slip(
    "an index rounded down",
    "The index is 0.95 · (n − 1), **rounded down**. The rank is ⌈0.95 · n⌉, counted from 1.",
    (RANK, "ranked[int(0.95 * (len(ranked) - 1))]"),
    see=FEELS,
)
slip(
    "to the end of the last in the list",
    "The clock ends with the **last request of the list**. Another may end later: the list is in "
    "no order.",
    (
        "max(times[-1] for _, times in traces if times)",
        "[times for _, times in traces if times][-1][-1]",
    ),
    see=LOAD,
)
slip(
    "cancelled counts as good",
    "A request **without a token** counts as good. Nobody was served.",
    ("        if not times:\n", "        if not times:\n            good += 1\n"),
    see=LOAD,
)
slip(
    "cancelled waited no time",
    "A request without a token is given a **TTFT of 0**. It has none, and is in no percentile.",
    ("        if not times:\n", "        if not times:\n            ttfts.append(0.0)\n"),
    see=FEELS,
)
slip(
    "cancelled waits forever",
    "A request without a token is given an **infinite TTFT**. It has none, and is in no "
    "percentile.",
    ("        if not times:\n", "        if not times:\n            ttfts.append(math.inf)\n"),
    see=FEELS,
)
slip(
    "one token passed over",
    "Requests with **one token** are passed over. They have no TPOT, but a TTFT, and may be good.",
    ("        if not times:\n", "        if len(times) < 2:\n"),
    see=FEELS,
)
slip(
    "one token does not exist",
    "Requests with **one token** are passed over, and their token is not counted, either.",
    (
        "        tokens += len(times)\n        if not times:\n            continue\n",
        "        if len(times) < 2:\n            continue\n        tokens += len(times)\n",
    ),
    see=FEELS,
)
slip(
    "gaps on the common clock",
    "The longest gap is between neighbouring tokens of **all requests together**. A user sees "
    "those of one.",
    (
        "max(gaps), tokens",
        "max(b - a for a, b in itertools.pairwise(sorted(sum((t for _, t in traces), [])))), "
        "tokens",
    ),
    see=FEELS,
)
slip(
    "the longest gap as TPOT",
    "TPOT is the **longest gap** of a request. It is the average.",
    ("tpots.append(tpot)", "tpots.append(max(times[i + 1] - times[i] for i in range(later)))"),
    see=FEELS,
)
slip(
    "gap before TPOT",
    "The **gap** comes before TPOT. The order is: TTFT, TPOT, gap, throughput, goodput.",
    ("p95(tpots), max(gaps)", "max(gaps), p95(tpots)"),
)
slip(
    "all good, or none",
    "Goodput looks at the **percentiles**: all requests are good, or none is. Each is judged by "
    "its own TTFT and TPOT.",
    (
        "good / seconds",
        "len(traces) * (p95(ttfts) <= ttft_limit and p95(tpots) <= tpot_limit) / seconds",
    ),
    see=LOAD,
)

SUMMARY = Exercise.of(
    __name__,
    "15.2 summary",
    title="TPOT from a trace",
    section=FEELS,
)
