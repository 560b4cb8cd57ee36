"""Tiny random Llamas written to disk: a folder in Hugging Face's format, and a GGUF file."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from small_models import small_model
from torch import Tensor

from reference.pretrained.tokenizer import byte_level
from reference.pretrained.weights import places
from reference.transformer import Config, Transformer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ t", "h e", "Ġt he", "c a", "ca c", "cac he")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vocabulary() -> list[str]:
    """Three special tokens, the 256 bytes, and what the merges make."""
    from tokenizers.pre_tokenizers import ByteLevel

    return [*SPECIAL, *sorted(ByteLevel.alphabet()), *(pair.replace(" ", "") for pair in MERGES)]


SIZES = Config(
    vocabulary=3 + 256 + len(MERGES),
    layers=3,
    width=48,
    Hq=6,
    Hkv=2,
    D=16,
    hidden=40,
    context=128,
    rope_base=5000.0,
    norm_eps=1e-3,  # large enough to matter
)
UNTIED = Config(**{**vars(SIZES), "tied": False})


def llama(config: Config = SIZES, dtype: torch.dtype = torch.float32) -> Transformer:
    """A random model whose attention matters."""
    return small_model(config, dtype=dtype)


def about(config: Config) -> dict[str, object]:
    """What config.json says of it, in the words of transformers 4."""
    return {
        "model_type": "llama",
        "vocab_size": config.vocabulary,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.Hq,
        "num_key_value_heads": config.Hkv,
        "head_dim": config.D,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.context,
        "rope_theta": config.rope_base,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "eos_token_id": 2,
    }


def tensors(model: Transformer) -> dict[str, Tensor]:
    """The weights by Hugging Face's names, each in memory of its own."""
    return {name: part.clone() for name, part in places(model).items()}


def write_folder(
    folder: Path, model: Transformer | None = None, shards: int = 1, **changes: object
) -> Transformer:
    """Write a folder; return the model that is in it. changes: to config.json; None removes."""
    model = llama() if model is None else model
    folder.mkdir(exist_ok=True)
    said = about(model.config) | changes
    said = {name: x for name, x in said.items() if x is not None}
    (folder / "config.json").write_text(json.dumps(said))
    weights = tensors(model)
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
    else:
        names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
        where = {name: names[i % shards] for i, name in enumerate(weights)}
        for file in names:
            save_file({n: x for n, x in weights.items() if where[n] == file}, folder / file)
        index = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    byte_level(vocabulary(), MERGES, SPECIAL).save(str(folder / "tokenizer.json"))
    more = {"chat_template": TEMPLATE, "eos_token": {"content": "<|im_end|>"}, "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(more))
    return model


def neighbours(x: Tensor, heads: int) -> Tensor:
    """Rows of q or k in llama.cpp's order: in each head, i and i + D/2 are neighbours."""
    D = len(x) // heads
    order = [h * D + j for h in range(heads) for i in range(D // 2) for j in (i, i + D // 2)]
    return x[torch.tensor(order)]


def write_gguf(
    path: Path, model: Transformer, eight_bits: tuple[str, ...] = (), **fields: object
) -> None:
    """Write a GGUF file as llama.cpp's converter does. fields: instead of what the header says.

    eight_bits: tensors (by their names in the file) that are stored as Q8_0.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    c = model.config
    writer = GGUFWriter(path, fields.pop("architecture", "llama"))
    writer.add_block_count(c.layers)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.width)
    writer.add_feed_forward_length(c.hidden)
    writer.add_head_count(c.Hq)
    writer.add_head_count_kv(c.Hkv)
    writer.add_key_length(c.D)
    writer.add_rope_dimension_count(fields.pop("rope_dimensions", c.D))
    writer.add_rope_freq_base(c.rope_base)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    if "scaling" in fields:
        writer.add_string("llama.rope.scaling.type", fields.pop("scaling"))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(fields.pop("pre", "smollm"))
    writer.add_token_list(vocabulary())
    writer.add_token_types([3] * len(SPECIAL) + [1] * (c.vocabulary - len(SPECIAL)))
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    assert not fields, fields
    for name, x in named_for_gguf(model).items():
        if name in eight_bits:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quants.quantize(x.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, x.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def named_for_gguf(model: Transformer) -> dict[str, Tensor]:
    """The weights by llama.cpp's names, q and k in its order."""
    c, found = model.config, {"token_embd.weight": model.embedding.weight}
    found |= {"output_norm.weight": model.norm.weight}
    if not c.tied:
        found["output.weight"] = model.head.weight
    for i, block in enumerate(model.blocks):
        q, k, v = block.qkv.weight.split([c.Hq * c.D, c.Hkv * c.D, c.Hkv * c.D])
        gate, up = block.gate_up.weight.split([c.hidden, c.hidden])
        parts = {
            "attn_norm": block.attention_norm.weight,
            "attn_q": neighbours(q, c.Hq),
            "attn_k": neighbours(k, c.Hkv),
            "attn_v": v,
            "attn_output": block.out.weight,
            "ffn_norm": block.mlp_norm.weight,
            "ffn_gate": gate,
            "ffn_up": up,
            "ffn_down": block.down.weight,
        }
        found |= {f"blk.{i}.{name}.weight": part for name, part in parts.items()}
    return {name: x.detach().float() for name, x in found.items()}
