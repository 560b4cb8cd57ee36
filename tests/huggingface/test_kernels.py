"""The Triton kernels inside models of transformers: fewer tokens, since they are interpreted."""

import pytest
import torch
from hf_families import FAMILIES, family, prompt, truth, write

from course.huggingface import register

pytest.importorskip("transformers", reason="needs transformers: pip install .[hf]")
pytest.importorskip("triton", reason="triton is not installed: no kernel to run")

STATIC = {"cache_implementation": "static", "max_cache_len": 24}
# One for each way into the kernels: features in decoding and in prefill, drafts, FlashAttention-2.
CASES = {
    "padded": ("llama", (9, 3), {}),
    "prefill_by_flash_attention": ("llama_mqa", (9, 9), STATIC),
    "drafts": ("qwen3", (9,), {"prompt_lookup_num_tokens": 3}),
    "window": ("mistral", (9, 3), {}),
    "softcap_and_scale": ("gemma2", (9, 3), STATIC),
    "sinks": ("gpt_oss", (9, 3), STATIC),
}


@pytest.mark.parametrize("name", CASES)
def test_the_kernels_write_the_same(name):
    kind, lengths, how = CASES[name]
    model, given = family(kind), prompt(lengths)
    theirs = write(model, given, FAMILIES[kind][2], 3, **how)
    mine = write(model, given, register(backend="kernel"), 3, **how)
    assert torch.equal(mine.tokens, theirs.tokens)
    right, most = truth(model, given, mine.tokens)
    assert most < 1e-3 * right.std()
    assert (mine.logits - right).abs().max() <= most


@torch.no_grad()
def test_right_padding_goes_query_by_query():
    model, given = family("llama"), {name: x.flip(1) for name, x in prompt((5, 3)).items()}
    found = []
    for name in (register(backend="kernel"), "sdpa"):
        model.set_attn_implementation(name)
        found.append(model(**given).logits)
    _, most = truth(model, prompt((5, 3)), write(model, prompt((5, 3)), "sdpa", 1).tokens)
    assert (found[0] - found[1]).abs().max() <= most


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_no_less_exact_than_sdpa(dtype):
    model, given = family("llama").to(dtype), prompt((9, 3))
    name, found = register(backend="kernel"), []
    for wanted, attention in ((dtype, name), (dtype, "sdpa"), (torch.float64, "sdpa")):
        model.to(wanted).set_attn_implementation(attention)  # wider last: no number changes
        found.append(model(**given).logits[given["attention_mask"].bool()])
    mine, theirs = ((x - found[2]).abs() for x in found[:2])
    assert mine.max() <= 2 * theirs.max() and mine.mean() <= 1.5 * theirs.mean()


def test_gradients_of_an_unpadded_batch():
    """Causal attention over whole sequences is `flash_attention`, which has a backward."""
    tokens, found = prompt((9, 9))["input_ids"], []
    name = register(backend="kernel")
    for dtype, attention in (
        (torch.float32, name),
        (torch.float32, "sdpa"),
        (torch.float64, "sdpa"),
    ):
        model = family("llama").to(dtype).requires_grad_(True)
        model.set_attn_implementation(attention)
        model(tokens, labels=tokens).loss.backward()
        found.append(torch.cat([x.grad.flatten() for x in model.parameters()]))
    mine, theirs = ((x - found[2]).abs() for x in found[:2])
    assert found[2].abs().max() > 1e-2
    assert mine.max() <= 2 * theirs.max() and mine.mean() <= 1.5 * theirs.mean()


def test_what_has_no_backward_says_so():
    model = family("llama").requires_grad_(True)
    model.set_attn_implementation(register(backend="kernel"))
    with pytest.raises(ValueError, match="decoding has no backward"):
        model(**prompt((9, 3)))
    model(**prompt((9, 9))).logits.sum().backward()
