"""How well requests were served: waiting, writing speed, throughput, goodput, percentiles.

    arrival      started        times[0]     times[1]  times[2] …               finished
       │ queueing   │                │  gap      │  gap   │                       │
       ├────────────┴─── TTFT ───────┤
                                     ├────────────  (n − 1) · TPOT  ──────────────┤

    TTFT         time to first token: arrival → first token
    TPOT         time per output token, averaged over all tokens after the first
    gap          between two neighbouring tokens: TPOT hides the one long gap that a reader notices
    throughput   tokens per second, over all requests: what the machine does
    goodput      requests per second whose TTFT *and* TPOT meet an objective: what it is good for

Percentiles are by nearest rank: p99 is a value that some request really had, the smallest one that
at least 99 % of all values don't exceed. Nothing is interpolated.

Sources: Zhong et al. 2024, "DistServe" (goodput under TTFT and TPOT objectives); Agrawal et al.
2024, "Sarathi-Serve" (the time between tokens as a distribution).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

PERCENTILES = (50, 90, 99)


@dataclass
class Trace:
    """The times of one request, in seconds on one clock.

    arrival; started: when a step first worked on it (nan: never); times: of each token of the
    answer; finished: nan until then.

    >>> trace = Trace(arrival=1.0, started=1.5, times=[2.0, 2.25, 3.0], finished=3.0)
    >>> trace.queueing, trace.ttft, trace.tpot, trace.gaps
    (0.5, 1.0, 0.5, [0.25, 0.75])

    Two gaps after the first token, half a second on average; the longer one was what hurt.
    """

    arrival: float
    started: float = math.nan
    times: list[float] = field(default_factory=list)
    finished: float = math.nan

    @property
    def queueing(self) -> float:
        """Seconds from arrival until a step worked on it."""
        return self.started - self.arrival

    @property
    def ttft(self) -> float:
        """Seconds from arrival to the first token; nan without one."""
        return self.times[0] - self.arrival if self.times else math.nan

    @property
    def tpot(self) -> float:
        """Mean seconds per token after the first; nan with fewer than two tokens."""
        n = len(self.times) - 1
        return (self.times[-1] - self.times[0]) / n if n > 0 else math.nan

    @property
    def gaps(self) -> list[float]:
        """Seconds between neighbouring tokens."""
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


class Objective(NamedTuple):
    """What is promised to a user: at most so many seconds to the first token, and per token."""

    ttft: float
    tpot: float

    def met(self, trace: Trace) -> bool:
        """Whether a request got both. One that has a single token has no TPOT to miss.

        >>> Objective(ttft=1.0, tpot=0.4).met(Trace(0.0, 0.0, [0.5, 1.0]))
        False
        """
        on_time = trace.ttft <= self.ttft  # False for nan: no token is no success
        return on_time and (len(trace.times) < 2 or trace.tpot <= self.tpot)


def percentile(values: Iterable[float], p: float) -> float:
    """The p-th percentile by nearest rank: the ⌈p/100 · n⌉-th smallest; nan for no values.

    Raises ValueError unless 0 < p ≤ 100.

    >>> percentile([30, 10, 20, 40], 50), percentile([30, 10, 20, 40], 51)
    (20, 30)
    """
    if not 0 < p <= 100:
        raise ValueError(f"p must lie in (0, 100]; got {p}")
    ranked = sorted(values)
    # p/100 · n in whole numbers first: 0.07 · 100 is 7.000000000000001, whose ceiling is 8.
    return ranked[math.ceil(p * len(ranked) / 100) - 1] if ranked else math.nan


@dataclass(frozen=True)
class Summary:
    """All requests of a run. Times in seconds, rates per second.

    seconds: from the first arrival to the last token. ttft, tpot, gap, queueing: by percentile.
    goodput: nan without an objective.
    """

    requests: int
    tokens: int
    seconds: float
    throughput: float
    goodput: float
    ttft: dict[float, float]
    tpot: dict[float, float]
    gap: dict[float, float]
    queueing: dict[float, float]

    def __str__(self) -> str:
        """A table: a line per metric, a column per percentile, in milliseconds."""
        columns = list(self.ttft)
        head = f"{'ms':<10}" + "".join(f"{f'p{p:g}':>10}" for p in columns)
        lines = [
            f"{name:<10}" + "".join(f"{1000 * row[p]:>10,.1f}" for p in columns)
            for name, row in (
                ("queueing", self.queueing),
                ("TTFT", self.ttft),
                ("TPOT", self.tpot),
                ("gap", self.gap),
            )
        ]
        last = (
            f"{self.requests} requests, {self.tokens:,} tokens in {self.seconds:.2f} s: "
            f"{self.throughput:.1f} tokens/s"
        )
        good = "" if math.isnan(self.goodput) else f", goodput {self.goodput:.2f} requests/s"
        return "\n".join([head, *lines, last + good])


def summarise(
    traces: Sequence[Trace],
    objective: Objective | None = None,
    percentiles: Sequence[float] = PERCENTILES,
) -> Summary:
    """Sum up the requests of a run; those without a token count, but have no times.

    Gaps of all requests go into one distribution. Raises ValueError for no requests.
    """
    if not traces:
        raise ValueError("traces must hold at least one request; got none")
    ends = [trace.times[-1] for trace in traces if trace.times]
    seconds = max(ends) - min(trace.arrival for trace in traces) if ends else math.nan
    tokens = sum(len(trace.times) for trace in traces)
    good = sum(objective.met(trace) for trace in traces) if objective else math.nan

    def spread(values: Iterable[float]) -> dict[float, float]:
        numbers = [x for x in values if not math.isnan(x)]
        return {p: percentile(numbers, p) for p in percentiles}

    return Summary(
        requests=len(traces),
        tokens=tokens,
        seconds=seconds,
        throughput=_rate(tokens, seconds),
        goodput=_rate(good, seconds),
        ttft=spread(trace.ttft for trace in traces),
        tpot=spread(trace.tpot for trace in traces),
        gap=spread(gap for trace in traces for gap in trace.gaps),
        queueing=spread(trace.queueing for trace in traces),
    )


def _rate(count: float, seconds: float) -> float:
    """Per second; nan where no time has passed."""
    return count / seconds if seconds > 0 else math.nan
