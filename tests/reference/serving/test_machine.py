"""Any requests, cancellations and page pools: each greedy answer is the model's own, no page leaks.

Hypothesis invents who asks what and when, who leaves, and how scarce pages, places and the tokens
of a step are. The model is a tiny one in fp64; every answer is compared with what it gives alone,
whose choices are asserted to be no near ties (see `alone`). All pages are NaN when handed out.
"""

from collections import Counter
from functools import cache

from alone import Alone, answered_alone
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from serving_models import NAIVE, prompt_of, tiny

from reference.serving import Engine, NeverFits, Request, SimulatedClock
from reference.serving.threads import THREADS

# Prompts are fronts of three texts, of which two begin alike: whole pages are often known.
TEXTS = prompt_of(30, 1), prompt_of(12, 1) + prompt_of(18, 2), prompt_of(30, 3)
STOPS = frozenset(range(0, 256, 16))


@cache
def alone(text: int, length: int, max_tokens: int, stops: bool, strings: bool) -> Alone:
    return answered_alone(tiny(), asked(text, length, max_tokens, stops, strings))


def asked(text, length, max_tokens, stops, strings, priority=0) -> Request:
    return Request(
        TEXTS[text][:length],
        max_tokens=max_tokens,
        stop_tokens=STOPS if stops else frozenset(),
        stop_strings=("\ufffd\ufffd", "z") if strings else (),
        priority=priority,
    )


class Machine(RuleBasedStateMachine):
    @initialize(
        page_size=st.integers(1, 5),
        scarce=st.floats(0, 1),
        max_running=st.integers(1, 4),
        more=st.one_of(st.none(), st.integers(0, 12)),
        attention=st.sampled_from([NAIVE, THREADS]),
        share=st.booleans(),
    )
    def begin(self, page_size, scarce, max_running, more, attention, share):
        most = -(-40 // page_size)  # pages of the whole context
        self.engine = Engine(
            tiny(),
            num_pages=max(1, int(most * (0.3 + 2 * scarce))),
            page_size=page_size,
            max_running=max_running,
            step_tokens=None if more is None else max_running + more,
            attention=attention,
            share=share,
            clock=SimulatedClock(lambda load: 1.0),
            poison=True,
        )
        self.wanted: dict[int, Alone] = {}
        self.told: dict[int, str] = {}
        self.cancelled: set[int] = set()

    @rule(
        text=st.integers(0, 2),
        length=st.integers(1, 30),
        max_tokens=st.integers(1, 15),
        stops=st.booleans(),
        strings=st.booleans(),
        priority=st.integers(0, 2),
    )
    def submit(self, text, length, max_tokens, stops, strings, priority):
        request = asked(text, length, max_tokens, stops, strings, priority)
        limits = self.engine.limits
        fits = limits.pages_for(min(length + max_tokens - 1, 40)) <= limits.num_pages
        try:
            name = self.engine.submit(request)
        except NeverFits:
            assert not fits
            return
        assert fits
        self.wanted[name] = alone(text, length, max_tokens, stops, strings)
        self.told[name] = ""

    @precondition(lambda self: self.engine.busy)
    @rule(times=st.integers(1, 6))
    def step(self, times):
        for _ in range(times):
            self._step()

    def _step(self):
        answers = self.engine.answers
        live = [answers[name] for name in (*self.engine.waiting, *self.engine.running)]
        before = {answer.id: answer.computed for answer in live}
        for event in self.engine.step():
            self.told[event.id] += event.text
        if live:
            first = min(live, key=lambda answer: answer.rank)
            assert first.computed > before[first.id], "the first in rank moves on in every step"

    @precondition(lambda self: self.wanted)
    @rule(which=st.integers(0, 10**6))
    def cancel(self, which):
        name = which % len(self.wanted)
        live = name in (*self.engine.waiting, *self.engine.running)
        assert self.engine.cancel(name) == live
        if live:
            self.cancelled.add(name)

    @invariant()
    def every_answer_is_the_models_own(self):
        for name, wanted in getattr(self, "wanted", {}).items():
            answer = self.engine.answers[name]
            assert answer.tokens == wanted.tokens[: len(answer.tokens)]
            assert answer.text == self.told[name] and wanted.text.startswith(answer.text)
            if name in self.cancelled:
                assert answer.reason == "cancelled"
            elif answer.reason:
                assert (answer.tokens, answer.text, answer.reason) == wanted

    @invariant()
    def every_page_is_counted_and_nobody_holds_more_than_it_needs(self):
        if not hasattr(self, "engine"):
            return
        engine, tables = self.engine, self.engine.cache.tables
        pool, seqs = tables.pool, tables.sequences
        assert sorted(engine._running.values()) == sorted(seqs)
        assert len(seqs) <= engine.limits.max_running
        holders = Counter(page for seq in seqs for page in tables.pages(seq))
        assert pool.references == [holders[page] for page in range(pool.num_pages)]
        assert sorted([*pool.free, *pool.idle, *holders]) == list(range(pool.num_pages))
        for name, seq in engine._running.items():
            assert len(tables.pages(seq)) == engine.limits.pages_for(tables.length(seq))
            assert tables.length(seq) < len(engine.answers[name].known)
        assert engine.waiting == tuple(
            sorted(engine.waiting, key=lambda name: engine.answers[name].rank)
        )

    def teardown(self):
        if not hasattr(self, "engine"):
            return
        for _ in range(10 + sum(len(w.tokens) + 30 for w in self.wanted.values())):
            self._step()  # one token of the first in rank, at least
        assert not self.engine.busy and not self.engine._writers
        self.every_answer_is_the_models_own()
        for name in self.wanted:
            assert self.engine.answers[name].reason
        pool = self.engine.cache.tables.pool
        assert pool.available == pool.num_pages and not any(pool.references), "a page leaked"


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
