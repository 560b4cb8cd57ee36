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

from kernels.checks import DTYPES
from kernels.flash_decoding.combine import combine


def merge_states(
    o: Tensor | Sequence[Tensor], lse: Tensor | Sequence[Tensor], dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Merge any number of attention results over disjoint sets of keys into one.

    Args:
        o: (N, ..., D), or a sequence of N tensors (..., D); fp32, fp16 or bf16, the
            same for all.
        lse: (N, ...), or a sequence of N tensors (...); fp32, natural log; -inf: saw no key.
        dtype: of the merged o; that of o if None.

    Returns:
        o (..., D) and lse (...), fp32, natural log. (0, -inf) where none of them saw a key.

    Raises:
        TypeError: not tensors or sequences of them, or `dtype` not one of the three.
        ValueError: no partial result at all, shapes, dtypes or devices that do not fit, an input
            that requires grad while grad is enabled.

    Source: the Flash-Decoding post, step 3. `reference.online_softmax.merge_states` is its twin.
    """
    o, lse = _stacked("o", o), _stacked("lse", lse)
    if dtype is not None and dtype not in DTYPES:
        raise TypeError(f"dtype must be float32, float16 or bfloat16; got {dtype!r}")
    if o.layout != torch.strided or lse.layout != torch.strided:
        raise ValueError(f"o and lse must be dense, strided tensors; got {o.layout}, {lse.layout}")
    if o.device != lse.device:
        raise ValueError(f"o and lse must be on one device; got {o.device} and {lse.device}")
    return combine(o.contiguous(), lse.contiguous(), o.dtype if dtype is None else dtype)


def _stacked(name: str, x: Tensor | Sequence[Tensor]) -> Tensor:
    """One tensor with the partial results along its first dimension."""
    if isinstance(x, Tensor):
        return x
    if not isinstance(x, Sequence) or not all(isinstance(part, Tensor) for part in x):
        raise TypeError(f"{name} must be a tensor or a sequence of tensors; got {x!r:.80}")
    if not x:
        raise ValueError(f"{name} must hold at least one partial result; got none")
    kinds = {(tuple(part.shape), part.dtype, part.device) for part in x}
    if len(kinds) > 1:
        raise ValueError(f"{name}: all must have one shape, dtype and device; got {kinds}")
    return torch.stack(tuple(x))
