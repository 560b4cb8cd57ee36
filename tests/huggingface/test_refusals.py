"""What is refused, by its name; how names are chosen; and that a feature left out would show."""

import functools
import inspect

import pytest
import torch
from hf_families import FAMILIES, SIZES, family, prompt, truth, write

from course.huggingface import NAME, Backend, register
from course.huggingface.attend import BACKENDS, CourseAttention, backend_of
from reference.flash_attention import flash_attention
from reference.flash_decoding import flash_decode

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install .[hf]")

RAGGED = prompt((9, 3, 6))


@pytest.fixture(scope="module")
def ours():
    return register("reference_for_tests", backend="reference")


def run(name, attention, given=RAGGED, **arguments):
    model = family(name)
    model.set_attn_implementation(attention)
    return model(**given, **arguments)


def gaps():
    given = {name: x.clone() for name, x in RAGGED.items()}
    given["attention_mask"][0, 4] = 0
    return given


BIAS = torch.zeros(3, 1, 9, 9).masked_fill(~torch.ones(9, 9).tril().bool(), -torch.inf) - 0.5
ENDS = torch.tensor([0, 4, 9], dtype=torch.int32)
REFUSED = {
    "output_attentions": (
        {"output_attentions": True},
        "output_attentions must be left out: weights",
    ),
    "padding_within": (
        {"given": gaps()},
        "side by side; got gaps between those of query 5 in row 0",
    ),
    "bias_as_mask": ({"given": {**RAGGED, "attention_mask": BIAS}}, "neither 0 nor -inf"),
    "packed_by_lengths": ({"cu_seq_lens_q": ENDS}, "cu_seq_lens_q must be left out: sequences"),
    "head_mask": ({"head_mask": torch.ones(6)}, "head_mask must be left out: a kernel never has"),
    "unheard_of": ({"temperature_of_keys": 2.0}, "temperature_of_keys must be left out: what it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_its_name(ours, name):
    arguments, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        run("llama", ours, **arguments)


def test_dropout_is_refused_in_training_only(ours):
    model = family("llama", attention_dropout=0.1)
    model.set_attn_implementation(ours)
    model(**RAGGED)
    with pytest.raises(ValueError, match=r"dropout must be 0: it is not computed; got 0\.1"):
        model.train()(**RAGGED)


def test_a_position_bias_is_refused(ours):
    config = transformers.T5Config(vocab_size=61, d_model=16, d_kv=4, d_ff=16, num_layers=1)
    config.num_heads = 2
    model = transformers.T5ForConditionalGeneration(config).eval()
    model.set_attn_implementation(ours)
    with pytest.raises(ValueError, match="position_bias must be left out: numbers added"):
        model(input_ids=RAGGED["input_ids"], decoder_input_ids=RAGGED["input_ids"])


def test_a_window_without_its_mask_is_refused():
    attention, module = CourseAttention(backend_of("reference")), torch.nn.Module()
    q, kv = torch.randn(1, 4, 1, 8), torch.randn(1, 2, 6, 8)
    attention(module, q, kv, kv, None, sliding_window=6)
    with pytest.raises(ValueError, match="a sliding window of 5 must come with a mask"):
        attention(module, q, kv, kv, None, sliding_window=5)


def test_continuous_batching_is_refused(ours):
    """By transformers, which gives its own paged cache to functions that it knows alone."""
    model = family("llama")
    model.set_attn_implementation(ours)
    config = transformers.GenerationConfig(max_new_tokens=2, do_sample=False, pad_token_id=0)
    with pytest.raises(ValueError, match="not supported for continuous batching"):
        model.generate_batch([[5, 6, 7]], generation_config=config, progress_bar=False)


def test_weights_of_attention_cannot_be_switched_on_in_the_configuration(ours):
    model = family("llama")
    model.set_attn_implementation(ours)
    with pytest.raises(ValueError, match="output_attentions"):
        model.config.output_attentions = True


@pytest.mark.parametrize("name", ["my_flash", "someone/attention", "paged|own", "", "own@main"])
def test_a_name_that_transformers_would_not_look_up_is_refused(name):
    with pytest.raises(ValueError, match='must be without "flash", "/"'):
        register(name, backend="reference")


@pytest.mark.parametrize("name", ["my_flash", "someone/attention"])
def test_transformers_would_indeed_not_look_it_up(name):
    transformers.AttentionInterface.register(name, CourseAttention(backend_of("reference")))
    with pytest.raises((ValueError, ImportError)):
        family("llama").set_attn_implementation(name)


@pytest.mark.parametrize("name", ["sdpa", "eager", "flex_attention"])
def test_a_name_of_transformers_is_refused(name):
    known = transformers.AttentionInterface().get(name)
    with pytest.raises(ValueError, match="which transformers has already"):
        register(name, backend="reference")
    assert transformers.AttentionInterface().get(name) is known


def test_another_backend_is_refused():
    with pytest.raises(ValueError, match="backend must be 'kernel' or 'reference', or a Backend"):
        register(backend="cuda")


def test_registering_again_replaces(ours):
    calls = []

    def counted(*tensors, **how):
        calls.append(how)
        return flash_decode(*tensors, **how)

    model, name = family("llama"), "replaced_for_tests"
    register(name, backend="reference")
    before = write(model, RAGGED, name, 2)
    assert register(name, backend=Backend(flash_attention, counted)) == name
    after = write(model, RAGGED, name, 2)
    assert len(calls) == 4 and torch.equal(before.logits, after.logits)  # 2 layers, 2 tokens


def test_it_can_be_chosen_when_a_model_is_made(ours, tmp_path):
    model = family("llama")
    wanted = write(model, RAGGED, ours, 3)
    model.save_pretrained(tmp_path)
    load = transformers.AutoModelForCausalLM.from_pretrained
    again = load(tmp_path, attn_implementation=ours, dtype=torch.float32)
    assert again.config._attn_implementation == ours
    assert torch.equal(write(again, RAGGED, ours, 3).tokens, wanted.tokens)
    assert "flash" not in NAME and BACKENDS.keys() == {"kernel", "reference"}


def without(*names, decode=True, **instead):
    """A backend whose flash_decode (or flash_attention) drops arguments, or gets others."""
    right = flash_decode if decode else flash_attention
    order = list(inspect.signature(right).parameters)

    @functools.wraps(right)
    def wrong(*tensors, **how):
        how |= dict(zip(order, tensors, strict=False))
        how = {key: x for key, x in how.items() if key not in names} | instead
        return right(**how)

    return Backend(flash_attention, wrong) if decode else Backend(wrong, flash_decode)


EVEN, STATIC = prompt((9, 9)), {"cache_implementation": "static", "max_cache_len": 40}
BROKEN = {
    "sinks": ("gpt_oss", RAGGED, {}, without("sinks")),
    "softcap": ("gemma2", RAGGED, {}, without("softcap")),
    "scale": ("gemma2", RAGGED, {}, without("scale")),
    "scale_of_gemma3": ("gemma3", RAGGED, {}, without("scale")),
    "left_padding": ("llama", RAGGED, {}, without("cache_leftpad")),
    "window": ("mistral", RAGGED, {}, without("window")),
    "static_length": ("llama", EVEN, STATIC, without("cache_seqlens")),
    "causal_prefill": ("llama", EVEN, {}, without("causal", decode=False)),
    "causal_drafts": (
        *("llama", prompt((9,)), {"prompt_lookup_num_tokens": 4}),
        without(causal=False),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_argument_left_out_would_show(ours, name):
    """Each of these is an attention function that somebody could have written."""
    kind, given, how, backend = BROKEN[name]
    model = family(kind)
    right = write(model, given, ours, 6, **how)
    _, most = truth(model, given, right.tokens)
    wrong = write(model, given, register("broken_for_tests", backend=backend), 6, **how)
    assert (wrong.logits - right.logits).abs().max() > 100 * most


def test_heads_are_not_transposed_back(ours):
    """Transposed, an answer of one token is right and one of nine is wrong, and nothing raises."""
    attention, module = CourseAttention(backend_of("reference")), torch.nn.Module()
    q, kv = torch.randn(2, 6, 9, 8), torch.randn(2, 2, 9, 8)
    o, weights = attention(module, q, kv, kv, None)
    assert o.shape == (2, 9, 6, 8) and o.is_contiguous() and weights is None
    assert all(SIZES[name] > 1 for name in ("num_attention_heads", "num_key_value_heads"))
    assert FAMILIES["llama_mqa"][1] == {"num_key_value_heads": 1}
