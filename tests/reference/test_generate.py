"""reference.generate: bytes as they come, with three ways to end; two phases, timed separately."""

import doctest
from dataclasses import replace

import pytest
import torch
from small_models import TINY, Counting, small_model

from reference import generate as module
from reference.attention import attention, attention_with_cache
from reference.flash_decoding import flash_decode
from reference.generate import Timing, as_text, choose, generate, generate_tokens
from reference.transformer import KVCache, over_prefix

PROMPT = b"keys and values"


def run(**options) -> tuple[bytes, Timing]:
    timing = Timing()
    model = options.pop("model", None) or small_model()
    return b"".join(generate(model, PROMPT, timing=timing, **options)), timing


def test_greedy_bytes_are_those_without_a_cache():
    model, text = small_model(), PROMPT
    for _ in range(12):
        logits = model(torch.tensor([list(text)]))
        text += bytes([int(logits[0, -1].argmax())])
    for options in ({}, {"prefill_chunk": 4}, {"attend": flash_decode}):
        got, timing = run(model=model, max_bytes=12, **options)
        assert PROMPT + got == text
        assert (timing.stopped, timing.prompt_bytes, len(timing.tpot_ms)) == ("length", 15, 11)


def test_ends_after_a_stop_byte():
    whole, _ = run(max_bytes=20)
    place = next(i for i in range(3, 20) if whole[i] not in whole[:i])
    unused = bytes(set(range(256)) - set(whole))[:5]
    got, timing = run(max_bytes=20, stop=unused + whole[place : place + 1])
    assert got == whole[: place + 1]
    assert timing.stopped == "stop byte"
    assert run(max_bytes=20, stop=unused)[0] == whole
    got, timing = run(max_bytes=20, stop=whole[:1])  # the very first byte
    assert (got, timing.stopped, timing.tpot_ms) == (whole[:1], "stop byte", [])


def test_ends_at_the_length_limit_and_at_the_context():
    assert [len(run(max_bytes=n)[0]) for n in (1, 2, 7)] == [1, 2, 7]
    got, timing = run(max_bytes=1000)
    assert timing.stopped == "context"
    # The last byte needs no place in the cache: it is never read.
    assert len(PROMPT) + len(got) == TINY.context + 1


def test_streams():
    """The first byte comes right after prefill, each later one after one step."""
    attend, layers = Counting(), TINY.layers
    stream = generate(small_model(), PROMPT, attend=attend, max_bytes=9, prefill_chunk=10)
    assert attend.calls == []  # nothing is computed before a byte is requested
    next(stream)
    assert attend.calls == [(10, 10)] * layers + [(5, 15)] * layers
    for step in range(1, 9):
        assert len(next(stream)) == 1
        assert attend.calls[-layers:] == [(1, 15 + step)] * layers
        assert len(attend.calls) == layers * (2 + step)
    assert next(stream, None) is None


def test_prefill_and_decode_may_attend_differently():
    first, later = Counting(), Counting()
    run(prefill_attend=first, attend=later, max_bytes=3)
    assert first.calls == [(15, 15)] * 2
    assert later.calls == [(1, 16)] * 2 + [(1, 17)] * 2
    assert run(prefill_attend=over_prefix(attention))[0] == run()[0]


def test_a_seed_settles_the_draw():
    options = {"temperature": 1.0, "max_bytes": 20}
    first, again, other = (run(seed=seed, **options)[0] for seed in (1, 1, 2))
    assert first == again != other
    assert run(temperature=0.0, seed=1)[0] == run(temperature=0.0, seed=2)[0]
    assert run(temperature=1e-6, max_bytes=20)[0] == run(max_bytes=20)[0]  # near 0, it is greedy


def test_draws_follow_the_softmax():
    logits, draws, generator = torch.tensor([0.0, 1.0, 2.0]), 2000, torch.manual_seed(0)
    count = torch.zeros(3)
    for _ in range(draws):
        count[choose(logits, 2.0, generator)] += 1
    p = torch.softmax(logits / 2, -1)
    assert ((count - draws * p).abs() < 4 * (draws * p * (1 - p)).sqrt()).all()  # 4 sigma


def test_the_phases_are_timed_apart(monkeypatch):
    """A clock moved only by attention (prefill 7 s, a step 2 s) and the caller (50 s per byte)."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def attend(q, *args, **kwargs):
        now[0] += (7.0 if q.shape[1] > 1 else 2.0) / TINY.layers
        return attention_with_cache(q, *args, **kwargs)

    timing = Timing()
    for _ in generate(small_model(), PROMPT, attend=attend, max_bytes=4, timing=timing):
        now[0] += 50.0
    assert timing.ttft_ms == pytest.approx(7000)
    assert timing.tpot_ms == pytest.approx([2000] * 3)
    assert timing.median_tpot_ms == pytest.approx(2000)
    assert timing.tokens_per_second == pytest.approx(0.5)
    assert str(timing) == (
        "TTFT 7000.0 ms for 15 bytes; TPOT 2000.00 ms (median of 3); 0.5 tokens/s; stopped: length"
    )


def test_a_timing_can_be_used_again_and_may_stay_empty():
    timing = Timing()
    for n in (5, 3):
        b"".join(generate(small_model(), PROMPT, max_bytes=n, timing=timing))
        assert len(timing.tpot_ms) == n - 1
    assert str(Timing()).endswith("TPOT nan ms (median of 0); nan tokens/s; stopped: not yet")


def test_a_cache_of_the_callers_own():
    made = []

    def make_cache(capacity):
        made.append(KVCache(TINY, 1, capacity, dtype=torch.float64))
        return made[-1]

    assert run(make_cache=make_cache, max_bytes=6)[0] == run(max_bytes=6)[0]
    assert [cache.lengths.tolist() for cache in made] == [[15 + 5]]


def test_tokens_of_any_vocabulary():
    model = small_model(replace(TINY, vocabulary=1000))
    prompt, timing = [999, 0, 513], Timing()
    wanted = list(prompt)
    for _ in range(6):
        wanted.append(int(model(torch.tensor([wanted]))[0, -1].argmax()))
    assert max(wanted[3:]) > 255  # no bytes
    for options in ({}, {"prefill_chunk": 2}, {"attend": flash_decode}):
        got = generate_tokens(model, prompt, max_tokens=6, timing=timing, **options)
        assert list(got) == wanted[3:]
        assert (timing.stopped, timing.prompt_tokens, timing.unit) == ("length", 3, "token")
    end = wanted[5]
    got = list(generate_tokens(model, prompt, stop=[end], timing=timing))
    assert got == wanted[3 : wanted.index(end, 3) + 1] and timing.stopped == "stop token"
    assert "for 3 tokens; TPOT" in str(timing)
    for bad, options, message in (
        ([1000], {}, r"lie in 0…999; got 1000 to 1000"),
        ([3, -1], {}, r"lie in 0…999; got -1 to 3"),
        ([], {}, r"prompt must have 1…40 tokens; got 0"),
        ([1], {"max_tokens": 0}, r"max_tokens must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            generate_tokens(model, bad, **options)


def test_text_from_bytes():
    text = "a ≤ √2 — \N{GRINNING FACE}"
    pieces = [bytes([byte]) for byte in text.encode()]
    assert list(as_text(pieces)) == list(text)
    assert "".join(as_text([b"ok \xff", b"\xe2\x88"])) == "ok \ufffd\ufffd"


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ("text", {}, TypeError, r"prompt must be bytes \(text\.encode\(\)\); got str"),
        (PROMPT, {"stop": 10}, TypeError, "stop must be bytes"),
        (b"", {}, ValueError, "1…40 bytes; got 0"),
        (b"x" * 41, {}, ValueError, "1…40 bytes; got 41"),
        (PROMPT, {"max_bytes": 0}, ValueError, "max_bytes must be at least 1"),
        (PROMPT, {"temperature": -1.0}, ValueError, "temperature at least 0; got 128 and -1"),
        (PROMPT, {"prefill_chunk": 0}, ValueError, "chunk must be at least 1; got 0"),
    ],
)
def test_misuse_is_told_at_the_call(prompt, options, error, message):
    with pytest.raises(error, match=message):
        generate(small_model(), prompt, **options)
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        choose(torch.zeros(2), -1.0)


def test_examples():
    assert doctest.testmod(module).failed == 0
