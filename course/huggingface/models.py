"""Models to try the attention function on: ours as one of transformers, or one in a folder."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from reference.pretrained import SMOLLM2, load
from reference.pretrained.weights import places
from reference.transformer import Transformer


class Ready(NamedTuple):
    """A model of transformers in eval mode, and what to generate with it."""

    model: Any
    prompt: list[int]
    decode: Callable[[Iterable[int]], str]
    stop: list[int]  # tokens that end an answer


def read(path: str, question: str, *, raw: bool = False) -> Ready:
    """Read a model and encode a question for it, in its chat template unless it has none or raw.

    path: "smollm2", a GGUF file of a Llama, or a folder in Hugging Face's format, of any
    architecture. Nothing is downloaded. The dtype is fp32.

    Raises FileNotFoundError, ValueError and ImportError as `reference.pretrained.load`; OSError for
    a folder that transformers cannot read.
    """
    if not Path(path).is_dir():
        model, tokenizer = load(SMOLLM2 if path == "smollm2" else path)
        plain = raw or not tokenizer.template
        tokens = tokenizer.encode(question) if plain else tokenizer.chat(question)
        return Ready(as_transformers(model), tokens, tokenizer.decode, sorted(tokenizer.stop))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    here = {"local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **here).eval()
    tokenizer = AutoTokenizer.from_pretrained(path, **here)
    if raw or not tokenizer.chat_template:
        tokens = tokenizer.encode(question)
    else:
        said = [{"role": "user", "content": question}]
        tokens = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
    stop = model.generation_config.eos_token_id
    stop = stop if isinstance(stop, list) else [stop]

    def decode(tokens: Iterable[int]) -> str:
        return tokenizer.decode(list(tokens), skip_special_tokens=True)

    return Ready(model.requires_grad_(False), tokens, decode, [x for x in stop if x is not None])


def as_transformers(model: Transformer) -> Any:
    """The same model as a `LlamaForCausalLM` of transformers, with the same memory as weights.

    In eval mode, attending by SDPA. Raises ImportError without transformers.
    """
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    c = model.config
    config = LlamaConfig(
        vocab_size=c.vocabulary,
        hidden_size=c.width,
        intermediate_size=c.hidden,
        num_hidden_layers=c.layers,
        num_attention_heads=c.Hq,
        num_key_value_heads=c.Hkv,
        head_dim=c.D,
        max_position_embeddings=c.context,
        rms_norm_eps=c.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_base},
        tie_word_embeddings=c.tied,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):  # sizes without memory: it is given ours
        peer = LlamaForCausalLM(config)
    peer.load_state_dict(places(model), strict=False, assign=True)
    peer.tie_weights()
    peer.model.rotary_emb = LlamaRotaryEmbedding(config)  # its frequencies are no weights
    empty = [name for name, x in (*peer.named_parameters(), *peer.named_buffers()) if x.is_meta]
    if empty:
        raise RuntimeError(f"transformers has weights that ours does not fill, such as {empty[0]}")
    return peer.requires_grad_(False).eval()
