"""Cascade: many sequences that begin alike read their common beginning once.

A system prompt begins every row, so every row has the same first keys. Decoded row by row, they
are read B times. Kept separately, they give one more partial: its queries are those of all rows
together, and each row merges it with the attention over its own keys.

    prefix  (Lp, Hkv, D)           B · Lq queries, one pass over Lp keys
    suffix  (B, capacity, …)       row b: its Lq queries over its own keys, in splits
    merge   by lse, the way splits are merged

Keys read: Lp + Σ length_b, instead of B · Lp + Σ length_b.

Source: Ye et al. 2024, "Cascade Inference" (FlashInfer blog); Juravsky et al. 2024, "Hydragen".
"""

from typing import Any

import torch
from torch import Tensor

from reference.arguments import check_features
from reference.attention import group_queries, safe_softmax
from reference.features import Features, positions, row_range, score
from reference.flash_decoding import row_partials, split_row
from reference.online_softmax import merge_states


def cascade_decode(
    q: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_seqlens: Tensor | None = None,
    *,
    causal: bool = True,
    scale: float | None = None,
    num_splits: int | None = None,
    return_lse: bool = False,
    **features: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of every row over the concatenation of the prefix and its own keys.

    q: (B, Lq, Hq, D); prefix_k: (Lp, Hkv, D), prefix_v: (Lp, Hkv, Dv), in q's dtype, shared by
    all rows; the caches, cache_seqlens (own keys, without the prefix), num_splits and features
    as in `reference.flash_decoding.flash_decode`: a row's own place j is place Lp + j overall.
    Returns o (B, Lq, Hq, Dv) in the dtype of q and, with return_lse, lse (B, Lq, Hq). Raises as
    flash_decode does, and also ValueError or TypeError for a prefix that doesn't fit, and
    ValueError for a mask if a row has fewer than Lq keys of its own.
    """
    features = Features(**features)
    lengths = check_features(q, k_cache, v_cache, cache_seqlens, features)
    _check_prefix(q, prefix_k, prefix_v, k_cache, v_cache)
    if features.mask is not None and min(lengths, default=0) < q.shape[1]:
        raise ValueError(f"a mask needs rows of at least Lq = {q.shape[1]} own keys; got {lengths}")
    o_shared, lse_shared = attend_prefix(q, prefix_k, prefix_v, lengths, causal, scale, features)
    rows = []
    for b, length in enumerate(lengths):
        bounds = split_row(*row_range(features, b, length, q.shape[1]), num_splits)
        own = row_partials(q, k_cache, v_cache, b, length, bounds, causal, scale, features)
        partials = [(o_shared[b], lse_shared[b]), *own]  # own includes the sinks: they count once
        o, lse = (torch.stack(x) for x in zip(*partials, strict=True))
        rows.append(merge_states(o, lse))
    o, lse = (torch.stack(x) for x in zip(*rows, strict=True))
    return (o.to(q.dtype), lse) if return_lse else o.to(q.dtype)


def attend_prefix(
    q: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    lengths: list[int],
    causal: bool,
    scale: float | None,
    features: Features,
) -> tuple[Tensor, Tensor]:
    """Attention of all rows over the shared keys, as if they were one row of B · Lq queries.

    lengths: how many keys of its own each row has, and so how far its queries are past the prefix.
    Returns o (B, Lq, Hq, Dv) and lse (B, Lq, Hq), fp32 or fp64, without sinks.
    """
    B, Lq, Hq, D = q.shape
    Lp, Hkv, Dv = prefix_v.shape
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    if Lp == 0:
        return q.new_zeros(B, Lq, Hq, Dv, dtype=wide), q.new_full(
            (B, Lq, Hq), -torch.inf, dtype=wide
        )
    scale = D**-0.5 if scale is None else scale
    grouped = group_queries(q.to(wide), Hkv).flatten(0, 1)  # (B · Lq, Hkv, G, D)
    scores = scale * torch.einsum("qhgd,khd->qhgk", grouped, prefix_k.to(wide)).flatten(1, 2)
    slopes = features.alibi_slopes
    if slopes is not None and slopes.ndim == 2:
        slopes = slopes.repeat_interleave(Lq, 0)  # (B · Lq, Hq)
    scores = score(
        scores,
        torch.cat([positions(Lp + length, Lq, q.device) for length in lengths]),
        torch.arange(Lp, device=q.device),
        causal=causal,
        window=features.window,
        softcap=features.softcap,
        slopes=slopes,
    )
    p, lse = safe_softmax(scores)
    o = torch.einsum("qhgk,khd->qhgd", p.unflatten(1, grouped.shape[1:3]), prefix_v.to(wide))
    return o.reshape(B, Lq, Hq, Dv), lse.view(B, Lq, Hq)


def _check_prefix(q: Tensor, prefix_k: Tensor, prefix_v: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x, cache in (("prefix_k", prefix_k, k), ("prefix_v", prefix_v, v)):
        if x.ndim != 3 or x.shape[1:] != cache.shape[2:]:
            raise ValueError(
                f"{name} must be (Lp, Hkv, D) = (…, {cache.shape[2]}, {cache.shape[3]}); "
                f"got {tuple(x.shape)}"
            )
        if x.dtype != q.dtype:
            raise TypeError(f"{name} must have the dtype of q, {q.dtype}; got {x.dtype}")
    if len(prefix_k) != len(prefix_v):
        raise ValueError(
            f"prefix_k and prefix_v must agree in Lp; got {len(prefix_k)} and {len(prefix_v)}"
        )
