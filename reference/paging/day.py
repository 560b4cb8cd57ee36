"""A simulated day of requests: how much memory is used, and how many requests run at once.

    reserve the longest   every request gets room for `longest` tokens, whatever it will need
    reserve exactly       every request gets just what it will need, in one piece: an oracle, since
                          nobody knows how long an answer will be
    pages                 every request has ⌈tokens / page_size⌉ pages, and takes the next when it
                          needs it

The day is a model and not a recording. 40 jobs start at random times between 8 and 20 o'clock; each
of the 2,000 requests belongs to one of them and arrives within the half minute after its start. The
prompt's length is lognormal with a median of 600 tokens (σ = 1, at most 6,144), the answer's with a
median of 300 (σ = 0.9, at most 2,048). Every running request writes 20 tokens a second; a prompt is
read in no time. Requests begin in the order in which they came. With pages, memory can run out
halfway: then the request that began last gives its pages back and starts over later (its tokens are
computed again, as one prompt).

Sources: Kwon et al. 2023, "PagedAttention", section 3 and figure 2 (the three kinds of waste);
Johnstone & Wilson 1998, "The memory fragmentation problem: solved?" (first fit).
"""

import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

TOKENS_PER_SECOND = 20
LONGEST_PROMPT, LONGEST_ANSWER = 6144, 2048
LONGEST = LONGEST_PROMPT + LONGEST_ANSWER


@dataclass(frozen=True)
class Request:
    """arrival: seconds after midnight. prompt, answer: their tokens, at least 1 each."""

    arrival: float
    prompt: int
    answer: int

    @property
    def tokens(self) -> int:
        """How many tokens there are in the end."""
        return self.prompt + self.answer


def requests(count: int = 2000, jobs: int = 40, seed: int = 0) -> list[Request]:
    """The requests of a day, in the order of their arrival. Raises ValueError for counts below 1.

    Drawn by inverting distribution functions, so that a seed gives the same day everywhere.
    """
    if count < 1 or jobs < 1:
        raise ValueError(f"count and jobs must be at least 1; got {count} and {jobs}")
    rng = random.Random(seed)

    def length(median: float, sigma: float, most: int) -> int:
        drawn = NormalDist().inv_cdf(min(max(rng.random(), 1e-12), 1 - 1e-12))
        return max(1, min(most, round(median * math.exp(sigma * drawn))))

    starts = [3600 * (8 + 12 * rng.random()) for _ in range(jobs)]
    day = []
    for _ in range(count):
        arrival = starts[int(rng.random() * jobs)] + 30 * rng.random()
        prompt, answer = length(600, 1.0, LONGEST_PROMPT), length(300, 0.9, LONGEST_ANSWER)
        day.append(Request(arrival, prompt, answer))
    return sorted(day, key=lambda request: request.arrival)


class Memory(Protocol):
    """Room for a number of tokens, and a rule for handing it out. A holder is a number."""

    capacity: int
    in_one_piece: bool  # whether a request needs adjacent memory, so that holes can be too small

    def begin(self, holder: int, tokens: int, in_the_end: int) -> bool:
        """Find room for a request that has `tokens` now; False: there is none."""

    def grow(self, holder: int, tokens: int) -> bool:
        """Make room for `tokens` in all; False: there is none, and nothing has changed."""

    def end(self, holder: int) -> None:
        """Take back all that it holds."""

    def reserved(self, holder: int) -> int:
        """For how many tokens it holds room."""


class Contiguous:
    """Each request in one piece, first fit. longest: how much each gets; None: what it will need.

    Raises ValueError unless there is room for one request of the longest kind.
    """

    def __init__(self, capacity: int, longest: int | None = None) -> None:
        if capacity < (longest or 1):
            raise ValueError(f"capacity must be at least {longest or 1} tokens; got {capacity}")
        self.in_one_piece = True
        self.capacity, self.longest = capacity, longest
        self.pieces: dict[int, tuple[int, int]] = {}  # by holder: where it begins and ends

    def begin(self, holder: int, tokens: int, in_the_end: int) -> bool:
        """Take the first hole that is large enough."""
        size, at = in_the_end if self.longest is None else self.longest, 0
        for start, stop in sorted(self.pieces.values()):
            if start - at >= size:
                break
            at = stop
        if self.capacity - at < size:
            return False
        self.pieces[holder] = at, at + size
        return True

    def grow(self, holder: int, tokens: int) -> bool:
        """True: the room was there from the beginning."""
        return tokens <= self.reserved(holder)

    def end(self, holder: int) -> None:
        """Leave a hole."""
        del self.pieces[holder]

    def reserved(self, holder: int) -> int:
        """The size of its piece."""
        start, stop = self.pieces[holder]
        return stop - start


class Paged:
    """Each request in pages; the last ones are kept for those that run, and none begins with them.

    spare: the share kept. Raises ValueError for a page_size below 1 or above the capacity.
    """

    def __init__(self, capacity: int, page_size: int, spare: float = 0.02) -> None:
        if not 1 <= page_size <= capacity:
            raise ValueError(f"page_size must lie in 1…{capacity}, the capacity; got {page_size}")
        self.in_one_piece, self.page_size, self.pages = False, page_size, {}
        self.free = capacity // page_size
        self.capacity = self.free * page_size
        self.kept = math.ceil(spare * self.free)

    def begin(self, holder: int, tokens: int, in_the_end: int) -> bool:
        """Take pages for what is there now, if enough stay free for the others."""
        wanted = math.ceil(tokens / self.page_size)
        if wanted > self.free - (self.kept if self.pages else 0):
            return False
        self.pages[holder] = wanted
        self.free -= wanted
        return True

    def grow(self, holder: int, tokens: int) -> bool:
        """Take the next pages, if its own are full."""
        more = math.ceil(tokens / self.page_size) - self.pages[holder]
        if more > self.free:
            return False
        self.pages[holder] += max(0, more)
        self.free -= max(0, more)
        return True

    def end(self, holder: int) -> None:
        """Give all pages back."""
        self.free += self.pages.pop(holder)

    def reserved(self, holder: int) -> int:
        """The slots of its pages."""
        return self.pages[holder] * self.page_size


@dataclass
class Outcome:
    """A day under one rule. Shares of memory are averages over the seconds when somebody waited.

    held: tokens that are there. later: reserved, and filled before the request ends. never:
    reserved and never filled (internal fragmentation). free: nobody's, though somebody waits.
    scattered: in this share of those seconds the free memory would have done for the next request,
    had it been in one piece (external fragmentation). running: requests at once, over the same
    seconds; most: at any time. median_wait, long_wait (95th percentile): seconds until a request
    begins. restarted: requests sent back to the queue. busy: seconds in which somebody waited.
    """

    held: float
    later: float
    never: float
    free: float
    scattered: float
    running: float
    most: int
    median_wait: float
    long_wait: float
    restarted: int
    busy: int


class Day:
    """One run of a day against one memory, second by second."""

    def __init__(self, day: Sequence[Request], memory: Memory) -> None:
        self.day, self.memory = day, memory
        self.waiting: deque[int] = deque()
        self.tokens: dict[int, int] = {}  # of the running ones, the latest to begin last
        self.done: dict[int, int] = {}  # tokens of those that were sent back
        self.waited: dict[int, float] = {}
        self.sums, self.most, self.restarted, self.busy = [0.0] * 6, 0, 0, 0

    def run(self, look: Callable[["Day", int], None] | None = None) -> Outcome:
        """Run to the end; look(day, second) is called every second in which somebody waits."""
        second, arrived = 0, 0
        while arrived < len(self.day) or self.waiting or self.tokens:
            if not self.waiting and not self.tokens:  # nothing to do until the next one comes
                second = max(second, math.ceil(self.day[arrived].arrival))
            while arrived < len(self.day) and self.day[arrived].arrival <= second:
                self.waiting.append(arrived)
                arrived += 1
            self._begin(second)
            if self.waiting:
                self._count()
                if look is not None:
                    look(self, second)
            self._write()
            second += 1
        return self._outcome()

    def _begin(self, second: int) -> None:
        while self.waiting:
            holder = self.waiting[0]
            request, tokens = self.day[holder], self.done.get(holder, self.day[holder].prompt)
            if not self.memory.begin(holder, tokens, request.tokens):
                if not self.tokens:
                    raise ValueError(
                        f"a request of {request.tokens} tokens does not fit into an empty memory "
                        f"of {self.memory.capacity}"
                    )
                return
            self.waiting.popleft()
            self.tokens[holder] = tokens
            self.waited.setdefault(holder, second - request.arrival)

    def _write(self) -> None:
        for holder in list(self.tokens):
            if holder not in self.tokens:  # sent back meanwhile
                continue
            tokens = min(self.tokens[holder] + TOKENS_PER_SECOND, self.day[holder].tokens)
            while holder in self.tokens and not self.memory.grow(holder, tokens):
                self._send_back(next(reversed(self.tokens)))
            if holder in self.tokens:
                self.tokens[holder] = tokens
                if tokens == self.day[holder].tokens:
                    self.memory.end(holder)
                    del self.tokens[holder]

    def _send_back(self, holder: int) -> None:
        if len(self.tokens) == 1:
            raise ValueError(
                f"a request of {self.day[holder].tokens} tokens does not fit into an empty memory "
                f"of {self.memory.capacity}"
            )
        self.done[holder] = self.tokens.pop(holder)
        self.memory.end(holder)
        self.waiting.appendleft(holder)
        self.restarted += 1

    def shares(self) -> tuple[float, float, float, float]:
        """The shares held, later, never and free of the memory, now."""
        held = later = never = 0
        for holder, tokens in self.tokens.items():
            reserved, end = self.memory.reserved(holder), self.day[holder].tokens
            held += tokens
            later += max(0, min(reserved, end) - tokens)
            never += max(0, reserved - end)
        used = [x / self.memory.capacity for x in (held, later, never)]
        return *used, 1 - sum(used)

    def _count(self) -> None:
        shares, request = self.shares(), self.day[self.waiting[0]]
        room = shares[3] * self.memory.capacity >= request.tokens
        fits = room and self.memory.in_one_piece
        for i, x in enumerate((*shares, fits, len(self.tokens))):
            self.sums[i] += x
        self.busy += 1
        self.most = max(self.most, len(self.tokens))

    def _outcome(self) -> Outcome:
        waits = sorted(self.waited.values())
        means = [x / max(1, self.busy) for x in self.sums]
        late = waits[min(len(waits) - 1, int(0.95 * len(waits)))]
        return Outcome(*means, self.most, statistics.median(waits), late, self.restarted, self.busy)
