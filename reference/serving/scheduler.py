"""Who works in the next step: decided on plain numbers, returned as data.

Each step of the engine runs the model once, over tokens of many requests side by side. The
scheduler looks at all requests anew before every step (Orca calls this iteration-level scheduling):
whoever has finished leaves at once, whoever waits can join at once.

    step_tokens = 8        step 1          step 2          step 3
    A  decodes             a               a               a
    B  decodes             b               b               b  ← last one
    C  prompt of 14        c c c c c c     c c c c c c     c c
    D  prompt of 5         waits           waits           d d d d d   prompts get what is left

Three rules, and nothing else:

1. Decoding comes first, one token each; what is left of `step_tokens` goes to prompts, in order of
   rank. So a long prompt is cut into chunks, and nobody who is writing has to wait for all of it.
2. A request joins when there are pages for all its tokens, and one more for each that is running.
   None overtakes the first that waits, or a long prompt could wait for ever.
3. When pages or places run out, the lowest ranked of the running requests gives up its own. It
   waits again, and later computes its prompt and what it had written as one prompt. It makes way
   for higher ranks only: the first in rank moves on in every step, so everyone gets there.

Sources: Yu et al. 2022, "Orca" (steps of mixed requests); Kwon et al. 2023, "PagedAttention",
section 4.5 (preemption, recomputation); Agrawal et al. 2024, "Sarathi-Serve" (chunks beside
decodes, under a budget of tokens).
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Limits:
    """What there is to hand out.

    page_size, num_pages: of the cache. max_running: requests at once. step_tokens: tokens per step,
    so that prompts are cut into chunks; None: no bound, a prompt is computed in one step.

    Raises ValueError for sizes below 1, and for step_tokens below max_running: then those who
    decode could fill every step.
    """

    page_size: int
    num_pages: int
    max_running: int = 8
    step_tokens: int | None = 256

    def __post_init__(self) -> None:
        if min(self.page_size, self.num_pages, self.max_running) < 1:
            raise ValueError(
                "page_size, num_pages and max_running must be at least 1; got "
                f"{self.page_size}, {self.num_pages} and {self.max_running}"
            )
        if self.step_tokens is not None and self.step_tokens < self.max_running:
            raise ValueError(
                f"step_tokens must be at least max_running, {self.max_running}, or None; got "
                f"{self.step_tokens}"
            )

    def pages_for(self, tokens: int) -> int:
        """How many pages that many tokens need."""
        return -(-tokens // self.page_size)


class Job(NamedTuple):
    """What the scheduler knows of a request.

    rank: sorts the most urgent first; no two are equal. known: tokens of the prompt and of the
    answer so far, at least one more than computed. computed: how many of these are in the cache.
    pages: which pages those are in, exactly as many as needed. Of a request that waits: what would
    be found of it in the cache.
    """

    id: Hashable
    rank: tuple
    known: int
    computed: int
    pages: tuple[int, ...] = ()

    @property
    def missing(self) -> int:
        """Tokens that have to be computed before the next one can be chosen."""
        return self.known - self.computed


class Work(NamedTuple):
    """The next `count` tokens of a request go through the model."""

    id: Hashable
    count: int


class Decision(NamedTuple):
    """What to do, in this order: take pages away, let requests in, run the model over `work`.

    work: who decodes (count 1), then who computes a prompt, or a chunk of it.
    """

    preempt: tuple[Hashable, ...]
    admit: tuple[Hashable, ...]
    work: tuple[Work, ...]


def decide(running: Sequence[Job], waiting: Iterable[Job], limits: Limits) -> Decision:
    """Decide on one step.

    running: in any order. waiting: the most urgent first; no more of it is read than needed.

    >>> a, b = Job("a", (0,), 9, 8, (0, 1)), Job("b", (1,), 14, 4, (2,))
    >>> decide([a, b], [], Limits(page_size=4, num_pages=6, max_running=2, step_tokens=6))
    Decision(preempt=(), admit=(), work=(Work(id='a', count=1), Work(id='b', count=5)))

    a decodes and takes a third page; b has ten tokens of a prompt left, five of which fit the step.

    >>> decide([a, b], [], Limits(page_size=4, num_pages=3, max_running=2, step_tokens=6))
    Decision(preempt=('b',), admit=(), work=(Work(id='a', count=1),))

    There is no third page for a, so b has to give up its own.
    """
    step = _Step(running, limits)
    ranked = sorted(running, key=lambda job: job.rank)
    for job in ranked:
        if job.missing == 1:
            step.grow(job)
    queue = iter(waiting)
    head = next(queue, None)
    for job in [*(job for job in ranked if job.missing > 1), None]:
        while head is not None and (job is None or head.rank < job.rank):
            head = next(queue, None) if step.admit(head) else None
        if job is not None:
            step.grow(job)
    return step.decision()


class _Step:
    """A step in the making: what it hands out, and what that leaves."""

    def __init__(self, running: Sequence[Job], limits: Limits) -> None:
        self.limits = limits
        self.budget = limits.step_tokens
        self.pages = _Pages(running, limits.num_pages)
        self.running = {job.id: job for job in running}
        self.work: dict[Hashable, int] = {}
        self.preempted: list[Hashable] = []
        self.admitted: list[Hashable] = []

    def grow(self, job: Job) -> None:
        """Give a running request its work, and the pages for it, if need be those of others."""
        count = job.missing if self.budget is None else min(job.missing, self.budget)
        while job.id in self.running and count:
            wanted = self._more_pages(job, count)
            if wanted <= self.pages.free:
                self._assign(job, count, wanted)
                return
            last = max(self.running.values(), key=lambda other: other.rank)
            if last.id == job.id and job.missing > 1:  # a prompt can take what there is, or wait
                room = (len(job.pages) + self.pages.free) * self.limits.page_size
                count = min(count, room - job.computed)
            else:
                self._preempt(last)

    def admit(self, job: Job) -> bool:
        """Let a waiting request in, if there is room or others that rank lower can make it."""
        lower = sorted(
            (other for other in self.running.values() if other.rank > job.rank),
            key=lambda other: other.rank,
        )
        pages, kept, leave, left = self.pages.copy(), dict(self.running), [], self.budget
        while left == 0 or not self._fits(job, pages, kept.values()):
            if not lower:
                return False
            leave.append(other := lower.pop())
            pages.release(other)
            del kept[other.id]
            left = None if left is None else left + self.work.get(other.id, 0)
        for other in leave:
            self._preempt(other)
        self.pages.hold(job)
        self.running[job.id] = job
        self.admitted.append(job.id)
        self.grow(job)
        return True

    def decision(self) -> Decision:
        """What has been decided."""
        decodes = [id_ for id_ in self.work if self.running[id_].missing == 1]
        prompts = [id_ for id_ in self.work if self.running[id_].missing > 1]
        work = tuple(Work(id_, self.work[id_]) for id_ in (*decodes, *prompts))
        return Decision(tuple(self.preempted), tuple(self.admitted), work)

    def _fits(self, job: Job, pages: "_Pages", running: Iterable[Job]) -> bool:
        """Rule 2, if only these were running. What they were promised is not there to be given."""
        others = list(running)
        if len(others) >= self.limits.max_running:
            return False
        promised = sum(
            self.limits.pages_for(other.known) - len(other.pages) - pages.new[other.id] + 1
            for other in others
        )
        new = self.limits.pages_for(job.known) - len(job.pages)
        return new + pages.idle(job) + promised <= pages.free

    def _more_pages(self, job: Job, count: int) -> int:
        return self.limits.pages_for(job.computed + count) - len(job.pages)

    def _assign(self, job: Job, count: int, wanted: int) -> None:
        self.work[job.id] = count
        self.pages.take(job, wanted)
        if self.budget is not None:
            self.budget -= count

    def _preempt(self, job: Job) -> None:
        del self.running[job.id]
        self.pages.release(job)
        if self.budget is not None:
            self.budget += self.work.get(job.id, 0)
        self.work.pop(job.id, None)
        self.preempted.append(job.id)  # never one let in just now: those who come later rank lower


class _Pages:
    """Who holds which page, as it will be: `free` pages belong to nobody."""

    def __init__(self, running: Iterable[Job], num_pages: int) -> None:
        self.holders = Counter(page for job in running for page in job.pages)
        self.free = num_pages - len(self.holders)
        self.new: Counter = Counter()  # pages that a request gets in this step

    def copy(self) -> "_Pages":
        other = _Pages((), self.free)
        other.holders, other.new = self.holders.copy(), self.new.copy()
        return other

    def idle(self, job: Job) -> int:
        """How many of the pages that a waiting request would find are nobody's yet."""
        return sum(not self.holders[page] for page in job.pages)

    def hold(self, job: Job) -> None:
        """The request gets its pages, shared or idle."""
        self.free -= self.idle(job)
        self.holders.update(job.pages)

    def take(self, job: Job, count: int) -> None:
        """The request gets new pages."""
        self.free -= count
        self.new[job.id] += count

    def release(self, job: Job) -> None:
        """The request's pages are nobody's, unless others hold them too."""
        self.free += self.new.pop(job.id, 0)
        for page in job.pages:
            self.holders[page] -= 1
            self.free += not self.holders[page]
