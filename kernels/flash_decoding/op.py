"""`flash_decode` as an operator that torch knows: what it reads, what it writes, what it returns.

`torch.compile` cannot look into a launch whose grid is chosen in Python. It need not: see
`kernels.operators`. Only the workspace is written to.
"""

import torch
from torch import Tensor

from kernels.flash_decoding.checks import check_no_grads
from kernels.flash_decoding.features import Features, Splits
from kernels.flash_decoding.launch import check_call, decode
from kernels.operators import define, is_symbolic, may_check
from kernels.plan import Plan

_FEATURES = {
    "cache_seqlens": "Tensor?",
    "cache_batch_idx": "Tensor?",
    "cache_leftpad": "Tensor?",
    "block_table": "Tensor?",
    "window": "int?[]",
    "softcap": "float?",
    "sinks": "Tensor?",
    "alibi_slopes": "Tensor?",
    "mask": "Tensor?",
    "k_scale": "Tensor?",
    "v_scale": "Tensor?",
}
_TYPES = {
    "q": "Tensor",
    "k_cache": "Tensor",
    "v_cache": "Tensor",
    **_FEATURES,
    "causal": "bool",
    "scale": "float?",
    "num_splits": "int?",
    "split_size": "int?",
    "num_sms": "int?",
    "plan_items": "Tensor?",
    "plan_first_slot": "Tensor?",
    "plan_made_for": "int?[]",
    "workspace": "Tensor(a!)?",
}
_SCHEMA = f"({', '.join(f'{kind} {name}' for name, kind in _TYPES.items())}) -> (Tensor, Tensor)"


def decode_by_operator(
    tensors: tuple[Tensor, Tensor, Tensor], features: Features, splits: Splits, **rest: object
) -> tuple[Tensor, Tensor]:
    """Return o and lse, as `kernels.flash_decoding.launch.decode` does."""
    check_no_grads(*tensors, features)
    if may_check(*tensors, *vars(features).values(), *vars(splits).values()):
        check_call(*tensors, features, splits, **rest)
    return flash_decode_op(*flat_arguments(tensors, features, splits, **rest))


def check_known_sizes(q: Tensor, k_cache: Tensor, v_cache: Tensor) -> None:
    """Raise ValueError if a size is a symbol, outside torch.compile, which makes it a number."""
    if not torch.compiler.is_dynamo_compiling() and is_symbolic((q, k_cache, v_cache)):
        raise ValueError(
            "flash_decode_plan must get tensors of known sizes, by which tiles are chosen; got "
            "symbols: make the plan outside the graph, or let torch.compile capture it"
        )


def flat_arguments(
    tensors: tuple[Tensor, Tensor, Tensor],
    features: Features,
    splits: Splits,
    *,
    causal: bool,
    scale: float | None,
    workspace: Tensor | None,
) -> list[object]:
    """Return the operator's arguments in its order."""
    plan = splits.plan
    return [
        *tensors,
        *(features.sides if name == "window" else getattr(features, name) for name in _FEATURES),
        causal,
        scale,
        splits.num_splits,
        splits.split_size,
        splits.num_sms,
        None if plan is None else plan.items,
        None if plan is None else plan.first_slot,
        [] if plan is None else plan.made_for(),
        workspace,
    ]


def _call(*flat: object) -> tuple[tuple, dict]:
    """Undo `flat_arguments`: return the arguments of `kernels.flash_decoding.launch.decode`."""
    named = dict(zip(_TYPES, flat, strict=True))
    features = {name: named[name] for name in _FEATURES}
    plan = None
    if named["plan_items"] is not None:
        plan = Plan(named["plan_items"], named["plan_first_slot"], *named["plan_made_for"])
    return (
        named["q"],
        named["k_cache"],
        named["v_cache"],
        Features(**{**features, "window": tuple(named["window"])}),
        Splits(named["num_splits"], named["split_size"], plan, named["num_sms"]),
    ), {name: named[name] for name in ("causal", "scale", "workspace")}


def _run(*flat: object) -> tuple[Tensor, Tensor]:
    arguments, rest = _call(*flat)
    return decode(*arguments, **rest)


def _check(*flat: object) -> None:
    arguments, rest = _call(*flat)
    check_call(*arguments, **rest)


def _fake(q: Tensor, k_cache: Tensor, v_cache: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    o = q.new_empty(*q.shape[:3], v_cache.shape[3])
    return o, q.new_empty(q.shape[:3], dtype=torch.float32)


flash_decode_op = define(
    "flash_decode", _run, _fake, check=_check, writes=("workspace",), schema=_SCHEMA
)
