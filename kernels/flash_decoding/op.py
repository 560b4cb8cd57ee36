"""`flash_decode` as an operator that torch knows: what it reads, what it writes, what it returns.

`torch.compile` cannot look into a launch whose grid is chosen in Python. It need not: an operator
of `torch.library` is a black box with a *fake*, a function that returns tensors of the right
shapes without computing, and a list of the arguments that it writes to: only the workspace.
"""

import torch
from torch import Tensor

from kernels.flash_decoding.features import Features, Splits
from kernels.flash_decoding.launch import decode
from kernels.plan import Plan

_TYPES = {name: "Tensor" for name in ("q", "k_cache", "v_cache")}
_FEATURES = ("cache_seqlens", "cache_batch_idx", "cache_leftpad", "block_table", "sinks")
_FEATURES += ("alibi_slopes", "mask", "k_scale", "v_scale")
_TYPES |= {name: "Tensor?" for name in _FEATURES} | {"softcap": "float?", "window": "int?[]"}
_TYPES |= {"causal": "bool", "scale": "float?"}
_TYPES |= {"num_splits": "int?", "split_size": "int?", "num_sms": "int?"}
_TYPES |= {"plan_items": "Tensor?", "plan_first": "Tensor?", "plan_made_for": "int?[]"}
_TYPES |= {"workspace": "Tensor(a!)?"}
_SCHEMA = f"({', '.join(f'{kind} {name}' for name, kind in _TYPES.items())}) -> (Tensor, Tensor)"


def flat_arguments(
    tensors: tuple[Tensor, Tensor, Tensor], features: Features, splits: Splits, **rest: object
) -> list[object]:
    """Return the operator's arguments in its order; rest: causal, scale, workspace."""
    named = dict(zip(("q", "k_cache", "v_cache"), tensors, strict=True)) | vars(features)
    named |= vars(splits) | rest | {"window": features.sides}
    plan = named.pop("plan")
    named |= {"plan_items": None, "plan_first": None, "plan_made_for": []}
    if plan is not None:
        named |= {"plan_items": plan.items, "plan_first": plan.first}
        named["plan_made_for"] = plan.made_for()
    return [named[name] for name in _TYPES]


def _run(*flat: object) -> tuple[Tensor, Tensor]:
    """Undo `flat_arguments` and decode."""
    named = dict(zip(_TYPES, flat, strict=True))
    features = {name: named[name] for name in (*_FEATURES, "softcap")}
    plan = None
    if named["plan_items"] is not None:
        plan = Plan(named["plan_items"], named["plan_first"], *named["plan_made_for"])
    return decode(
        named["q"],
        named["k_cache"],
        named["v_cache"],
        Features(window=tuple(named["window"]), **features),
        Splits(named["num_splits"], named["split_size"], plan, named["num_sms"]),
        causal=named["causal"],
        scale=named["scale"],
        workspace=named["workspace"],
    )


flash_decode_op = torch.library.custom_op(
    "flash_decoding_course::flash_decode", _run, mutates_args=("workspace",), schema=_SCHEMA
)


@flash_decode_op.register_fake
def _fake(q: Tensor, k_cache: Tensor, v_cache: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    o = q.new_empty(*q.shape[:3], v_cache.shape[3])
    return o, q.new_empty(q.shape[:3], dtype=torch.float32)
