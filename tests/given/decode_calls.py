"""Calls of flash_decode built from named levels; everything that must not be read is poisoned.

Unlike `feature_cases`, whose small calls loops over numbers can judge, these are large enough for
several blocks, pages and splits; the fp64 oracle of `reference` judges them.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from poison import dead_poisoned, paged
from torch import Tensor

from course.check.guards import empty_is_nan
from kernels.flash_decoding import flash_decode, flash_decode_plan
from kernels.runtime import INTERPRETED, device
from reference.attention import attention_with_cache, oracle_with_cache
from reference.closeness import assert_close_to_oracle
from reference.quantization import quantize

DEVICE = device()
LONGER = 1 if INTERPRETED else 24  # compiled, the same calls with more keys: more blocks per split


@dataclass(frozen=True)
class Call:
    """Positional arguments, features, and the options that the oracle does not take."""

    arguments: tuple[Tensor, Tensor, Tensor, Tensor | None]
    features: dict[str, Any]
    options: dict[str, Any]  # causal, scale


def judge(call: Call, **splits: Any) -> tuple[Tensor, Tensor]:
    """Decode on poisoned scratch and hold o and lse against the fp64 oracle; returns both."""
    if splits.pop("planned", False):
        q, k, v, lengths = call.arguments
        lengths = torch.full((len(q),), k.shape[1], device=DEVICE) if lengths is None else lengths
        splits["plan"] = flash_decode_plan(q, k, v, lengths, **call.features)
    with empty_is_nan():
        got = flash_decode(
            *call.arguments, **call.options, **call.features, **splits, return_lse=True
        )
    keywords = call.options | call.features
    base = attention_with_cache(*call.arguments, return_lse=True, **keywords)
    truth = oracle_with_cache(*call.arguments, **keywords)
    q, _, v, _ = call.arguments
    assert got[0].shape == (*q.shape[:3], v.shape[3]) and got[0].dtype == q.dtype
    assert got[1].shape == q.shape[:3] and got[1].dtype == torch.float32
    for name, *three in zip(("o", "lse"), got, base, truth, strict=True):
        assert_close_to_oracle(*three, name=name)
    return got


def make_call(levels: dict[str, Any], seed: int = 0) -> Call:
    """Build the call that the levels name; see `LEVELS` in test_features."""
    rng = torch.Generator().manual_seed(seed)
    B, Lq, Hkv, dtype = 4, levels["Lq"], 2, levels["dtype"]
    Hq, (D, Dv) = Hkv * levels["G"], levels["dims"]
    capacity = 150 * LONGER if levels["layout"] in ("rows", "batch_idx") else 256 * LONGER
    q = torch.randn(B, Lq, Hq, D, generator=rng).to(dtype)
    lengths = _lengths(levels["lengths"], B, capacity, levels["layout"])
    pads = None
    if levels["leftpad"]:  # none, some, a whole block and more; one row is all padding
        pads = torch.tensor([70, 3, 2, 66 * LONGER]).clamp(max=capacity).int()
    features = {"cache_leftpad": pads, "window": levels["window"], "softcap": levels["softcap"]}
    features |= _score_features(levels, B, Lq, Hq, rng)

    C = 6 if levels["layout"] == "batch_idx" else B
    rows = torch.tensor([5, 0, 5, 2]) if C == 6 else torch.arange(B)
    first = torch.zeros(B).long() if pads is None else pads.long()
    left = levels["window"][0] if isinstance(levels["window"], tuple) else levels["window"]
    ends = torch.full((B,), capacity) if lengths is None else lengths.long()
    if left is not None:
        first = torch.maximum(first, ends - Lq - left)
    live = torch.zeros(C, capacity, dtype=torch.bool)
    for b in range(B):
        live[rows[b], first[b] : ends[b]] = True
    caches = [torch.randn(C, capacity, Hkv, d, generator=rng) for d in (D, Dv)]
    tensors = _stored(caches, levels["eight"], levels["per"], dtype)
    tensors = [dead_poisoned(x, live) for x in tensors]
    if levels["eight"] and levels["per"] == "row":
        tensors[2:] = [scales_of_rows(x[rows], first < ends, rng) for x in tensors[2:]]
    if levels["layout"] == "batch_idx":
        features["cache_batch_idx"] = rows.int()
    elif levels["layout"] != "rows":
        tensors, features["block_table"] = paged(tensors, live, levels["layout"], rng)
    features |= dict(zip(("k_scale", "v_scale"), tensors[2:], strict=False))
    features = {name: to(x) for name, x in features.items() if x is not None}
    arguments = tuple(to(x) for x in (q, *tensors[:2], lengths))
    return Call(arguments, features, {"causal": levels["causal"], "scale": 0.3})


def to(x: Any) -> Any:
    """On the device of the kernels, if it is a tensor."""
    return x.to(DEVICE) if isinstance(x, Tensor) else x


def _lengths(kind: str, B: int, capacity: int, layout: str) -> Tensor | None:
    if kind == "full" and layout in ("rows", "batch_idx"):
        return None
    if kind == "full":
        return torch.full((B,), capacity).int()
    ragged = torch.tensor([capacity, 0, 1, 67 * LONGER])  # full, empty, one key, a block and a bit
    return ragged.int() if kind == "ragged" else ragged.flip(0)


def _score_features(levels: dict, B: int, Lq: int, Hq: int, rng: torch.Generator) -> dict:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    found: dict[str, Any] = {}
    if levels["sinks"] is not None:
        found["sinks"] = normal(Hq)
        found["sinks"][1] = -math.inf
        found["sinks"] = found["sinks"].to(levels["sinks"])
    if levels["alibi"]:
        found["alibi_slopes"] = normal(*((Hq,) if levels["alibi"] == 1 else (B, Hq))).abs()
    if levels["mask"]:
        kind, ndim = levels["mask"]
        shape = (Lq, Lq) if ndim == 2 else (B, Lq, Lq)
        numbers = normal(*shape)
        if kind is torch.bool:
            found["mask"] = numbers > -0.3
        else:
            found["mask"] = numbers.masked_fill(normal(*shape) > 0.8, -math.inf).to(kind)
    return found


def _stored(caches: list[Tensor], eight: Any, per: str, dtype: torch.dtype) -> list[Tensor]:
    """The caches as they are stored; then their scales, if they have any."""
    if eight is None:
        return [cache.to(dtype) for cache in caches]
    stored, scales = zip(*(quantize(cache, eight, per=per) for cache in caches), strict=True)
    return [*stored, *scales]


def scales_of_rows(x: Tensor, has_keys: Tensor, rng: torch.Generator) -> Tensor:
    """Scales (B, Hkv), other ones for rows that share a row of the cache; NaN without keys."""
    x = x * (1 + torch.rand(len(x), 1, generator=rng))
    return x.masked_fill(~has_keys[:, None], math.nan)


def plain_call(
    lengths: tuple[int, ...],
    *,
    Lq: int = 1,
    Hq: int = 3,
    Hkv: int = 1,
    D: int = 16,
    Dv: int | None = None,
    dtype: torch.dtype = torch.float32,
    causal: bool = True,
    scale: float | None = None,
    shift: float = 0.0,
    **features: Any,
) -> Call:
    """A call of rows with these lengths in a cache with a little more room, NaN past each row.

    shift: added to all scores. Places that a window or padding hides from all queries are NaN, too.
    """
    B, capacity, rng = len(lengths), max(lengths) + 5, torch.Generator().manual_seed(Lq + D)
    q = torch.randn(B, Lq, Hq, D, generator=rng)
    k = torch.randn(B, capacity, Hkv, D, generator=rng)
    v = torch.randn(B, capacity, Hkv, Dv or D, generator=rng)
    if shift:  # the first column alone causes the shift: 16 · (shift · √D / 16) / √D
        q[..., 0], k[..., 0] = 16.0, shift * D**0.5 / 16
    window, pads = features.get("window"), features.get("cache_leftpad")
    left = window[0] if isinstance(window, tuple) else window
    for b, length in enumerate(lengths):
        first = 0 if pads is None else int(pads[b])
        first = first if left is None else max(first, length - Lq - left)
        for x in (k, v):
            x[b, :first] = x[b, length:] = math.nan
    arguments = (to(q.to(dtype)), to(k.to(dtype)), to(v.to(dtype)), to(torch.tensor(lengths).int()))
    features = {name: to(x) for name, x in features.items()}
    return Call(arguments, features, {"causal": causal, "scale": scale})
