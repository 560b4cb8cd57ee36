"""Models of transformers write the same with our attention as with theirs, token for token."""

import inspect
from functools import cache

import pytest
import torch
from hf_families import FAMILIES, family, prompt, truth, write

from course.huggingface import register

pytest.importorskip("transformers", reason="needs transformers: pip install .[hf]")

NEW = 9
RAGGED = (9, 3, 6)  # padded on the left, except the longest
EVEN = (9, 9)
# Each reaches the attention function in another way; `test_attend.py` says what comes.
WAYS = {
    "dynamic": (RAGGED, {}),
    "static": (RAGGED, {"cache_implementation": "static", "max_cache_len": 40}),
    "even": (EVEN, {}),
    "even_static": (EVEN, {"cache_implementation": "static", "max_cache_len": 40}),
    "one_token": ((1,), {"cache_implementation": "static"}),
}
MORE = {
    "chunks": (RAGGED, {"prefill_chunk_size": 4}),
    "lookup": ((9,), {"prompt_lookup_num_tokens": 4}),
    "beams": (RAGGED, {"num_beams": 3}),
    "no_cache": (RAGGED, {"use_cache": False}),
}
CASES = [(name, way) for name in FAMILIES for way in WAYS]
CASES += [(name, way) for name in ("llama", "mistral", "gpt_oss") for way in MORE]


@pytest.fixture(scope="module")
def ours():
    return register("reference_for_tests", backend="reference")


def in_a_cache(kind: str, **size: int):
    """A function that makes an empty cache of this kind for a model, as keyword of `generate`."""

    def make(model):
        import transformers

        parameters = inspect.signature(model.forward).parameters
        name = "cache" if "cache" in parameters else "past_key_values"  # until 5.23
        return {name: getattr(transformers, kind)(config=model.config, **size)}

    return make


KINDS = {
    "dynamic": in_a_cache("DynamicCache"),
    "static": in_a_cache("StaticCache", max_cache_len=40),
}
model_of = cache(family)  # what is written does not depend on what was written before


@pytest.mark.parametrize(("name", "way"), CASES, ids=["-".join(case) for case in CASES])
def test_the_same_tokens_and_logits(ours, name, way):
    lengths, how = (WAYS | MORE)[way]
    model, given = model_of(name), prompt(lengths)
    theirs = write(model, given, FAMILIES[name][2], NEW, **how)
    mine = write(model, given, ours, NEW, **how)
    assert torch.equal(mine.tokens, theirs.tokens)
    if way == "beams":  # its logits are those of beams that were given up, too
        return
    right, most = truth(model, given, mine.tokens)
    assert most < 1e-3 * right.std()  # so the comparison says something
    assert (mine.logits - right).abs().max() <= most
    assert (mine.logits - theirs.logits).abs().max() <= most


CONTINUED = [(name, way) for name in ("llama", "mistral", "gemma2", "gpt_oss") for way in KINDS]


@pytest.mark.parametrize(("name", "way"), CONTINUED, ids=["-".join(case) for case in CONTINUED])
def test_a_conversation_goes_on_in_its_cache(ours, name, way):
    """Written, then asked again: several new tokens after a cache that slides and is full."""
    model, given, more = model_of(name), prompt(RAGGED), prompt((4, 4, 4), seed=5)["input_ids"]
    found = []
    for attention in (FAMILIES[name][2], ours):
        cache = KINDS[way](model)
        first = write(model, given, attention, 4, **cache)
        tokens = torch.cat([first.tokens, more], 1)
        real = torch.cat([given["attention_mask"], torch.ones(len(tokens), 8).long()], 1)
        longer = {"input_ids": tokens, "attention_mask": real}
        found.append((longer, write(model, longer, attention, 5, **cache)))
    (longer, theirs), (_, mine) = found
    assert torch.equal(mine.tokens, theirs.tokens)
    right, most = truth(model, longer, mine.tokens)
    assert (mine.logits - right).abs().max() <= most
