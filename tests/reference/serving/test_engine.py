"""reference.serving.engine: what is answered is what the model answers alone; nothing is lost."""

import doctest
import math

import pytest
import torch
from alone import SURE, answered_alone
from serving_models import ATTENTION, NAIVE, prompt_of, tiny
from small_models import small_model

from course.check.guards import empty_is_nan
from reference.generate import generate_tokens
from reference.serving import (
    Engine,
    Load,
    NeverFits,
    Request,
    SimulatedClock,
    clock,
    engine,
    requests,
)
from reference.transformer import Config


def small_engine(num_pages=24, page_size=4, **options):
    options = {"attention": NAIVE, "step_tokens": 12, "poison": True} | options
    return Engine(tiny(), num_pages=num_pages, page_size=page_size, **options)


def assert_empty(one: Engine) -> None:
    pool = one.cache.tables.pool
    assert not one.busy and pool.available == pool.num_pages and not any(pool.references)


@pytest.mark.parametrize("module", [engine, clock, requests])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("step_tokens", [4, 12, None])
@pytest.mark.parametrize("attention", ATTENTION.values(), ids=ATTENTION.keys())
def test_together_as_alone(attention, step_tokens):
    asked = [Request(prompt_of(n, n), max_tokens=m) for n, m in ((9, 7), (1, 12), (20, 5), (13, 9))]
    one = small_engine(attention=attention, step_tokens=step_tokens, max_running=4)
    with empty_is_nan():
        answers = one.run(asked)
    for request, answer in zip(asked, answers, strict=True):
        assert (answer.tokens, answer.text, answer.reason) == answered_alone(tiny(), request)
        assert answer.computed == len(request.prompt) + request.max_tokens - 1
    assert_empty(one)


def test_logits_are_those_of_the_model_alone(monkeypatch):
    """In fp64 they agree to 1e-12 of the largest; a choice is sure a thousand times above that."""
    seen = {}
    one = small_engine(step_tokens=6, num_pages=10, max_running=4)
    choose = one._choose
    monkeypatch.setattr(one, "_choose", lambda answers, logits: [
        seen.setdefault(a.id, []).append(x.clone()) for a, x in zip(answers, logits, strict=True)
    ] and choose(answers, logits))  # fmt: skip
    answers = one.run([Request(prompt_of(n, n), max_tokens=16) for n in (9, 17, 5)])
    assert sum(answer.preemptions for answer in answers) > 0
    for answer in answers:
        known = torch.tensor([answer.known[:-1]])
        wanted = tiny()(known)[0, len(answer.request.prompt) - 1 :]
        worst = (torch.stack(seen[answer.id]) - wanted).abs().max() / wanted.abs().max()
        assert worst < 1e-12 <= SURE / 1000


def test_drawn_answers_are_the_same_too_and_a_preemption_draws_nothing_twice():
    asked = [Request(prompt_of(8, n), max_tokens=9, temperature=1.5, seed=n) for n in range(3)]
    one = small_engine(num_pages=9, max_running=3)
    answers = one.run(asked)
    assert sum(answer.preemptions for answer in answers) > 0
    for request, answer in zip(asked, answers, strict=True):
        assert answer.tokens == answered_alone(tiny(), request).tokens
    assert answers[0].tokens != one.run([Request(prompt_of(8, 0), max_tokens=9)])[0].tokens


def test_stop_conditions():
    prompt = prompt_of(6, 3)
    long = answered_alone(tiny(), Request(prompt, max_tokens=20))
    stop, text = long.tokens[4], long.text
    asked = [
        Request(prompt, max_tokens=20, stop_tokens=frozenset({stop})),
        Request(prompt, max_tokens=20, stop_strings=(text[3:5], "not there")),
        Request(prompt, max_tokens=7),
        Request(prompt, max_tokens=100),
    ]
    answers = small_engine().run(asked)
    for request, answer in zip(asked, answers, strict=True):
        assert (answer.tokens, answer.text, answer.reason) == answered_alone(tiny(), request)
    assert [a.reason for a in answers] == ["stop token", "stop string", "length", "context"]
    assert text[3:5] not in answers[1].text and len(answers[3].tokens) == 40 - 6 + 1


def test_a_common_prefix_is_computed_once():
    system = prompt_of(17)
    first, other = Request([*system, 1, 2], max_tokens=4), Request([*system, 9], max_tokens=4)
    one = small_engine()
    one.run([first])
    (answer,) = one.run([other])
    assert answer.found == 16 and answer.computed == len(other.prompt) - 16 + 3
    assert answer.tokens == answered_alone(tiny(), other).tokens
    again = small_engine(share=False)
    again.run([first])
    assert again.run([other])[0].found == 0


def test_a_prompt_is_found_while_the_one_who_brought_it_is_still_answered():
    one, system = small_engine(), prompt_of(17)
    first = one.submit(Request([*system, 1], max_tokens=9))
    while not one.answers[first].tokens:
        one.step()
    second = one.submit(Request([*system, 2], max_tokens=2))
    one.step()
    assert one.running == (first, second) and one.answers[second].found == 16
    shared = set(one.cache.tables.pages(0)) & set(one.cache.tables.pages(1))
    assert len(shared) == 4
    while one.busy:
        one.step()
    for name in (first, second):
        assert one.answers[name].tokens == answered_alone(tiny(), one.answers[name].request).tokens


def test_an_answer_is_found_when_the_conversation_goes_on():
    one = small_engine()
    (first,) = one.run([Request(prompt_of(6), max_tokens=8)])
    (second,) = one.run([Request([*first.known, 5], max_tokens=3)])
    assert second.found == 12  # of the 13 tokens that were stored, three full pages


def test_when_pages_run_out_the_last_gives_way_and_starts_over():
    asked = [Request(prompt_of(7, n), max_tokens=14) for n in range(2)]
    one = small_engine(num_pages=8)
    answers = one.run(asked)
    assert [answer.preemptions for answer in answers] == [0, 1]
    assert all(
        a.tokens == answered_alone(tiny(), r).tokens for r, a in zip(asked, answers, strict=True)
    )
    assert_empty(one)


def test_priorities_first_then_first_come_first_served():
    one = small_engine(max_running=1, clock=SimulatedClock(lambda load: 1.0))
    names = [one.submit(Request([1, 2], max_tokens=2, priority=p)) for p in (0, 0, 1)]
    ended = []
    while one.busy:
        ended += [event.id for event in one.step() if event.reason]
    assert ended == [names[2], names[0], names[1]]


def test_someone_urgent_takes_the_place_of_someone_running():
    one = small_engine(max_running=1)
    calm = one.submit(Request(prompt_of(4), max_tokens=6))
    one.step(), one.step()
    urgent = one.submit(Request(prompt_of(4, 9), max_tokens=2, priority=5))
    one.step()
    assert one.running == (urgent,) and one.waiting == (calm,)
    while one.busy:
        one.step()
    assert one.answers[calm].tokens == answered_alone(tiny(), one.answers[calm].request).tokens
    assert one.answers[calm].preemptions == 1


def test_cancelled_at_any_moment():
    for steps in range(6):
        one = small_engine(max_running=1, step_tokens=4)
        a, b = (one.submit(Request(prompt_of(9, n), max_tokens=3)) for n in range(2))
        for _ in range(steps):
            one.step()
        ended = bool(one.answers[a].reason)
        assert one.cancel(a) != ended and one.cancel(a) is False
        assert one.answers[a].reason == ("length" if ended else "cancelled")
        while one.busy:
            one.step()
        assert one.answers[b].tokens == answered_alone(tiny(), one.answers[b].request).tokens
        assert one.cancel(b) is False
        assert_empty(one)


def test_who_is_cancelled_by_a_reader_is_told_no_more():
    one, told = small_engine(), []
    asked = [Request(prompt_of(3, n), max_tokens=5, id=n) for n in range(3)]
    for event in one.serve(asked):
        told.append(event.id)
        if event.id == 0 and told.count(0) == 2:
            one.cancel(1)
    assert told.count(1) == 1 and told.count(0) == told.count(2) == 5


def test_streams_of_several_answers_side_by_side():
    one = small_engine()
    asked = [Request(prompt_of(5, n), max_tokens=6, stop_strings=("never",)) for n in range(2)]
    names = [one.submit(request) for request in asked]
    first = one.stream(names[0])
    pieces = [next(first)]
    other = "".join(one.stream(names[1]))
    pieces += first
    assert len(pieces) > 1 and "".join(pieces) == answered_alone(tiny(), asked[0]).text
    assert other == answered_alone(tiny(), asked[1]).text
    assert [*one.stream(names[0])] == [other for other in ["".join(pieces)] if other]


def test_times_are_those_of_the_clock():
    def seconds(load: Load) -> float:
        return 1.0 + load.prompt_tokens / 4 + load.decodes / 8

    one = small_engine(clock=SimulatedClock(seconds), step_tokens=8)
    asked = [
        Request(prompt_of(4), max_tokens=3),
        Request(prompt_of(6, 1), max_tokens=2, arrival=10.0),
    ]
    a, b = (answer.trace for answer in one.run(asked))
    assert (a.arrival, a.started, a.times) == (0.0, 0.0, [2.0, 3.125, 4.25])
    assert (b.arrival, b.started, b.times) == (10.0, 10.0, [12.5, 13.625])
    assert a.finished == 4.25 and b.finished == 13.625 and b.queueing == 0.0


def test_who_comes_during_a_step_has_waited_since_it_came():
    one = small_engine(clock=SimulatedClock(lambda load: 2.0))
    asked = [Request([1], max_tokens=2), Request([2], max_tokens=1, arrival=0.5)]
    late = one.run(asked)[1].trace
    assert (late.arrival, late.started, late.ttft) == (0.5, 2.0, 3.5)


@pytest.mark.parametrize(
    "request_, kind, said",
    [
        (Request([1] * 30, max_tokens=20), NeverFits, "need 10 pages of 4 tokens; there are 9 in"),
        (Request([1] * 41), NeverFits, "at most 40 tokens, the model's context; got 41"),
        (Request([1, 256]), ValueError, "tokens must lie in 0…255; got 1 to 256"),
        (Request([-1]), ValueError, "tokens must lie in 0…255; got -1 to -1"),
    ],
)
def test_what_can_never_be_answered_is_refused_at_once(request_, kind, said):
    one = small_engine(num_pages=9)
    with pytest.raises(kind, match=said):
        one.submit(request_)
    assert not one.busy and one.answers == {}


def test_a_request_that_just_fits_is_answered():
    one = small_engine(num_pages=9)
    (answer,) = one.run([Request(prompt_of(30), max_tokens=7)])
    assert len(answer.tokens) == 7 and answer.reason == "length"
    assert_empty(one)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"prompt": []}, "at least one token"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"temperature": -1.0}, "temperature at least 0"),
        ({"stop_strings": ("a", "")}, "none empty"),
        ({"stop_strings": "END"}, "a tuple of texts"),
    ],
)
def test_requests_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Request(**({"prompt": [1]} | wrong))


def test_a_vocabulary_of_no_bytes_has_tokens_and_no_text():
    model = small_model(Config(vocabulary=300, layers=1, width=24, Hq=2, Hkv=1, D=4, hidden=20))
    one = Engine(model, num_pages=9, attention=NAIVE)
    (answer,) = one.run([Request([299, 5], max_tokens=4)])
    assert answer.text == "" and answer.reason == "length"
    assert answer.tokens == [*generate_tokens(model, [299, 5], max_tokens=4)]
    with pytest.raises(ValueError, match="stop_strings need a decoder"):
        one.submit(Request([1], stop_strings=("a",)))


def test_ids_are_unique_until_forgotten():
    one = small_engine()
    one.submit(Request([1], max_tokens=1, id="a"))
    with pytest.raises(ValueError, match="must not be taken; 'a' is"):
        one.submit(Request([2], id="a"))
    with pytest.raises(ValueError, match="must be finished"):
        one.forget("a")
    one.step()
    assert one.forget("a").reason == "length" and one.answers == {}
    assert one.submit(Request([2], id="a")) == "a"
    with pytest.raises(KeyError):
        one.cancel("b")


def test_a_step_that_fails_leaves_no_trace():
    calls = 0

    def failing(q, *rest, **more):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return NAIVE.prefill(q, *rest, **more)

    one = small_engine(attention=NAIVE._replace(prefill=failing), step_tokens=8)
    request = Request(prompt_of(20), max_tokens=4)
    name = one.submit(request)
    one.step()
    before = one.cache.tables.pool.available
    with pytest.raises(KeyboardInterrupt):
        one.step()
    assert one.cache.tables.pool.available == before
    assert "".join(one.stream(name)) == answered_alone(tiny(), request).text
    assert_empty(one)


def test_an_idle_engine_does_nothing():
    one = small_engine()
    assert one.step() == [] and list(one.serve([])) == [] and one.run([]) == []


def test_a_real_clock_waits_for_the_next_arrival():
    one = small_engine()
    asked = [Request([1], max_tokens=1), Request([2], max_tokens=1, arrival=0.05)]
    first, second = one.run(asked)
    assert second.trace.started >= second.trace.arrival > first.trace.finished
    assert math.isclose(second.trace.arrival - first.trace.arrival, 0.05)


def test_alone_is_what_generate_gives():
    """The oracle of these tests is `generate_tokens` itself, unless there are stop strings."""
    request = Request(prompt_of(5), max_tokens=6)
    wanted = [*generate_tokens(tiny(), request.prompt, max_tokens=6)]
    assert answered_alone(tiny(), request).tokens == wanted
