"""Where each tensor of a Llama goes in our Transformer, and an empty one to put them into.

Names are Hugging Face's. Projections that share an input are one matrix here, row after row:

    q_proj, k_proj, v_proj  → qkv        gate_proj, up_proj  → gate_up

so each tensor's place is a view of some parameter, and is filled without a second copy.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from reference.transformer import Config, Transformer


class UnfitError(ValueError):
    """A model that `reference.transformer.Transformer` cannot be, or whose files are damaged."""


def config_of(**sizes: object) -> Config:
    """`Config(**sizes)`, whose complaints are those about a model that does not fit."""
    try:
        return Config(**sizes)
    except (TypeError, ValueError) as error:
        raise UnfitError(f"these sizes make no model: {error}") from error


class Undrawn(TorchFunctionMode):
    """Within it, no weights are drawn: tensors stay as they are."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call the function, unless it draws."""
        kwargs = kwargs or {}
        if function in (nn.init.normal_, nn.init.kaiming_uniform_):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def empty(config: Config, dtype: torch.dtype, device: torch.device | str) -> Transformer:
    """A Transformer whose weights are not yet set: drawing 135 million of them takes seconds.

    Memory that nobody has written takes no room. (On "meta" none would be needed at all, but the
    first operation there makes torch load its compiler: 150 MB.)
    """
    with Undrawn():
        model = Transformer(config)
    return model.to(dtype=dtype, device=device).requires_grad_(False).eval()


def places(model: Transformer) -> dict[str, Tensor]:
    """By Hugging Face's name, the part of the model's weights that a tensor is to fill: views."""
    config = model.config
    found = {"model.embed_tokens.weight": model.embedding.weight}
    found |= {"model.norm.weight": model.norm.weight}
    if not config.tied:
        found["lm_head.weight"] = model.head.weight
    rows = [heads * config.D for heads in (config.Hq, config.Hkv, config.Hkv)]
    for i, block in enumerate(model.blocks):
        q, k, v = block.qkv.weight.split(rows)
        gate, up = block.gate_up.weight.chunk(2)
        of_layer = {
            "input_layernorm": block.attention_norm.weight,
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": block.out.weight,
            "post_attention_layernorm": block.mlp_norm.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.down.weight,
        }
        found |= {f"model.layers.{i}.{name}.weight": part for name, part in of_layer.items()}
    return found


@torch.no_grad()
def fill(model: Transformer, tensors: Iterable[tuple[str, Tensor]]) -> Transformer:
    """Copy each named tensor into its place, rounded to the model's dtype; return the model.

    Skipped: an output matrix beside a tied embedding, and the table of rotary frequencies that old
    files carry. Raises `UnfitError` for a tensor that has no place or another shape, that comes
    twice, or is missing.
    """
    found = places(model)
    awaited = dict(found)
    for name, x in tensors:
        spare = name == "lm_head.weight" and model.config.tied
        if spare or name.endswith("rotary_emb.inv_freq"):
            continue
        if name not in found:
            kind = "a bias" if name.endswith(".bias") else "a tensor"
            raise UnfitError(f"the Transformer has no place for {kind} called {name}")
        if name not in awaited:
            raise UnfitError(f"{name} comes twice")
        place = awaited.pop(name)
        if x.shape != place.shape:
            raise UnfitError(f"{name} must be {tuple(place.shape)}; got {tuple(x.shape)}")
        if not x.is_floating_point() or x.itemsize < 2:
            raise UnfitError(f"{name} must be fp16, bf16, fp32 or fp64; got {x.dtype}")
        place.copy_(x)
    if awaited:
        first = next(iter(awaited))
        raise UnfitError(f"{len(awaited)} of {len(found)} tensors are missing, such as {first}")
    return model
