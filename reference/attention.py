"""Naive attention: the definition, and the fp64 oracle that everything else is judged by.

`o = softmax(scale · q kᵀ) v`, one score for every (query, key) pair, all held in memory at once.
It is simple enough to trust, but needs `Lq × Lk` numbers per head, which the rest of the course
gets rid of.

Source: Vaswani et al. 2017, "Attention Is All You Need", equation 1; grouped queries: Ainslie
et al. 2023, "GQA".
"""

import math
from typing import Any

import torch
from torch import Tensor

from reference.arguments import check_features, check_qkv
from reference.features import Features, row_keys, row_range, row_score
from reference.quantization import LARGEST


def safe_softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the last dimension, safe from overflow, and its log-sum-exp.

    scores: (..., Lk), any float dtype; -inf marks a key that must not be seen.
    Returns `p (..., Lk)` and `lse (...)` (natural log). A row with nothing but -inf gives p = 0
    and lse = -inf; `torch.softmax` gives nan.

    >>> p, lse = safe_softmax(torch.tensor([0.0, 0.0]))
    >>> p, lse
    (tensor([0.5000, 0.5000]), tensor(0.6931))

    Two equal scores share the weight, and the denominator is 2, so lse = log 2.
    """
    m = scores.amax(-1, keepdim=True)
    safe_m = torch.where(m == -math.inf, torch.zeros_like(m), m)  # -inf − (-inf) would be nan
    p = torch.exp(scores - safe_m)
    total = p.sum(-1, keepdim=True)
    lse = (safe_m + total.log()).squeeze(-1)  # log 0 = -inf: an empty row is no special case
    return p / torch.where(total == 0, torch.ones_like(total), total), lse


def causal_mask(Lq: int, Lk: int, device: torch.device | None = None) -> Tensor:
    """Bottom-right aligned causal mask, `(Lq, Lk)` bool, True where a query may see a key.

    Query i is at position `i + Lk - Lq`: the last query is the newest token and sees every key.

    >>> causal_mask(2, 4).int()
    tensor([[1, 1, 1, 0],
            [1, 1, 1, 1]], dtype=torch.int32)

    Two new tokens after two cached ones: the first must not see the second; both see the cache.
    """
    position = torch.arange(Lq, device=device)[:, None] + (Lk - Lq)
    return torch.arange(Lk, device=device)[None, :] <= position


def group_queries(q: Tensor, Hkv: int) -> Tensor:
    """View `q (B, Lq, Hq, D)` as `(B, Lq, Hkv, G, D)`: the G query heads of each KV head together.

    Query head h reads KV head h // G. Nothing is copied, and no K or V is repeated.
    Raises ValueError unless Hq is a multiple of Hkv.
    """
    if q.shape[2] % Hkv:
        raise ValueError(f"Hq must be a multiple of Hkv; got Hq = {q.shape[2]} and Hkv = {Hkv}")
    return q.unflatten(2, (Hkv, q.shape[2] // Hkv))


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Naive attention, computed in the dtype of its inputs.

    q: (B, Lq, Hq, D); k: (B, Lk, Hkv, D); v: (B, Lk, Hkv, Dv), the same float dtype; Hq a
    multiple of Hkv. causal: bottom-right aligned. scale: default 1/√D.

    Returns `o (B, Lq, Hq, Dv)` in the dtype of q and, with return_lse, `lse (B, Lq, Hq)`
    (natural log; fp32, or fp64 for fp64 inputs). Rows without keys: o = 0, lse = -inf.
    Raises ValueError for shapes that don't fit, TypeError for dtypes.

    Source: Vaswani et al. 2017, equation 1.
    """
    check_qkv(q, k, v)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if k.shape[1] == 0:
        o, lse = q.new_zeros(*q.shape[:3], v.shape[3]), q.new_full(q.shape[:3], -math.inf)
    else:
        grouped = group_queries(q, k.shape[2])
        scores = scale * torch.einsum("bqhgd,bkhd->bhgqk", grouped, k)
        if causal:
            visible = causal_mask(q.shape[1], k.shape[1], q.device)
            scores = scores.masked_fill(~visible, -math.inf)
        p, lse = safe_softmax(scores)  # (B, Hkv, G, Lq, Lk), (B, Hkv, G, Lq)
        o = torch.einsum("bhgqk,bkhd->bqhgd", p, v).flatten(2, 3)
        lse = lse.flatten(1, 2).transpose(1, 2)
    lse = lse if lse.dtype == torch.float64 else lse.float()
    return (o, lse) if return_lse else o


def oracle(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """The truth to judge by: naive attention in fp64, not rounded back.

    Arguments as in `attention`. Returns `o (B, Lq, Hq, Dv)` and `lse (B, Lq, Hq)`, both fp64.
    """
    return attention(
        q.double(), k.double(), v.double(), causal=causal, scale=scale, return_lse=True
    )


def attention_with_cache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_seqlens: Tensor | None = None,
    *,
    causal: bool = True,
    scale: float | None = None,
    return_lse: bool = False,
    **features: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Naive attention over a KV cache, row by row: never reads past a row's length.

    q: (B, Lq, Hq, D), the newest Lq tokens; k_cache: (B, capacity, Hkv, D), v_cache the same
    with Dv; cache_seqlens: int (B,), valid keys of each row, including the new tokens' own (None:
    all). causal: bottom-right aligned to the row's length. features: windows, pages, sinks, …
    as in `reference.features.Features`; quantised caches are dequantised to q's dtype.
    Returns and raises what `attention` does (lse includes the sink), and also raises ValueError
    for a length outside the cache, ValueError or TypeError for features that don't fit.
    """
    features = Features(**features)
    lengths = check_features(q, k_cache, v_cache, cache_seqlens, features)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    rows = []
    for b, length in enumerate(lengths):
        start, stop = row_range(features, b, length, q.shape[1])
        k, v = row_keys(features, k_cache, v_cache, b, start, stop, q.dtype)
        if features.none:
            row = attention(
                q[b][None], k[None], v[None], causal=causal, scale=scale, return_lse=True
            )
            rows.append((row[0][0], row[1][0]))
        else:
            rows.append(attend_row(q[b], k, v, features, b, start, length, causal, scale))
    o, lse = (torch.stack(parts) for parts in zip(*rows, strict=True))
    return (o, lse) if return_lse else o


def attend_row(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    features: Features,
    b: int,
    start: int,
    length: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention of row b with all features, its scores computed all at once.

    q: (Lq, Hq, D); k (n, Hkv, D), v (n, Hkv, Dv): the keys from place `start` to the row's
    length. Returns o (Lq, Hq, Dv) in the dtype of q and lse (Lq, Hq), fp32 or fp64.
    """
    grouped = group_queries(q[None], k.shape[1])[0]  # (Lq, Hkv, G, D)
    scores = scale * torch.einsum("qhgd,khd->qhgk", grouped, k).flatten(1, 2)
    place = torch.arange(start, length, device=q.device)
    scores = row_score(features, scores, b, place, length, causal=causal)  # (Lq, Hq, n)
    sinks = q.new_full(q.shape[1:2], -math.inf) if features.sinks is None else features.sinks
    column = sinks.to(q.dtype).expand(q.shape[:2])[..., None]  # a score like any other, but …
    p, lse = safe_softmax(torch.cat([scores, column], -1))
    p = p[..., :-1].unflatten(1, grouped.shape[1:3])  # … it has no value to weight
    o = torch.einsum("qhgk,khd->qhgd", p, v).flatten(1, 2)
    return o, lse if lse.dtype == torch.float64 else lse.float()


def oracle_with_cache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_seqlens: Tensor | None = None,
    *,
    causal: bool = True,
    scale: float | None = None,
    **features: Any,
) -> tuple[Tensor, Tensor]:
    """`attention_with_cache` in fp64, not rounded back: `(o, lse)`, the truth for decoding.

    Quantised caches are multiplied by their scales in fp64.
    """
    wide = [x if x.dtype in LARGEST else x.double() for x in (k_cache, v_cache)]
    return attention_with_cache(
        q.double(), *wide, cache_seqlens, causal=causal, scale=scale, return_lse=True, **features
    )
