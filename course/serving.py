"""An engine in numbers alone: its real scheduler, steps of simulated time, and no model.

What an engine decides depends on how many tokens there are, never on which. So
`reference.serving.decide` can run through thousands of requests in a second or two, and every run
is the same. `tests/figures/test_15.py` compares it step by step with the engine itself.

Left out: prefix sharing (all prompts are taken to be different) and everything that ends an answer
before its length.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from reference.serving import Job, Limits, Load, Trace, decide

PROMPT, WRITES, LOST = "prompt", "writes", "gives way"


class Asked(NamedTuple):
    """A request in numbers. arrival: seconds. prompt, answer: tokens, at least 1 each."""

    arrival: float
    prompt: int
    answer: int


class Span(NamedTuple):
    """What a request did in one step. start, stop: seconds. kind: PROMPT, WRITES or LOST.

    tokens: of the prompt, of the answer, or those that are computed again later.
    """

    request: int
    start: float
    stop: float
    kind: str
    tokens: int


class Run(NamedTuple):
    """What came of all requests, in the order in which they were given.

    spans: in the order of time. most_running: at once. steps: how often the model ran. computed:
    tokens that went through it, those computed again included.
    """

    traces: tuple[Trace, ...]
    spans: tuple[Span, ...]
    preemptions: int
    most_running: int
    steps: int
    computed: int


class StepCost(NamedTuple):
    """Seconds of one step of a model: what it reads, and what it computes for prompts.

    weights: bytes. token_bytes: of a token in the cache. bandwidth: bytes/s. prefill_speed: prompt
    tokens/s. Both parts are added. A GPU overlaps them: next to decodes, which wait for memory, the
    first hundred or so tokens of a prompt cost it next to nothing (Agrawal et al. 2024).

    >>> cost = StepCost(weights=16e9, token_bytes=131_072, bandwidth=3.35e12, prefill_speed=31_000)
    >>> round(1000 * cost(Load(decodes=8, prompt_tokens=0, keys=16_000)), 2)
    5.4

    Milliseconds: 4.78 for the weights, and 0.63 for the keys and values of eight requests.
    """

    weights: float
    token_bytes: float
    bandwidth: float
    prefill_speed: float

    def __call__(self, load: Load) -> float:
        """Return the seconds of a step that has this to do."""
        read = self.weights + load.keys * self.token_bytes
        return read / self.bandwidth + load.prompt_tokens / self.prefill_speed


def poisson_load(
    count: int,
    rate: float,
    prompt: tuple[int, float] = (512, 0.6),
    answer: tuple[int, float] = (128, 0.6),
    seed: int = 0,
) -> list[Asked]:
    """Return requests at random times, `rate` per second on average, whoever else is there.

    prompt, answer: median and σ of lognormal lengths, cut off at eight medians. The same seed gives
    the same lengths, and the same arrivals at another pace. Raises ValueError for a rate that is
    not positive.
    """
    if not rate > 0:
        raise ValueError(f"rate must be positive; got {rate}")
    rng, now, asked = random.Random(seed), 0.0, []

    def length(median: int, sigma: float) -> int:
        return max(1, min(8 * median, round(median * math.exp(rng.gauss(0.0, sigma)))))

    for _ in range(count):
        now += -math.log(1.0 - rng.random()) / rate  # gaps of a Poisson process are exponential
        asked.append(Asked(now, length(*prompt), length(*answer)))
    return asked


def simulate(
    asked: Sequence[Asked], limits: Limits, seconds: Callable[[Load], float] = lambda load: 1.0
) -> Run:
    """Serve the requests as the engine would: those given first come first.

    asked: in the order of arrival. seconds: how long a step takes; the default counts steps.
    Raises ValueError for a request that needs more pages than there are.
    """
    for one in asked:
        if limits.pages_for(one.prompt + one.answer - 1) > limits.num_pages:
            raise ValueError(
                f"a request of {one.prompt} + {one.answer} tokens must fit into "
                f"{limits.num_pages} pages of {limits.page_size}; it does not"
            )
    return _Simulation(asked, limits, seconds).run()


def in_batches(asked: Sequence[Asked], slots: int) -> Run:
    """Serve the requests in fixed batches, as before Orca: the next begins when all are done.

    A step, of one second, writes a token of each request; prompts are read in no time.
    """
    traces, spans, now, steps = [], [], 0.0, 0
    for first in range(0, len(asked), slots):
        batch = asked[first : first + slots]
        now = max(now, *(one.arrival for one in batch))
        for i, one in enumerate(batch, first):
            times = [now + n + 1 for n in range(one.answer)]
            spans += [Span(i, t - 1, t, WRITES, 1) for t in times]
            traces.append(Trace(one.arrival, now, times, times[-1]))
        steps += max(one.answer for one in batch)
        now += max(one.answer for one in batch)
    return Run(tuple(traces), tuple(spans), 0, min(slots, len(asked)), steps,
               sum(one.answer for one in asked))  # fmt: skip


class _Simulation:
    """Requests on their way; a page is a number that is never used again."""

    def __init__(
        self, asked: Sequence[Asked], limits: Limits, seconds: Callable[[Load], float]
    ) -> None:
        self.asked, self.limits, self.seconds = asked, limits, seconds
        self.coming, self.now, self.pages = 0, 0.0, 0
        self.waiting: list[Job] = []
        self.running: dict[int, Job] = {}
        self.traces = [Trace(one.arrival) for one in asked]
        self.spans: list[Span] = []
        self.preemptions = self.most = self.steps = self.computed = 0

    def run(self) -> Run:
        while self.coming < len(self.asked) or self.waiting or self.running:
            if not self.waiting and not self.running:
                self.now = max(self.now, self.asked[self.coming].arrival)
            while self.coming < len(self.asked) and self.asked[self.coming].arrival <= self.now:
                self._queue(Job(self.coming, (self.coming,), self.asked[self.coming].prompt, 0))
                self.coming += 1
            self._step()
        counts = self.preemptions, self.most, self.steps, self.computed
        return Run(tuple(self.traces), tuple(self.spans), *counts)

    def _queue(self, job: Job) -> None:
        self.waiting.append(job)
        self.waiting.sort(key=lambda other: other.rank)

    def _step(self) -> None:
        decision = decide(list(self.running.values()), self.waiting, self.limits)
        for i in decision.preempt:
            job = self.running.pop(i)
            self.spans.append(Span(i, self.now, self.now, LOST, job.computed))
            self._queue(job._replace(computed=0, pages=()))
            self.preemptions += 1
        for i in decision.admit:
            job = next(job for job in self.waiting if job.id == i)
            self.waiting.remove(job)
            self.running[i] = job
            if math.isnan(self.traces[i].started):
                self.traces[i].started = self.now
        self.most = max(self.most, len(self.running))
        began, work = self.now, decision.work
        self.now += self.seconds(self._load(work))
        self.steps += 1
        for i, count in work:
            self._computed(i, count, began)

    def _load(self, work: Iterable[tuple[int, int]]) -> Load:
        counts = list(work)
        return Load(
            decodes=sum(count == 1 for _, count in counts),
            prompt_tokens=sum(count for _, count in counts if count > 1),
            keys=sum(self.running[i].computed + count for i, count in counts),
        )

    def _computed(self, i: int, count: int, began: float) -> None:
        job = self.running[i]
        kind = WRITES if job.missing == 1 and self.traces[i].times else PROMPT
        self.spans.append(Span(i, began, self.now, kind, count))
        self.computed += count
        done = job.computed + count
        more = self.limits.pages_for(done) - len(job.pages)
        pages = (*job.pages, *range(self.pages, self.pages + more)) if more else job.pages
        self.pages += more
        if done == job.known:
            self.traces[i].times.append(self.now)
        self.running[i] = Job(i, job.rank, job.known + (done == job.known), done, pages)
        if len(self.traces[i].times) == self.asked[i].answer:
            self.traces[i].finished = self.now
            del self.running[i]
