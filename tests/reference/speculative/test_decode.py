"""reference.speculative.decode: the same text, or the same distribution, in fewer passes."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise, product
from types import SimpleNamespace

import pytest
import torch
from small_models import TINY, Counting, small_model
from trees import random_tree

from course.check.guards import empty_is_nan
from reference import checkpoint
from reference.generate import Timing, generate_tokens
from reference.paging import PagedKVCache
from reference.speculative import (
    ModelDraft,
    PromptLookup,
    Speculation,
    Step,
    Tree,
    TreeDraft,
    early_exit,
    speculate_tokens,
)
from reference.transformer import Config, KVCache

PROMPT = list(b"keys and values, keys and")


def plain(model, prompt=PROMPT, **options) -> tuple[list[int], str]:
    timing = Timing()
    tokens = list(generate_tokens(model, prompt, timing=timing, **options))
    return tokens, timing.stopped


def speculated(model, draft, prompt=PROMPT, **options) -> tuple[list[int], Speculation]:
    timing = Speculation()
    with empty_is_nan():
        stream = speculate_tokens(model, prompt, draft, timing=timing, **options)
    return list(stream), timing


class Spoiling(KVCache):
    """A cache whose cells are NaN as soon as they are taken back."""

    @property
    def lengths(self):
        return self._lengths

    @lengths.setter
    def lengths(self, lengths):
        self._lengths = lengths
        for b, length in enumerate(lengths.tolist()):
            self.k[:, b, length:], self.v[:, b, length:] = math.nan, math.nan


def spoiling(model):
    def make(capacity):
        with empty_is_nan():
            return Spoiling(model.config, 1, capacity, dtype=model.embedding.weight.dtype)

    return make


def in_pages(model, page_size=3):
    def make(capacity):
        pages = -(-capacity // page_size)
        config, dtype = model.config, model.embedding.weight.dtype
        cache = PagedKVCache(config, pages, page_size, dtype=dtype, poison=True)
        return cache.batch(cache.new())

    return make


def nonsense(text, depth, generator):
    return random_tree(7, len(text)).cut(nodes=7, depth=depth)


def oracle_of(model):
    """A draft that knows the next tokens, and has a wrong branch beside each."""

    def draft(text, depth, generator):
        right, _ = plain(model, text, max_tokens=max(1, depth)) if depth else ([], "")
        right = right[:5]
        wrong = [[*right[:i], (token + 1) % 256, 7] for i, token in enumerate(right)]
        return Tree.of_paths([*wrong, right]).cut(nodes=99, depth=depth)

    return draft


def drafts(model):
    first = early_exit(model, 1)
    return {
        "lookup": PromptLookup(),
        "lookup with branches": PromptLookup(branches=3),
        "itself": ModelDraft(model, 4),
        "early exit": ModelDraft(first, 4),
        "early exit, drawn": ModelDraft(first, 4, temperature=1.0),
        "a tree": TreeDraft(model, (3, 2, 1)),
        "a tree of early exit, drawn": TreeDraft(first, (3, 2, 1), temperature=1.0),
        "nonsense": nonsense,
        "oracle": oracle_of(model),
        "nothing": lambda text, depth, generator: Tree(),
    }


LONG = replace(TINY, context=80)


@pytest.mark.parametrize("make", [spoiling, in_pages])
@pytest.mark.parametrize("name", list(drafts(small_model())))
def test_greedy_tokens_are_those_of_plain_decoding(name, make):
    """In fp64: no two logits are so close that the order of a sum decides between them."""
    model = small_model(LONG)
    wanted, stopped = plain(model, max_tokens=20)
    got, timing = speculated(model, drafts(model)[name], max_tokens=20, make_cache=make(model))
    assert got == wanted and timing.stopped == stopped == "length"
    assert len(timing.tpot_ms) == 19 and all(s.verify_ms > 0 for s in timing.steps)
    passes = {"itself": 4, "nothing": 19, "oracle": 4}
    assert len(timing.steps) == passes.get(name, len(timing.steps)) <= 19
    if name in ("itself", "oracle"):
        assert timing.acceptance == 1


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_trained_model_writes_the_same_text(layers):
    model = checkpoint.load(dtype=torch.float64)
    wanted, _ = plain(model, max_tokens=40)
    for draft in (ModelDraft(early_exit(model, layers), 3), PromptLookup(branches=2)):
        got, timing = speculated(model, draft, max_tokens=40)
        assert got == wanted
        assert 1 < timing.tokens_per_step <= 9 and 0 < timing.acceptance < 1


@pytest.mark.parametrize("name", ["lookup", "itself", "a tree"])
def test_ends_where_plain_decoding_ends(name):
    model = small_model(LONG)
    whole, _ = plain(model, max_tokens=40)
    for stop in ({whole[0]}, {whole[13]}):
        wanted, stopped = plain(model, max_tokens=20, stop=stop)
        got, timing = speculated(model, drafts(model)[name], max_tokens=20, stop=stop)
        assert (got, timing.stopped) == (wanted, stopped)
    for most in (1, 2, 3, 7):
        got, timing = speculated(model, drafts(model)[name], max_tokens=most)
        assert got == whole[:most] and timing.stopped == "length"
    small = small_model()  # a context of 40
    wanted, stopped = plain(small, max_tokens=500)
    for make in (spoiling, in_pages):
        got, timing = speculated(small, drafts(small)[name], max_tokens=500, make_cache=make(small))
        assert (got, timing.stopped) == (wanted, stopped) == (got, "context")


@pytest.mark.parametrize("stop_at", [3, 13, 29])
def test_the_cache_ends_with_what_was_yielded(stop_at):
    """Tokens accepted after a stop token are not in the cache; the newest one is never read."""
    model, kept = small_model(LONG), []

    def make(capacity):
        kept.append(spoiling(model)(capacity))
        return kept[-1]

    whole, _ = plain(model, max_tokens=30)
    stop = {whole[stop_at]}
    got, _ = speculated(model, oracle_of(model), max_tokens=30, stop=stop, make_cache=make)
    text = PROMPT + got
    assert kept[0].lengths.tolist() == [len(text) - 1]
    logits = model(torch.tensor([text[-1:]]), kept[0])[0, -1]
    wanted = model(torch.tensor([text]))[0, -1]
    assert (logits - wanted).abs().max() < 1e-12 * wanted.abs().max()


def test_passes_have_as_many_queries_as_slots():
    model, attend = small_model(LONG), Counting()
    stream = speculate_tokens(model, PROMPT, ModelDraft(model, 4), max_tokens=12, attend=attend)
    assert attend.calls == []  # nothing runs before a token is asked for
    tokens = list(stream)
    assert len(tokens) == 12
    queries = [n for n, _ in attend.calls[:: LONG.layers]]
    assert queries == [25, 5, 5, 1]  # 1 + 5 + 5 + 1 tokens: the last draft would be of 0 tokens


class Table:
    """A model that looks only at the last token: cheap enough to be asked 100,000 times."""

    config = Config(vocabulary=3, layers=1, width=2, Hq=1, Hkv=1, D=2, hidden=1, context=16)

    def __init__(self, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.rows = torch.randn(3, 3, dtype=torch.float64, generator=rng)
        self.embedding = SimpleNamespace(weight=self.rows)

    def __call__(self, tokens, cache, attend):
        cache.lengths = cache.lengths + tokens.shape[1]
        return self.rows[tokens]

    def outcomes(self, last: int, length: int, temperature: float) -> dict[tuple[int, ...], float]:
        """The exact probability of every text of this length after the token `last`."""
        p = torch.softmax(self.rows / temperature, -1).tolist()
        return {
            text: math.prod(p[a][b] for a, b in pairwise((last, *text)))
            for text in product(range(3), repeat=length)
        }


@pytest.mark.parametrize("kind", ["drawn", "greedy", "tree", "lookup"])
def test_texts_have_the_distribution_of_the_model(kind):
    """All 27 texts of three tokens, drawn 4,000 times, over prefill, draft, refusal and bonus.

    Per cell, Bernstein's inequality: |p̂ − p| passes √(2 p (1−p) L / n) + L / (3 n) with a
    probability below 2 exp(−L); L = 22 makes that 27 · 6e-10 for all cells together.
    """
    model, first, n, L = Table(0), Table(1), 4_000, 22.0
    prompt = [0, 1, 2, 0, 1]
    draft = {
        "drawn": ModelDraft(first, 2, temperature=1.0),
        "greedy": ModelDraft(first, 2),
        "tree": TreeDraft(first, (2, 2), temperature=1.0),
        "lookup": PromptLookup(branches=2),
    }[kind]
    counts, accepted = Counter(), 0
    for seed in range(n):
        timing = Speculation()
        options = {"max_tokens": 3, "temperature": 0.8, "seed": seed}
        counts[tuple(speculate_tokens(model, prompt, draft, timing=timing, **options))] += 1
        accepted += sum(step.accepted for step in timing.steps)
    assert accepted > n / 10  # it was speculation that was tested
    truth = model.outcomes(1, 3, 0.8)
    bound = {t: math.sqrt(2 * p * (1 - p) * L / n) + L / (3 * n) for t, p in truth.items()}
    for text, p in truth.items():
        assert abs(counts[text] / n - p) < bound[text], text
    # The bound can be passed, by the draft's own distribution for one.
    own = first.outcomes(1, 3, 0.8)
    assert any(abs(own[text] - p) > bound[text] for text, p in truth.items())


def test_a_seed_repeats_itself():
    model = small_model(LONG)
    draft = ModelDraft(early_exit(model, 1), 3, temperature=1.0)
    runs = [speculated(model, draft, max_tokens=12, temperature=1.0, seed=s)[0] for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_what_is_measured():
    timing = Speculation(steps=[Step(4, 3, 2, 1.0, 2.0), Step(4, 4, 4, 1, 2), Step(2, 1, 0, 1, 2)])
    assert timing.tokens_per_step == 3
    assert timing.acceptance == 6 / 8 and timing.drafted_and_kept == 6 / 10
    assert timing.acceptance_by_place == [2 / 3, 1.0, 0.5, 1.0]
    none = Speculation()
    assert all(math.isnan(x) for x in (none.tokens_per_step, none.acceptance))
    assert none.acceptance_by_place == [] and math.isnan(none.drafted_and_kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "prompt must have 1…40 tokens; got 0"),
        ({"prompt": [256]}, "tokens must lie in 0…255; got 256 to 256"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"temperature": -1.0}, "temperature at least 0; got 128 and -1.0"),
        ({"prefill_chunk": 0}, "chunk must be at least 1; got 0"),
        ({"spare": -1}, "spare must be at least 0; got -1"),
    ],
)
def test_errors_come_when_it_is_called(options, message):
    options = {"prompt": PROMPT, **options}
    with pytest.raises(ValueError, match=message):
        speculate_tokens(small_model(), options.pop("prompt"), PromptLookup(), **options)
