"""Flash-Decoding: cut the keys into splits, attend to each on its own, merge by lse.

    1  split     rows [0, length) of the cache into S contiguous chunks
    2  partial   attention of the queries over each chunk: a normalised o and its lse
    3  combine   o = Σ exp(lse_s − lse) o_s,  lse = log Σ exp(lse_s)

The splits are independent, so each can go to a different worker: that is the parallelism
FlashAttention-2 lacks when there is only one query. The answer does not depend on S.

Source: Dao, Haziza, Massa, Sizov 2023, "Flash-Decoding for long-context inference" (PyTorch blog).
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from reference.arguments import check_features
from reference.attention import group_queries, safe_softmax
from reference.features import Features, row_keys, row_range, row_score
from reference.online_softmax import merge_states


def split_bounds(length: int, num_splits: int) -> list[tuple[int, int]]:
    """`num_splits` contiguous ranges `(start, stop)` that cover `[0, length)` exactly.

    Each holds ⌈length / num_splits⌉ keys, the last ones fewer or none (start == stop).
    Raises ValueError for a negative length or num_splits < 1.

    >>> split_bounds(10, 4)
    [(0, 3), (3, 6), (6, 9), (9, 10)]
    >>> split_bounds(2, 3)
    [(0, 1), (1, 2), (2, 2)]

    Two keys can't keep three workers busy: the last range is empty.
    """
    if length < 0 or num_splits < 1:
        raise ValueError(
            f"length must be at least 0 and num_splits at least 1; got {length} and {num_splits}"
        )
    chunk = -(-length // num_splits)
    return [(min(s * chunk, length), min((s + 1) * chunk, length)) for s in range(num_splits)]


def partial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    start: int,
    stop: int,
    length: int,
    causal: bool = True,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of one row's queries over keys `[start, stop)` alone.

    q: (Lq, Hq, D); k, v: (capacity, Hkv, D), one row of the cache; length: its valid keys.
    causal: query i is at position `i + length − Lq` and sees the keys up to there.
    Returns o (Lq, Hq, D), normalised over these keys, and lse (Lq, Hq), natural log, both fp32
    (fp64 for fp64 inputs). An empty range, or one that no query may see, gives (0, −inf).
    """
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    k, v = k[start:stop].to(wide), v[start:stop].to(wide)
    return attend_split(q, k, v, start=start, length=length, causal=causal, scale=scale)


def attend_split(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    start: int,
    length: int,
    causal: bool = True,
    scale: float | None = None,
    features: Features | None = None,
    b: int = 0,
) -> tuple[Tensor, Tensor]:
    """`partial_attention` once the split's keys have been fetched, with any features of row b.

    q: (Lq, Hq, D); k (n, Hkv, D), v (n, Hkv, Dv), fp32 or fp64: the keys from place `start`
    on, of a row of `length`. Returns o (Lq, Hq, Dv) and lse (Lq, Hq) in their dtype, no sinks.
    """
    if len(k) == 0:
        o = q.new_zeros(*q.shape[:2], v.shape[2], dtype=k.dtype)
        return o, q.new_full(q.shape[:2], -torch.inf, dtype=k.dtype)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    grouped = group_queries(q[None].to(k.dtype), k.shape[1])[0]  # (Lq, Hkv, G, D)
    scores = scale * torch.einsum("qhgd,khd->qhgk", grouped, k)
    place = torch.arange(start, start + len(k), device=q.device)
    features = Features() if features is None else features
    scores = scores.flatten(1, 2)  # (Lq, Hq, n)
    scores = row_score(features, scores, b, place, length, causal=causal)
    p, lse = safe_softmax(scores)
    p = p.unflatten(1, grouped.shape[1:3])
    return torch.einsum("qhgk,khd->qhgd", p, v).flatten(1, 2), lse


def flash_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_seqlens: Tensor | None = None,
    *,
    causal: bool = True,
    scale: float | None = None,
    num_splits: int | None = None,
    return_lse: bool = False,
    split_size: int | None = None,
    **features: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of the newest Lq tokens over a KV cache, its keys cut into `num_splits` splits.

    q: (B, Lq, Hq, D); k_cache: (B, capacity, Hkv, D), v_cache the same with Dv, the new tokens'
    k and v already in them; cache_seqlens: int (B,), valid keys of each row (None: the whole
    cache; 0 allowed). Keys beyond a row's length are never read. features: windows, pages,
    sinks, … as in `reference.features.Features`.
    num_splits: default 4. It affects the last bits, not the answer, unless scores are huge: a split
    rounds its lse, so at a score s the answer may move by |s| · 2^-23 of the range of the values
    (fp32): 1e-5 of it at 100, a tenth at 1e6. split_size: keys per split, instead of their number,
    counted from place 0 of the row. A row's bits then do not depend on how many splits the other
    rows get.
    Returns o in the dtype of q and, with return_lse, lse (B, Lq, Hq) (natural log, fp32 or
    fp64). Raises ValueError or TypeError for shapes, dtypes, lengths, features and splits that
    don't fit. Source: the Flash-Decoding post, steps 1–3.
    """
    features = Features(**features)
    lengths = check_features(q, k_cache, v_cache, cache_seqlens, features)
    rows = []
    for b, length in enumerate(lengths):
        bounds = split_row(*row_range(features, b, length, q.shape[1]), num_splits, split_size)
        partials = row_partials(q, k_cache, v_cache, b, length, bounds, causal, scale, features)
        o, lse = (torch.stack(x) for x in zip(*partials, strict=True))  # (S, Lq, Hq, D), (S, …)
        rows.append(merge_states(o, lse))
    o, lse = (torch.stack(x) for x in zip(*rows, strict=True))
    return (o.to(q.dtype), lse) if return_lse else o.to(q.dtype)


def row_partials(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    b: int,
    length: int,
    bounds: list[tuple[int, int]],
    causal: bool,
    scale: float | None,
    features: Features,
) -> list[tuple[Tensor, Tensor]]:
    """The partials of row b: one per split of `bounds`, of its keys alone, and one for the sinks.

    q and the caches as in `flash_decode`. Each is o (Lq, Hq, Dv) and lse (Lq, Hq), fp32 or fp64.
    """
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    partials = []
    for start, stop in bounds:
        k, v = row_keys(features, k_cache, v_cache, b, start, stop, wide)
        at = {"start": start, "length": length, "b": b}
        partials.append(
            attend_split(q[b], k, v, causal=causal, scale=scale, features=features, **at)
        )
    if features.sinks is not None:
        partials.append(sink_partial(features.sinks, *partials[0]))
    return partials


def split_row(
    start: int, stop: int, num_splits: int | None = None, split_size: int | None = None
) -> list[tuple[int, int]]:
    """Cut places `[start, stop)` into num_splits equal ranges (default 4), or at fixed places.

    With split_size, the cuts are at its multiples, wherever the range begins. Returns at least one
    range. Raises ValueError for counts below 1, or for both at once.

    >>> split_row(5, 20, num_splits=3), split_row(5, 20, split_size=8)
    ([(5, 10), (10, 15), (15, 20)], [(5, 8), (8, 16), (16, 20)])
    """
    if split_size is None:
        bounds = split_bounds(stop - start, 4 if num_splits is None else num_splits)
        return [(start + first, start + last) for first, last in bounds]
    if num_splits is not None:
        raise ValueError(f"give num_splits or split_size; got {num_splits} and {split_size}")
    if split_size < 1:
        raise ValueError(f"split_size must be at least 1; got {split_size}")
    cuts = [start, *range((start // split_size + 1) * split_size, stop, split_size), stop]
    return list(pairwise(cuts))


def sink_partial(sinks: Tensor, o: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """The sinks (Hq,) as one more partial, shaped like o (Lq, Hq, D) and lse (Lq, Hq).

    A key with score `sink` and value 0: it takes its share of the weight and contributes nothing.
    """
    return torch.zeros_like(o), sinks.to(lse.dtype).expand_as(lse)


def workspace_bytes(B: int, Lq: int, Hq: int, D: int, S: int) -> int:
    """Bytes that the partial results need: S fp32 rows of D numbers and one lse per query head.

    It does not depend on the context length.

    >>> workspace_bytes(B=1, Lq=1, Hq=32, D=128, S=64)
    1056768

    32 heads, 64 splits: 1.06 MB, next to a cache of hundreds of megabytes.
    """
    return 4 * S * B * Lq * Hq * (D + 1)
