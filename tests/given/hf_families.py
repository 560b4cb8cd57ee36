"""Tiny random models of transformers, one of each kind of attention, and the truth about them.

Their weights are of size 1/√width rather than the library's 0.02, so that scores are spread and a
key too many or too few shows in the logits.
"""

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

U = 2.0**-24
WINDOW = 5  # shorter than every prompt
SIZES = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
SLIDES = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
# name → (config class, what differs from SIZES, what transformers attends with by default)
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("LlamaConfig", {}, "sdpa"),
    "llama_mha": ("LlamaConfig", {"num_key_value_heads": 6}, "sdpa"),
    "llama_mqa": ("LlamaConfig", {"num_key_value_heads": 1}, "sdpa"),
    "qwen2": ("Qwen2Config", {"use_sliding_window": True, **SLIDES}, "sdpa"),
    "qwen3": ("Qwen3Config", {}, "sdpa"),
    "mistral": ("MistralConfig", {"sliding_window": WINDOW}, "sdpa"),
    # A cap within reach of the scores, and a scale that is not head_dim ** -0.5.
    "gemma2": (
        "Gemma2Config",
        {"attn_logit_softcapping": 1.5, "query_pre_attn_scalar": 2, **SLIDES},
        "eager",  # its SDPA refuses a softcap
    ),
    "gemma3": ("Gemma3TextConfig", {"query_pre_attn_scalar": 2, **SLIDES}, "sdpa"),
    "gpt_oss": (
        "GptOssConfig",
        {"num_local_experts": 4, "num_experts_per_tok": 2, **SLIDES},
        "eager",  # it has sinks, and no SDPA
    ),
}


def family(name: str, **changes: object) -> Any:
    """The model of a family in fp32, ready to generate; the same for the same name and changes."""
    import transformers

    kind, extra, attention = FAMILIES[name]
    config = getattr(transformers, kind)(**{**SIZES, **ROPE.get(name, {}), **extra, **changes})
    config.pad_token_id, config.eos_token_id, config.bos_token_id = 0, None, 1
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return spread(model).eval().requires_grad_(False)


# GPT-OSS scales its angles for contexts that this model does not have, and warns of that.
ROPE = {"gpt_oss": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}}


@torch.no_grad()
def spread(model: Any, seed: int = 0) -> Any:
    """Random weights that make attention matter, sinks included."""
    rng = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=rng)
        if name.endswith("sinks"):
            weight.copy_(1 + noise)
        elif weight.ndim == 1:
            weight.add_(0.1 * noise)  # norms and biases
        else:
            weight.copy_(noise * weight.shape[-2 if weight.ndim == 3 else -1] ** -0.5)
    return model


def prompt(lengths: tuple[int, ...], seed: int = 0) -> dict[str, Tensor]:
    """Rows of random tokens of these lengths, padded on the left: input_ids and attention_mask."""
    rng, longest = torch.Generator().manual_seed(seed), max(lengths)
    tokens = torch.randint(2, SIZES["vocab_size"], (len(lengths), longest), generator=rng)
    real = torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]
    return {"input_ids": torch.where(real, tokens, 0), "attention_mask": real.long()}


class Written(NamedTuple):
    """What a model wrote, and the logits of each step."""

    tokens: Tensor  # (B, prompt + new)
    logits: Tensor  # (B, new, vocabulary)


def write(model: Any, given: dict[str, Tensor], attention: str, new: int, **how: Any) -> Written:
    """Let a model continue greedily with an attention function. how: to `generate`."""
    model.set_attn_implementation(attention)
    found = model.generate(
        **given,
        max_new_tokens=new,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **how,
    )
    return Written(found.sequences, torch.stack(found.logits, 1))


def naive(module, query, key, value, attention_mask, scaling=None, softcap=None, s_aux=None, **_):
    """Attention as its formula says, for the truth: written for tests, all in the dtype of query.

    Needs a mask, unless there is one query or as many as keys.
    """
    G, Lq, Lk = query.shape[1] // key.shape[1], query.shape[2], key.shape[2]
    key, value = (x.repeat_interleave(G, 1) for x in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is None:
        assert Lq in (1, Lk)
        attention_mask = torch.ones(Lq, Lk, dtype=torch.bool).tril(Lk - Lq)
    scores = scores.masked_fill(~attention_mask, -math.inf)
    if s_aux is not None:
        sinks = s_aux.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], -1)
    p = scores.softmax(-1)[..., :Lk].nan_to_num(0.0)  # a query that sees nothing: 0 / 0
    return (p @ value).transpose(1, 2).contiguous(), None


def register_naive() -> str:
    """Make `naive` known to transformers; return its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register("naive_for_tests", naive)
    AttentionMaskInterface.register("naive_for_tests", sdpa_mask)
    return "naive_for_tests"


@torch.no_grad()
def truth(model: Any, given: dict[str, Tensor], written: Tensor) -> tuple[Tensor, float]:
    """The logits of each step by a twin in fp64, and how far two fp32 computations may differ.

    The twin reads all tokens at once, without a cache. The second number is derived as
    `tests/given/rounding.py` explains: what the logits move by when each weight moves by the
    rounding errors of the sum that it is part of, times 2.
    """
    twin = copy.deepcopy(model).double()
    twin.set_attn_implementation(register_naive())
    twin.set_experts_implementation("eager")  # the default multiplies no fp64
    new = written.shape[1] - given["input_ids"].shape[1]
    real = torch.cat([given["attention_mask"], torch.ones(len(written), new).long()], 1)
    place = (real.cumsum(1) - 1).clamp(min=0)

    def logits() -> Tensor:
        found = twin(written, attention_mask=real, position_ids=place, use_cache=False).logits
        return found[:, -new - 1 : -1]

    right, rng = logits(), torch.Generator().manual_seed(1)
    for weight in twin.parameters():
        K = weight.shape[-2 if weight.ndim == 3 else -1] if weight.ndim > 1 else 4
        up_or_down = torch.randint(0, 2, weight.shape, generator=rng) * 2 - 1
        weight.mul_(1 + K**0.5 * U * up_or_down)
    return right, 2 * float((logits() - right).abs().max())
