"""A Llama in a folder in Hugging Face's format, as `save_pretrained` writes it.

    config.json              sizes
    model.safetensors        weights; or several shards, with model.safetensors.index.json
    tokenizer.json           vocabulary, merges and rules
    tokenizer_config.json    chat template (or chat_template.jinja) and special tokens; optional
    generation_config.json   the tokens that end an answer; optional

Whatever the configuration asks for that our Transformer does not compute is refused by its name: a
model that is only nearly the right one writes sentences that are only nearly right.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reference.pretrained.tokenizer import Tokenizer
from reference.pretrained.weights import UnfitError, config_of, empty, fill
from reference.transformer import Config, Transformer

# What config.json must say. A missing key means the same: these are LlamaConfig's defaults.
WANTED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_interleaved": False,
    "partial_rotary_factor": 1.0,
    "pretraining_tp": 1,
    "quantization_config": None,
    "sliding_window": None,
}
NEEDED = {
    "vocabulary": "vocab_size",
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "Hq": "num_attention_heads",
    "hidden": "intermediate_size",
}
ROPE_BASE, NORM_EPS, CONTEXT = 10000.0, 1e-6, 2048  # LlamaConfig's defaults


def load(
    folder: Path, dtype: torch.dtype, device: torch.device | str
) -> tuple[Transformer, Tokenizer]:
    """Read the folder. Raises as `reference.pretrained.load`."""
    about = _json(folder / "config.json")
    config = read_config(about)
    model = fill(empty(config, dtype, device), tensors(folder))
    return model, read_tokenizer(folder, about)


def _json(path: Path, needed: bool = True) -> dict[str, Any]:
    """The dictionary in a JSON file; {} if the file is missing and not needed."""
    if not path.exists():
        if needed:
            raise FileNotFoundError(f"{path.parent} must hold {path.name}")
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnfitError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UnfitError(f"{path.name} must hold a dictionary; got a {type(found).__name__}")
    return found


def read_config(about: dict[str, Any]) -> Config:
    """The sizes, from config.json. Raises `UnfitError` for what the Transformer cannot be."""
    if (kind := about.get("model_type")) != "llama":
        raise UnfitError(f"model_type must be 'llama'; got {kind!r}")
    for name, wanted in WANTED.items():
        if (found := about.get(name)) not in (None, wanted):
            raise UnfitError(f"{name} must be {wanted!r}; got {found!r}")
    sizes = {}
    for ours, name in NEEDED.items():
        if name not in about:
            raise UnfitError(f"config.json does not say its {name}")
        sizes[ours] = about[name]
    Hq = sizes["Hq"]
    return config_of(
        **sizes,
        Hkv=about.get("num_key_value_heads") or Hq,
        D=about.get("head_dim") or sizes["width"] // Hq,
        context=about.get("max_position_embeddings", CONTEXT),
        rope_base=rope_base(about),
        norm_eps=about.get("rms_norm_eps", NORM_EPS),
        tied=about.get("tie_word_embeddings", False),
    )


def rope_base(about: dict[str, Any]) -> float:
    """The base of the rotary angles. Raises `UnfitError` for angles that are scaled.

    transformers 5 writes both into `rope_parameters`; before, there were `rope_theta` and
    `rope_scaling`, whose type was once called "type".
    """
    rope = (about.get("rope_scaling") or {}) | (about.get("rope_parameters") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UnfitError(f"rope scaling must be 'default'; got {kind!r}")
    if (part := rope.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UnfitError(f"partial_rotary_factor must be 1.0; got {part!r}")
    return rope.get("rope_theta", about.get("rope_theta", ROPE_BASE))


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of model.safetensors, or of all the shards that its index names."""
    from safetensors import SafetensorError, safe_open

    for name in _shards(folder):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} must hold {name}")
        try:
            with safe_open(folder / name, framework="pt") as file:
                for tensor in file.keys():  # noqa: SIM118
                    yield tensor, file.get_tensor(tensor)
        except SafetensorError as error:
            raise UnfitError(f"{name} is no safetensors file, or is damaged: {error}") from error


def _shards(folder: Path) -> list[str]:
    index = "model.safetensors.index.json"
    if not (folder / index).exists():
        return ["model.safetensors"]
    names = sorted({str(name) for name in _json(folder / index).get("weight_map", {}).values()})
    for name in names:
        if Path(name).name != name or "\\" in name:
            raise UnfitError(f"a shard must lie in the folder itself; {index} names {name!r}")
    return names


def read_tokenizer(folder: Path, about: dict[str, Any]) -> Tokenizer:
    """The tokenizer, its template and the tokens that end an answer."""
    import tokenizers

    if not (folder / "tokenizer.json").exists():
        raise FileNotFoundError(f"{folder} must hold tokenizer.json")
    try:
        inner = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the package raises nothing narrower
        raise UnfitError(f"tokenizer.json cannot be read: {error}") from error
    if (most := max(inner.get_vocab().values(), default=-1)) >= about["vocab_size"]:
        raise UnfitError(f"vocab_size must be above {most}, a token; got {about['vocab_size']}")
    more = _json(folder / "tokenizer_config.json", needed=False)
    generation = _json(folder / "generation_config.json", needed=False)
    stop = generation.get("eos_token_id", about.get("eos_token_id"))
    eos = _content(more.get("eos_token"))
    stop = [inner.token_to_id(eos)] if stop is None else stop
    stop = stop if isinstance(stop, list) else [stop]
    return Tokenizer(
        inner,
        stop=[number for number in stop if number is not None],
        template=_template(folder, more),
        bos=_content(more.get("bos_token")),
        eos=eos,
    )


def _content(token: Any) -> str:
    """A special token as text: older files spell out its settings, too."""
    return str(token.get("content", "") if isinstance(token, dict) else token or "")


def _template(folder: Path, more: dict[str, Any]) -> str:
    """The chat template; where a model has several, the one called "default"."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    found = more.get("chat_template") or ""
    if isinstance(found, list):
        found = {one["name"]: one["template"] for one in found}.get("default", "")
    return found
