"""How people get exercise 15.2 wrong: what is divided by what, and which value is the 95th."""

from course.check.spec import mistake, slip

FEELS = "6 · What a user feels"
LOAD = "7 · Under load"

RANK = "ranked[math.ceil(95 * len(ranked) / 100) - 1]"
TTFT = "ttft, later = times[0] - arrival, len(times) - 1"
TPOT = "tpot = (times[-1] - times[0]) / later"
GAPS = "gaps += [times[i + 1] - times[i] for i in range(later)]"
SECONDS = "seconds = last - min(arrival for arrival, _ in traces)"
LAST = "last = max(times[-1] for _, times in traces if times)"
GIVEN = "return p95(ttfts), p95(tpots), max(gaps), tokens / seconds, good / seconds"


@mistake(
    "A request **without a token** has no `times[0]`. It was cancelled: it is in no percentile, "
    "and it is not good.",
    see=FEELS,
)
def the_cancelled(traces, ttft_limit, tpot_limit):
    return sorted(times[0] - arrival for arrival, times in traces) and _left_out(
        traces, ttft_limit, tpot_limit
    )


@mistake(
    "A request that was cancelled is **left out** before anything is counted. Its arrival still "
    "counts: the clock runs from the first arrival of all.",
    see=LOAD,
)
def cancelled_before_the_clock(traces, ttft_limit, tpot_limit):
    return _left_out(traces, ttft_limit, tpot_limit)


def _left_out(traces, ttft_limit, tpot_limit):
    from course.check.lesson_15.summary import summary

    return summary([(a, times) for a, times in traces if times], ttft_limit, tpot_limit)


slip(
    "TTFT on the clock",
    "The TTFT is the **time on the clock** at which the first token came. Count from the arrival.",
    (TTFT, "ttft, later = times[0], len(times) - 1"),
    see=FEELS,
)
slip(
    "TTFT to the end",
    "In place of the TTFT this is how long the **whole answer** took.",
    (TTFT, "ttft, later = times[-1] - arrival, len(times) - 1"),
    see=FEELS,
)
slip(
    "divided by all tokens",
    "TPOT is divided by the number of **all tokens**. Between n tokens there are n − 1 gaps.",
    (TPOT, "tpot = (times[-1] - times[0]) / len(times)"),
    see=FEELS,
)
slip(
    "TPOT from the arrival",
    "TPOT is counted **from the arrival**, so it contains the wait for the first token, which is "
    "the TTFT.",
    (TPOT, "tpot = (times[-1] - arrival) / later"),
    see=FEELS,
)
slip(
    "TPOT from the arrival, by all tokens",
    "This is the whole time divided by **all tokens**, the wait for the first one included. TPOT "
    "is about the tokens after it.",
    (TPOT, "tpot = (times[-1] - arrival) / len(times)"),
    see=FEELS,
)
slip(
    "the middle gap",
    "TPOT is the **median gap** of a request. Asked for is the average: the time from the first "
    "token to the last, divided by the gaps.",
    (TPOT, "tpot = sorted(times[i + 1] - times[i] for i in range(later))[later // 2]"),
    see=FEELS,
)
slip(
    "tokens per second of a request",
    "TPOT is the **reciprocal** of what it should be: tokens per second, not seconds per token.",
    (TPOT, "tpot = later / (times[-1] - times[0])"),
    see=FEELS,
)
slip(
    "percentile of all gaps",
    "In place of the TPOTs of requests, the percentile is taken of **all gaps**. TPOT is one "
    "number per request.",
    ("p95(tpots)", "p95(gaps)"),
    see=FEELS,
)
slip(
    "a TPOT of zero",
    "A request with one token is given a **TPOT of 0**. It has none, and must not pull the "
    "percentile down.",
    ("        if later > 0:\n", "        tpots += [0.0] * (later == 0)\n        if later > 0:\n"),
    see=FEELS,
)
slip(
    "one token is no answer",
    "Requests with **one token** do not count as good. They have no TPOT that could be too long: "
    "their TTFT decides.",
    ("on_time = ttft <= ttft_limit", "on_time = later > 0 and ttft <= ttft_limit"),
    see=LOAD,
)
slip(
    "the largest of all",
    "The 95th percentile is the **largest** of all values. Five of a hundred may be larger.",
    (RANK, "ranked[-1]"),
    see=FEELS,
)
slip(
    "the average",
    "In place of the 95th percentile this is the **average**, which says nothing about the "
    "slowest.",
    (RANK, "sum(ranked) / len(ranked)"),
    see=FEELS,
)
slip(
    "the median",
    "In place of the 95th percentile this is the **median**.",
    (RANK, "ranked[math.ceil(50 * len(ranked) / 100) - 1]"),
    see=FEELS,
)
slip(
    "the 90th",
    "This is the **90th** percentile. The 95th is asked for.",
    (RANK, "ranked[math.ceil(90 * len(ranked) / 100) - 1]"),
    see=FEELS,
)
slip(
    "the best five",
    "The values are ranked from **largest to smallest**, so this is the 95th percentile from the "
    "wrong end.",
    ("ranked = sorted(values)", "ranked = sorted(values, reverse=True)"),
    see=FEELS,
)
slip(
    "not ranked",
    "The values are **not sorted** before the one in the 95th place is taken.",
    ("ranked = sorted(values)", "ranked = list(values)"),
    see=FEELS,
)
slip(
    "a rank too far",
    "The percentile is **one rank too high**: ranks begin with 1, and indices with 0.",
    (RANK, "ranked[min(len(ranked) - 1, math.ceil(95 * len(ranked) / 100))]"),
    see=FEELS,
)
slip(
    "the rank rounded down",
    "The rank is **rounded down**, so fewer than 95 of 100 values are as small. Round it up.",
    (RANK, "ranked[max(0, 95 * len(ranked) // 100 - 1)]"),
    see=FEELS,
)
slip(
    "interpolated",
    "The percentile is **interpolated** between two values. By nearest rank it is one that "
    "somebody really had.",
    (RANK, "ranked[int(0.95 * (len(ranked) - 1))] + (0.95 * (len(ranked) - 1) % 1) * (\n"
     "            ranked[math.ceil(0.95 * (len(ranked) - 1))]\n"
     "            - ranked[int(0.95 * (len(ranked) - 1))])"),
    see=FEELS,
)  # fmt: skip
slip(
    "the wait as a gap",
    "The longest gap contains the **wait for the first token**. That is TTFT: gaps lie between "
    "tokens.",
    (GAPS, "gaps += [ttft] + [times[i + 1] - times[i] for i in range(later)]"),
    see=FEELS,
)
slip(
    "from the first to the last",
    "In place of the longest gap this is the longest time **from first to last token**.",
    (GAPS, "gaps.append(times[-1] - times[0])"),
    see=FEELS,
)
slip(
    "the longest average",
    "In place of the longest gap this is the **longest TPOT**. It hides the one long pause.",
    ("max(gaps)", "max(tpots)"),
    see=FEELS,
)
slip(
    "percentile of the gaps",
    "In place of the longest gap this is the **95th percentile** of the gaps.",
    ("max(gaps)", "p95(gaps)"),
    see=FEELS,
)
slip(
    "from the first token",
    "The seconds are counted from the **first token**. They begin with the first arrival.",
    (SECONDS, "seconds = last - min(times[0] for _, times in traces if times)"),
    see=LOAD,
)
slip(
    "from zero",
    "The seconds are counted from **time 0**. They begin with the first arrival.",
    (SECONDS, "seconds = last"),
    see=LOAD,
)
slip(
    "from the first in the list",
    "The clock begins when the **first request of the list** arrives. Somebody may have come "
    "before it: the list is in no order.",
    (SECONDS, "seconds = last - traces[0][0]"),
    see=LOAD,
)
slip(
    "to the end of the last to come",
    "The clock ends with the **request that arrived last**. Another may end after it.",
    (LAST, "last = max((a, times[-1]) for a, times in traces if times)[1]"),
    see=LOAD,
)
slip(
    "to the last arrival",
    "The clock ends with the **last arrival**. It ends with the last token.",
    (LAST, "last = max(arrival for arrival, _ in traces)"),
    see=LOAD,
)
slip(
    "the sum of their times",
    "The seconds are the **sum** of the times of all requests. They run side by side, on one "
    "clock.",
    (SECONDS, "seconds = sum(times[-1] - arrival for arrival, times in traces if times)"),
    see=LOAD,
)
slip(
    "requests for tokens",
    "Throughput counts **requests**. It counts tokens.",
    ("tokens / seconds", "len(traces) / seconds"),
    see=LOAD,
)
slip(
    "without the first tokens",
    "The **first token** of each answer is missing from the throughput. It is output like the "
    "rest.",
    ("tokens += len(times)", "tokens += max(0, len(times) - 1)"),
    see=LOAD,
)
slip(
    "a number, not a rate",
    "Goodput is the **number** of good requests. It is a rate: divide by the seconds.",
    ("good / seconds", "good"),
    see=LOAD,
)
slip(
    "a share, not a rate",
    "Goodput is the **share** of good requests. It is a rate: good requests per second.",
    ("good / seconds", "good / len(traces)"),
    see=LOAD,
)
slip(
    "good tokens",
    "Goodput counts the **tokens** of good requests. It counts the requests.",
    ("good += on_time", "good += on_time * len(times)"),
    see=LOAD,
)
slip(
    "only TTFT",
    "A request counts as good if its **TTFT** is in time, whatever its TPOT. Both limits have to "
    "be met.",
    ("on_time and tpot <= tpot_limit", "on_time"),
    see=LOAD,
)
slip(
    "only TPOT",
    "A request counts as good if its **TPOT** is in time, whatever its TTFT. Both limits have to "
    "be met.",
    ("on_time and tpot <= tpot_limit", "tpot <= tpot_limit"),
    see=LOAD,
)
slip(
    "one of both",
    "A request counts as good if it meets **one** limit. Both have to be met.",
    ("on_time and tpot <= tpot_limit", "on_time or tpot <= tpot_limit"),
    see=LOAD,
)
slip(
    "limits swapped",
    "The two limits are **swapped**.",
    ("ttft <= ttft_limit", "ttft <= tpot_limit"),
    ("tpot <= tpot_limit\n            tpots", "tpot <= ttft_limit\n            tpots"),
    see=LOAD,
)
slip(
    "every gap in time",
    "A request counts as good only if **each gap** is below the limit of TPOT. Its average is "
    "asked for.",
    (
        "on_time and tpot <= tpot_limit",
        "on_time and all(times[i + 1] - times[i] <= tpot_limit for i in range(later))",
    ),
    see=LOAD,
)
slip(
    "the limit is too late",
    "A request **exactly at a limit** counts as too late. At most means that it is in time.",
    ("ttft <= ttft_limit", "ttft < ttft_limit"),
    ("tpot <= tpot_limit", "tpot < tpot_limit"),
    see=LOAD,
)
slip(
    "goodput before throughput",
    "**Goodput** comes before throughput. The order is: TTFT, TPOT, gap, throughput, goodput.",
    (GIVEN, "return p95(ttfts), p95(tpots), max(gaps), good / seconds, tokens / seconds"),
)
slip(
    "in milliseconds",
    "The three latencies are in **milliseconds**. Seconds are asked for.",
    (GIVEN, "return 1e3 * p95(ttfts), 1e3 * p95(tpots), 1e3 * max(gaps), tokens / seconds, good / "
     "seconds"),
)  # fmt: skip
