"""Merge attention results over disjoint sets of keys, wherever they were computed.

    o₀, lse₀   over keys A      ┐
    o₁, lse₁   over keys B      ├─►  o, lse over A ∪ B ∪ C        o = Σ_i exp(lse_i - lse) · o_i
    o₂, lse₂   over keys C      ┘                               lse = ln Σ_i exp(lse_i)

The keys may be splits of one cache, a prefix that many users share, or the cache of another GPU:
only o and lse need to travel.

Source: Dao, Haziza, Massa & Sizov 2023, "Flash-Decoding for long-context inference", step 3; as an
operation in its own right: Ye et al. 2024, "Cascade inference" (FlashInfer).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.call import may_launch
from kernels.checks import DTYPES, check_device, check_no_grad, check_same_device, dtype_names
from kernels.flash_decoding.combine import combine_call
from kernels.operators import define, may_check

NO_BACKWARD = "merging has no backward"


def merge_states(
    o: Tensor | Sequence[Tensor], lse: Tensor | Sequence[Tensor], dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Merge any number of attention results over disjoint sets of keys into one.

    Args:
        o: (S, ..., D), or a sequence of S tensors (..., D); fp32, fp16 or bf16, the
            same for all.
        lse: (S, ...), or a sequence of S tensors (...); fp32, natural log; -inf: saw no key. +inf
            with o = 0, flash-attn 2's mark of a query that sees no key, says the same.
        dtype: of the merged o; that of o if None.

    Returns:
        o (..., D) and lse (...), fp32, natural log. (0, -inf) where none of them saw a key. NaN
        where one of them is: its lse is NaN, or it is +inf and o is not 0. No softmax gives that;
        a score of +inf makes NaN, by inf - inf.

    Raises:
        TypeError: not tensors or sequences of them, or `dtype` not one of the three.
        ValueError: no partial result at all, shapes, dtypes or devices that do not fit, an input
            that requires grad while grad is enabled.

    Source: the Flash-Decoding post, step 3. `reference.online_softmax.merge_states` is its twin.
    """
    o, lse = _stacked("o", o), _stacked("lse", lse)
    dtype = o.dtype if dtype is None else dtype
    if may_launch(o, lse):
        return _merge(o, lse, dtype)
    for name, x in (("o", o), ("lse", lse)):
        check_no_grad(name, x, NO_BACKWARD)
    if may_check(o, lse):
        _check(o, lse, dtype)
    return merge_op(o, lse, dtype)


def _merge(o: Tensor, lse: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    _check(o, lse, dtype)
    merged, merged_lse = _room(o, lse, dtype)
    if merged_lse.numel():
        call = combine_call(o.contiguous(), lse.contiguous(), merged, merged_lse, marks=True)
        call.launch(o.device)
    return merged, merged_lse


def _room(o: Tensor, lse: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """New tensors for the merged o and lse."""
    return o.new_empty(o.shape[1:], dtype=dtype), lse.new_empty(o.shape[1:-1])


def _stacked(name: str, x: Tensor | Sequence[Tensor]) -> Tensor:
    """One tensor with the partial results along its first dimension."""
    if isinstance(x, Tensor):
        return x
    if not isinstance(x, Sequence) or not all(isinstance(part, Tensor) for part in x):
        raise TypeError(f"{name} must be a tensor or a sequence of tensors; got {x!r:.80}")
    if not x:
        raise ValueError(f"{name} must hold at least one partial result; got none")
    kinds = [(part.shape, part.dtype, part.device) for part in x]
    if any(kind != kinds[0] for kind in kinds):  # no set of them: a symbol in a shape has no hash
        got = {(tuple(shape), *rest) for shape, *rest in kinds}
        raise ValueError(f"{name}: all must have one shape, dtype and device; got {got}")
    return torch.stack(tuple(x))


def _check(o: Tensor, lse: Tensor, dtype: torch.dtype) -> None:
    for name, x, dtypes in (("o", o, DTYPES), ("lse", lse, (torch.float32,))):
        if x.layout != torch.strided:
            raise ValueError(f"{name} must be a dense, strided tensor; got {x.layout}")
        if x.dtype not in dtypes:
            raise ValueError(f"{name} must be {dtype_names(dtypes)}; got {x.dtype}")
        check_no_grad(name, x, NO_BACKWARD)
    check_same_device("lse", lse, o.device, "o")
    if o.ndim < 2 or o.shape[:-1] != lse.shape or o.shape[0] == 0 or o.shape[-1] == 0:
        raise ValueError(
            "o and lse must be (S, ..., D) and (S, ...) with S ≥ 1 and D ≥ 1; got "
            f"{tuple(o.shape)} and {tuple(lse.shape)}"
        )
    if dtype not in DTYPES:
        raise TypeError(f"dtype must be float32, float16 or bfloat16; got {dtype!r}")
    check_device(o.device)


merge_op = define("merge_states", _merge, _room, check=_check)
