"""Which function attends to what, and that nothing is copied on the way."""

import pytest
import torch
from hf_families import family, prompt, write

from course.huggingface import Backend, register
from course.huggingface.attend import FEW
from reference.flash_attention import flash_attention
from reference.flash_decoding import flash_decode

pytest.importorskip("transformers", reason="needs transformers: pip install .[hf]")


class Watched:
    """A backend that notes what it is asked for: (function, Lq, Lk, features)."""

    def __init__(self) -> None:
        self.calls, self.pointers = [], []
        self.backend = Backend(self.of("flash_attention"), self.of("flash_decode"))

    def of(self, name):
        function = {"flash_attention": flash_attention, "flash_decode": flash_decode}[name]

        def attend(q, k, v, *lengths, **how):
            features = sorted(how.keys() - {"causal", "scale"})
            self.calls.append((name, q.shape[1], k.shape[1], features))
            self.pointers.append((k.data_ptr(), v.data_ptr()))
            return function(q, k, v, *lengths, **how)

        return attend


STATIC = {"cache_implementation": "static", "max_cache_len": 30}
ROUTES = {
    "plain": (
        *("llama", (9, 9), {}),
        [("flash_attention", 9, 9, []), ("flash_decode", 1, 10, []), ("flash_decode", 1, 11, [])],
    ),
    "static": (  # the prefill gets the filled part; a step the whole cache, and lengths
        *("llama", (9, 9), STATIC),
        [("flash_attention", 9, 9, []), ("flash_decode", 1, 30, []), ("flash_decode", 1, 30, [])],
    ),
    "padded": (
        *("llama", (9, 3), {}),
        [("flash_decode", n, k, ["cache_leftpad"]) for n, k in ((9, 9), (1, 10), (1, 11))],
    ),
    "one_row": (
        *("llama", (9,), {}),
        [("flash_attention", 9, 9, []), ("flash_decode", 1, 10, []), ("flash_decode", 1, 11, [])],
    ),
    "sinks": (
        *("gpt_oss", (3, 3), {}),  # shorter than the window
        [("flash_decode", n, k, ["sinks"]) for n, k in ((3, 3), (1, 4), (1, 5))],
    ),
    "window": (  # a dynamic cache drops the keys before it
        *("mistral", (9, 9), {}),
        [
            ("flash_decode", 9, 9, ["window"]),
            ("flash_decode", 1, 5, []),
            ("flash_decode", 1, 5, []),
        ],
    ),
}


@pytest.mark.parametrize("name", ROUTES)
def test_who_is_asked_for_what(name):
    kind, lengths, how, wanted = ROUTES[name]
    watched = Watched()
    attention = register("watched_for_tests", backend=watched.backend)
    write(family(kind), prompt(lengths), attention, 3, **how)
    assert watched.calls[::2] == wanted  # the first of two layers


@torch.no_grad()
def test_many_queries_after_a_cache_are_a_prefill():
    model, watched = family("llama"), Watched()
    model.set_attn_implementation(register("watched_for_tests", backend=watched.backend))
    tokens = prompt((40,))["input_ids"]
    for new in (FEW, FEW + 1):
        first = model(tokens[:, :10], use_cache=True)
        name = next(key for key in first if key in ("cache", "past_key_values"))
        model(tokens[:, 10 : 10 + new], **{name: first[name]})
    asked = [call[:3] for call in watched.calls[::2]]
    assert asked[1] == ("flash_decode", FEW, 10 + FEW)
    assert asked[3] == ("flash_attention", FEW + 1, 10 + FEW + 1)


def test_the_cache_is_read_where_it_lies():
    """A static cache is the same memory at every step, of both layers in turn."""
    watched = Watched()
    attention = register("watched_for_tests", backend=watched.backend)
    write(family("llama"), prompt((9, 3)), attention, 4, **STATIC)
    assert len(set(watched.pointers)) == 2 and len(watched.pointers) == 8
