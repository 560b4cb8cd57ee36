"""A long run on the byte-level model: everyone is answered, rightly, and nothing is left behind."""

import random
from dataclasses import replace

import pytest
import torch
from alone import answered_alone

from reference import checkpoint
from reference.serving import Engine, Request, SimulatedClock
from reference.serving.load import byte_requests
from reference.serving.threads import THREADS


def soak_requests(count: int) -> list[Request]:
    """Ten a second, three priorities, every third with a long common beginning, some drawn."""
    rng, found, text = random.Random(0), [], checkpoint.held_out()
    system = b"A question about Flash-Decoding, to be answered in one line. "
    for i, request in enumerate(byte_requests(text, count, rate=10.0, answer=(2, 24))):
        prompt = system + request.prompt if i % 3 == 0 else request.prompt
        found.append(replace(
            request, prompt=prompt, id=i, priority=rng.choice((0, 0, 0, 1, 2)), seed=i,
            temperature=rng.choice((0.0, 0.0, 1.0)),
        ))  # fmt: skip
    return found


def soak(count: int, compared: int) -> Engine:
    """Serve `count` requests, cancel one in ten at any moment; compare some to the model alone."""
    model = checkpoint.load(dtype=torch.float64)
    requests, rng = soak_requests(count), random.Random(1)
    engine = Engine(
        model,
        num_pages=40,
        max_running=16,
        step_tokens=64,
        attention=THREADS,
        clock=SimulatedClock(lambda load: 0.02 + 0.001 * load.decodes + load.prompt_tokens / 2000),
    )
    texts: dict[int, str] = {}
    for event in engine.serve(requests):
        texts[event.id] = texts.get(event.id, "") + event.text
        if rng.random() < 0.1 / 12:  # about 12 tokens each
            engine.cancel(rng.choice((*engine.running, *engine.waiting, event.id)))
    answers = engine.answers
    assert set(answers) == set(range(count)) and all(answer.reason for answer in answers.values())
    whole = [a for a in answers.values() if a.reason != "cancelled"]
    assert all(a.text == texts[a.id] for a in whole)
    assert 0 < count - len(whole) < count / 4
    for answer in rng.sample(whole, compared):
        assert (answer.tokens, answer.text, answer.reason) == answered_alone(model, answer.request)
    pool = engine.cache.tables.pool
    assert pool.available == pool.num_pages and not any(pool.references), "a page leaked"
    assert not engine.cache.tables.sequences
    # the run has been through everything that it is there for
    assert sum(answer.preemptions for answer in whole) > 0 and pool.evictions > 0
    assert sum(answer.found for answer in whole) > 0
    assert {answer.reason for answer in whole} >= {"length", "stop string"}
    return engine


def test_a_hundred_requests():
    soak(100, compared=5)


@pytest.mark.slow
def test_a_thousand_requests():
    soak(1000, compared=20)
