"""An inference engine: continuous batching over a paged KV cache, one step after the other.

    submit ─→ waiting ──admit──→ running ──stop, limit──→ answered
                 ▲                 │  │
                 └────preempt──────┘  └──cancel (also while waiting)──→ answered

    a step    decide      who decodes, whose prompt goes on, who gives up its pages  (scheduler)
              run         the model, once, over the new tokens of all of these       (packed)
              choose      a token for every request that has no token missing
              tell        one `Event` per chosen token; finished requests leave

What a request is answered does not depend on who else is there: every row of the packed batch is
computed from its own tokens. But only up to rounding: a matrix product of eight rows may sum in
another order than one of a single row. So greedy answers are those that the model gives alone,
except where the two likeliest tokens are closer than rounding. In fp64 the logits agree to 1e-12 of
the largest; the tests assert that, and that no choice they compare was within 1e-9. In fp32,
rounding is half a billion times coarser, and nothing rules out a near tie: answers can differ.

Sources: Yu et al. 2022, "Orca"; Kwon et al. 2023, "PagedAttention" (vLLM).
"""

import math
from bisect import insort
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from reference.generate import choose
from reference.paging import PagedKVCache
from reference.serving.clock import Clock, Load, RealClock
from reference.serving.metrics import Trace
from reference.serving.packed import Attention, Packed, Segment
from reference.serving.requests import Answer, Event, Request, check_fits
from reference.serving.scheduler import Decision, Job, Limits, Work, decide
from reference.serving.text import Bytes, MakeDecoder, Silent, Writer
from reference.transformer import Transformer


class Engine:
    """Answers many requests at once with one model.

    num_pages, page_size: of the KV cache that they share. max_running: requests in one step.
    step_tokens: tokens in one step, so that long prompts are computed in chunks; None: each prompt
    in one piece. attention: the functions to attend with. decoder: makes what turns an answer's
    tokens into text; None: `Bytes` for a vocabulary of 256, else there is no text. share: whether
    prompts find what others have left in the cache. poison: see `PagedKVCache`. Raises ValueError
    as `Limits` does.

    answers: every request's, by id, until `forget`. decision: what the last step decided.

    >>> engine = Engine(Transformer(), num_pages=8)
    >>> name = engine.submit(Request(b"The last query", max_tokens=3))
    >>> [len(engine.step()) for _ in range(3)], engine.busy, engine.answers[name].reason
    ([1, 1, 1], False, 'length')

    The first step computes the prompt, and each of the three chooses a token.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        num_pages: int,
        page_size: int = 16,
        max_running: int = 8,
        step_tokens: int | None = 256,
        attention: Attention | None = None,
        decoder: MakeDecoder | None = None,
        clock: Clock | None = None,
        share: bool = True,
        poison: bool = False,
    ) -> None:
        weight = model.embedding.weight
        like = {"dtype": weight.dtype, "device": weight.device, "poison": poison}
        self.limits = Limits(page_size, num_pages, max_running, step_tokens)
        self.model, self.share = model, share
        self.decoder = decoder or (Bytes if model.config.vocabulary == 256 else Silent)
        self.attention = Attention() if attention is None else attention
        self.clock = RealClock() if clock is None else clock
        self.cache = PagedKVCache(model.config, num_pages, page_size, **like)
        self.answers: dict[Hashable, Answer] = {}
        self.decision = Decision((), (), ())
        self._submitted = 0
        self._waiting: list[Answer] = []  # the most urgent first
        self._running: dict[Hashable, int] = {}  # by request, its sequence in the cache
        self._writers: dict[Hashable, Writer] = {}

    @property
    def busy(self) -> bool:
        """Whether any request is not finished."""
        return bool(self._waiting or self._running)

    @property
    def waiting(self) -> tuple[Hashable, ...]:
        """Requests without pages, the most urgent first."""
        return tuple(answer.id for answer in self._waiting)

    @property
    def running(self) -> tuple[Hashable, ...]:
        """Requests that have pages, in the order in which they got them."""
        return tuple(self._running)

    def submit(self, request: Request, arrival: float | None = None) -> Hashable:
        """Queue a request, and return its id. arrival: when it came, by the clock; None: now.

        Raises `NeverFits` if its prompt and answer exceed the model's context or all pages
        together, ValueError for tokens outside the vocabulary, an id that is taken, or stop strings
        where there is no text.
        """
        check_fits(request, self.model.config, self.limits)
        id_ = self._submitted if request.id is None else request.id
        if id_ in self.answers:
            raise ValueError(f"id must not be taken; {id_!r} is")
        if request.stop_strings and self.decoder is Silent:
            raise ValueError(f"stop_strings need a decoder; got {request.stop_strings} and none")
        trace = Trace(self.clock.now() if arrival is None else arrival)
        answer = Answer(request, id_, self._submitted, trace)
        self._writers[id_] = Writer(request.seed, self.decoder(), request.stop_strings)
        self.answers[id_] = answer
        self._submitted += 1
        self._queue(answer)
        return id_

    def cancel(self, id_: Hashable) -> bool:
        """End a request now; its pages are free at once. False: it was finished already.

        Raises KeyError for an id that is not there.
        """
        answer = self.answers[id_]
        if answer.reason:
            return False
        if id_ in self._running:
            self._release(answer)
        else:
            self._waiting.remove(answer)
        self._finish(answer, "cancelled")
        return True

    def forget(self, id_: Hashable) -> Answer:
        """Return a finished answer, and keep it no longer. Raises ValueError if it is not."""
        if not self.answers[id_].reason:
            raise ValueError(f"request {id_!r} must be finished; cancel it first")
        return self.answers.pop(id_)

    @torch.no_grad()
    def step(self) -> list[Event]:
        """Run the model once; returns an event for each new token, [] if there is nothing to do.

        If the model raises, the step has not happened, but for requests preempted or let in.
        """
        if not self.busy:
            return []
        self.decision = decision = decide(self._jobs(), self._candidates(), self.limits)
        for id_ in decision.preempt:
            self._preempt(self.answers[id_])
        for id_ in decision.admit:
            self._admit(self.answers[id_])
        batch = self._pack(decision.work)
        due = [i for i, (a, segment) in enumerate(batch) if segment.stop == len(a.known)]
        logits = self._run(batch, due)
        self.clock.stepped(_load([segment for _, segment in batch]))
        for answer, segment in batch:
            answer.computed += segment.count
            if segment.stop == len(answer.request.prompt):
                self._record(answer)
        answers = [batch[i][0] for i in due]
        tokens, now = self._choose(answers, logits), self.clock.now()
        return [self._tell(a, token, now) for a, token in zip(answers, tokens, strict=True)]

    def stream(self, id_: Hashable) -> Iterator[str]:
        """The text of one answer as it grows. Makes steps as needed, in which all take part.

        Raises KeyError, when first asked, for an id that is not there.
        """
        answer, shown = self.answers[id_], 0
        while True:
            if len(answer.text) > shown:
                piece, shown = answer.text[shown:], len(answer.text)
                yield piece
            elif answer.reason:
                return
            else:
                self.step()

    def serve(self, requests: Iterable[Request]) -> Iterator[Event]:
        """Submit each request when it is due, and yield all events until everyone is answered.

        `Request.arrival` counts in seconds from the call; None is at once. Whoever asks does not
        wait for answers: an open loop, as real users are. Raises as `submit`.
        """
        began = self.clock.now()
        coming = deque(sorted(requests, key=lambda request: request.arrival or 0.0))
        while coming or self.busy:
            if not self.busy:
                self.clock.wait(began + (coming[0].arrival or 0.0))
            while coming and began + (coming[0].arrival or 0.0) <= self.clock.now():
                request = coming.popleft()
                self.submit(request, began + (request.arrival or 0.0))
            for event in self.step():
                if self.answers[event.id].reason != "cancelled":  # by whoever read the last event
                    yield event

    def run(self, requests: Iterable[Request]) -> list[Answer]:
        """`serve` all requests; returns their answers in the order of submission."""
        first = self._submitted
        for _ in self.serve(requests):
            pass
        found = [answer for answer in self.answers.values() if answer.order >= first]
        return sorted(found, key=lambda answer: answer.order)

    # ---- what the scheduler is told --------------------------------------------------------------

    def _jobs(self) -> list[Job]:
        tables = self.cache.tables
        return [
            Job(id_, a.rank, len(a.known), tables.length(seq), tables.pages(seq))
            for id_, seq in self._running.items()
            for a in (self.answers[id_],)
        ]

    def _candidates(self) -> Iterator[Job]:
        """Those that wait, one at a time: looking for their pages takes a hash for each."""
        for answer in self._waiting:
            known = answer.known
            pages = self.cache.tables.known(known) if self.share else ()
            found = len(pages) * self.limits.page_size
            yield Job(answer.id, answer.rank, len(known), found, pages)

    # ---- what it decided ------------------------------------------------------------------------

    def _preempt(self, answer: Answer) -> None:
        self._release(answer)
        answer.preemptions += 1
        self._queue(answer)

    def _admit(self, answer: Answer) -> None:
        self._waiting.remove(answer)
        seq = self.cache.new(answer.known if self.share else ())
        self._running[answer.id] = seq
        if math.isnan(answer.trace.started):  # for the first time
            answer.trace.started = self.clock.now()
            answer.found = self.cache.tables.length(seq)

    def _pack(self, work: Sequence[Work]) -> list[tuple[Answer, Segment]]:
        """The tokens to compute. A request that was let in may have found more than was expected:
        pages of one that was preempted in the same step."""
        batch = []
        for id_, count in work:
            answer, seq = self.answers[id_], self._running[id_]
            start = self.cache.tables.length(seq)
            batch.append((answer, Segment(seq, start, min(count, len(answer.known) - start))))
        return batch

    def _run(self, batch: Sequence[tuple[Answer, Segment]], due: Sequence[int]) -> Tensor:
        """Logits (len(due), vocabulary) after the last tokens of the segments that are due."""
        tokens = [token for a, s in batch for token in a.known[s.start : s.stop]]
        device = self.cache.k.device
        try:
            packed = Packed(self.cache, [segment for _, segment in batch])
            x = self.model.hidden(torch.tensor([tokens], device=device), packed, self.attention)
            return self.model.logits(x[0, packed.last[list(due)]])
        except BaseException:  # Ctrl-C, too: pages without tokens are given back
            for _, segment in batch:
                self.cache.tables.set_length(segment.seq, segment.start)
            raise

    def _choose(self, answers: Sequence[Answer], logits: Tensor) -> list[int]:
        """The next token of each; all of temperature 0 in one go."""
        tokens = logits.argmax(-1).tolist() if answers else []
        for i, answer in enumerate(answers):
            if temperature := answer.request.temperature:
                generator = self._writers[answer.id].generator
                tokens[i] = choose(logits[i], temperature, generator)
        return tokens

    def _tell(self, answer: Answer, token: int, now: float) -> Event:
        """Add a token to an answer, and end it if it must."""
        writer = self._writers[answer.id]
        answer.tokens.append(token)
        answer.trace.times.append(now)
        text = writer.push(token)
        reason = self._reason(answer, token, writer.stops.stopped)
        if reason:
            text += writer.rest()
        answer.text += text
        if reason:
            self._release(answer)
            self._finish(answer, reason)
        return Event(answer.id, token, text, reason)

    def _reason(self, answer: Answer, token: int, stopped: bool) -> str:
        request = answer.request
        if token in request.stop_tokens:
            return "stop token"
        if stopped:
            return "stop string"
        if len(answer.tokens) == request.max_tokens:
            return "length"
        in_cache = len(request.prompt) + len(answer.tokens) - 1
        return "context" if in_cache == self.model.config.context else ""

    # ---- who has what ---------------------------------------------------------------------------

    def _queue(self, answer: Answer) -> None:
        insort(self._waiting, answer, key=lambda other: other.rank)

    def _record(self, answer: Answer) -> None:
        """Let others find what this request has in the cache."""
        if self.share:
            seq = self._running[answer.id]
            length = self.cache.tables.length(seq)
            self.cache.record(seq, answer.known[:length])

    def _release(self, answer: Answer) -> None:
        """Give its pages back; as long as nobody needs them, they can still be found."""
        self._record(answer)
        self.cache.free(self._running.pop(answer.id))

    def _finish(self, answer: Answer, reason: str) -> None:
        answer.reason, answer.trace.finished = reason, self.clock.now()
        del self._writers[answer.id]


def _load(segments: Sequence[Segment]) -> Load:
    """What a step has to do, in numbers."""
    return Load(
        decodes=sum(segment.count == 1 for segment in segments),
        prompt_tokens=sum(segment.count for segment in segments if segment.count > 1),
        keys=sum(segment.stop for segment in segments),
    )
