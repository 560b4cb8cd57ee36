"""A Llama in one GGUF file, as llama.cpp reads it: sizes, vocabulary, and weights of few bits.

Two things differ from the other formats.

1. Weights are stored in blocks of 32 with a scale each (and, in Q4_1, an offset); the package
   `gguf` turns them back into fp32.
2. The rows of q and k are in another order. Rotary embedding rotates pairs of dimensions. Hugging
   Face, and this course, pair i with i + D/2; in the file, pairs are neighbours:

       row of a head in the file, D = 8    0  1  2  3  4  5  6  7
       the row that it is here             0  4  1  5  2  6  3  7

Sources: the GGUF specification, github.com/ggml-org/ggml/blob/master/docs/gguf.md; the order of
rows: `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from reference.pretrained.gguf_header import Header, Stored, read_header
from reference.pretrained.tokenizer import Tokenizer, byte_level
from reference.pretrained.weights import UnfitError, config_of, empty, fill
from reference.transformer import Config, Transformer

NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
SPECIAL = (3, 4)  # token types that are never found in plain text: control, user-defined


def load(
    path: Path, dtype: torch.dtype, device: torch.device | str
) -> tuple[Transformer, Tokenizer]:
    """Read the file. Raises as `reference.pretrained.load`."""
    with path.open("rb") as file:
        try:
            header = read_header(file)
        except ValueError as error:
            raise UnfitError(f"{path.name} is no GGUF file, or is damaged: {error}") from error
        config, tokenizer = read_config(header), read_tokenizer(header)
        model = fill(empty(config, dtype, device), tensors(file, header, config))
    return model, tokenizer


def _field(header: Header, name: str, default: Any = None) -> Any:
    """A field of the header, or the default. Raises `UnfitError` if there is neither."""
    found = header.fields.get(name, default)
    if found is None:
        raise UnfitError(f"the file does not say its {name}")
    return found


def read_config(header: Header) -> Config:
    """The sizes, from the header. Raises `UnfitError` for what the Transformer cannot be."""
    kind = _field(header, "general.architecture")
    if kind != "llama":
        raise UnfitError(f"general.architecture must be 'llama'; got {kind!r}")
    scaling = _field(header, "llama.rope.scaling.type", "none")
    if scaling != "none":
        raise UnfitError(f"llama.rope.scaling.type must be 'none'; got {scaling!r}")
    if experts := _field(header, "llama.expert_count", 0):
        raise UnfitError(f"llama.expert_count must be 0; got {experts}")
    Hq, width = (
        _field(header, "llama.attention.head_count"),
        _field(header, "llama.embedding_length"),
    )
    D = _field(header, "llama.attention.key_length", width // Hq)
    for name in ("llama.rope.dimension_count", "llama.attention.value_length"):
        if (found := _field(header, name, D)) != D:
            raise UnfitError(f"{name} must be the head dimension, {D}; got {found}")
    names = {tensor.name for tensor in header.tensors}
    return config_of(
        vocabulary=len(_field(header, "tokenizer.ggml.tokens")),
        layers=_field(header, "llama.block_count"),
        width=width,
        Hq=Hq,
        Hkv=_field(header, "llama.attention.head_count_kv", Hq),
        D=D,
        hidden=_field(header, "llama.feed_forward_length"),
        context=_field(header, "llama.context_length"),
        rope_base=_field(header, "llama.rope.freq_base", 10000.0),
        # fp32 has seven digits: what the header holds, 9.999999747e-06, means 1e-05
        norm_eps=float(f"{_field(header, 'llama.attention.layer_norm_rms_epsilon'):.7g}"),
        tied="output.weight" not in names,
    )


def tensors(file: BinaryIO, header: Header, config: Config) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor under Hugging Face's name, fp32, its rows in our order.

    The largest comes first: two copies of it are needed for a while, and no other is there yet.
    """
    heads = {"attn_q": config.Hq, "attn_k": config.Hkv}
    for stored in sorted(header.tensors, key=lambda x: math.prod(x.shape), reverse=True):
        name, parts = stored.name, stored.name.split(".")
        if parts[0] == "blk" and len(parts) == 4:
            name = f"model.layers.{parts[1]}.{NAMES.get(parts[2], parts[2])}.{parts[3]}"
        elif parts[0] in WHOLE:
            name = f"{WHOLE[parts[0]]}.{parts[-1]}"
        try:
            x = unpacked(file, stored)
        except NotImplementedError as error:
            kind = stored.kind.name
            raise UnfitError(f"{name} is {kind}, which gguf cannot turn into fp32") from error
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            x = halves_apart(x, heads[parts[2]])
        yield name, x


def unpacked(file: BinaryIO, stored: Stored) -> Tensor:
    """Read a tensor, and return it in fp32."""
    import numpy as np
    from gguf.quants import dequantize

    file.seek(stored.start)
    rows = np.fromfile(file, np.uint8, stored.size).reshape(*stored.shape[:-1], -1)
    return torch.from_numpy(dequantize(rows, stored.kind))


def halves_apart(x: Tensor, heads: int) -> Tensor:
    """Rows of q or k, (heads · D, width), from neighbours that are pairs to i and i + D/2.

    >>> halves_apart(torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])[:, None], heads=1).flatten().tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    return x.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(x.shape)


def read_tokenizer(header: Header) -> Tokenizer:
    """The byte-level BPE of the file's own vocabulary and merges, and its chat template."""
    kind = _field(header, "tokenizer.ggml.model"), _field(header, "tokenizer.ggml.pre", "none")
    if kind != ("gpt2", "smollm"):
        raise UnfitError(f"the tokenizer must be ('gpt2', 'smollm'); got {kind}")
    tokens = _field(header, "tokenizer.ggml.tokens")
    types = _field(header, "tokenizer.ggml.token_type")
    special = [token for token, type_ in zip(tokens, types, strict=True) if type_ in SPECIAL]
    bos, eos = (_field(header, f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
    return Tokenizer(
        byte_level(tokens, _field(header, "tokenizer.ggml.merges"), special),
        stop=[eos],
        template=_field(header, "tokenizer.chat_template", ""),
        bos=tokens[bos],
        eos=tokens[eos],
    )
