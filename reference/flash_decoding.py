"""Flash-Decoding: cut the keys into splits, attend to each by itself, merge by lse.

    1  split     rows [0, length) of the cache into S contiguous chunks
    2  partial   attention of the queries over each chunk: a normalised o and its lse
    3  combine   o = Σ exp(lse_s − lse) o_s,  lse = log Σ exp(lse_s)

The splits don't know of each other, so each can be another worker's: that is the parallelism
FlashAttention-2 lacks when there is one query. The answer does not depend on S.

Source: Dao, Haziza, Massa, Sizov 2023, "Flash-Decoding for long-context inference" (PyTorch blog).
"""

import torch
from torch import Tensor

from reference.attention import (
    causal_mask,
    check_qkv,
    group_queries,
    row_lengths,
    safe_softmax,
)
from reference.online_softmax import merge_partials


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
        raise ValueError(f"length should be ≥ 0 and num_splits ≥ 1; got {length} and {num_splits}")
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
    causal: query i stands at position `i + length − Lq` and sees keys up to there.
    Returns o (Lq, Hq, D), normalised over these keys, and lse (Lq, Hq), natural log, both fp32
    (fp64 for fp64 inputs). An empty range, or one that no query may see, gives (0, −inf).
    """
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if start >= stop:
        o = torch.zeros(*q.shape[:2], v.shape[2], dtype=wide, device=q.device)
        return o, torch.full(q.shape[:2], -torch.inf, dtype=wide, device=q.device)
    k, v = k[start:stop].to(wide), v[start:stop].to(wide)
    grouped = group_queries(q[None].to(wide), k.shape[1])[0]  # (Lq, Hkv, G, D)
    scores = scale * torch.einsum("qhgd,khd->qhgk", grouped, k)
    if causal:
        visible = causal_mask(q.shape[0], length, q.device)[:, start:stop]  # (Lq, stop − start)
        scores = scores.masked_fill(~visible[:, None, None, :], -torch.inf)
    p, lse = safe_softmax(scores)
    return torch.einsum("qhgk,khd->qhgd", p, v).flatten(1, 2), lse.flatten(1, 2)


def combine(o_partial: Tensor, lse_partial: Tensor) -> tuple[Tensor, Tensor]:
    """Reduce the splits: o_partial (S, ..., D), lse_partial (S, ...) → o (..., D), lse (...).

    The same mathematics as `online_softmax.merge_partials`, under the name of its step here.
    """
    return merge_partials(o_partial, lse_partial)


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
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of the newest Lq tokens over a KV cache, the keys cut in `num_splits`.

    q: (B, Lq, Hq, D); k_cache, v_cache: (B, capacity, Hkv, D), holding the new tokens' k and v
    already; cache_seqlens: int (B,), valid keys of each row (None: the whole cache; 0 allowed).
    num_splits: default 4. Cells behind a row's length are never read.
    Returns o in the dtype of q and, with return_lse, lse (B, Lq, Hq) (natural log, fp32 or
    fp64). Raises ValueError or TypeError for shapes, dtypes, lengths and num_splits that don't
    fit. Source: the Flash-Decoding post, steps 1–3.
    """
    check_qkv(q, k_cache, v_cache)
    lengths = row_lengths(q, k_cache, cache_seqlens)
    num_splits = 4 if num_splits is None else num_splits
    rows = []
    for b, length in enumerate(lengths):
        partials = [
            partial_attention(
                q[b],
                k_cache[b],
                v_cache[b],
                start=start,
                stop=stop,
                length=length,
                causal=causal,
                scale=scale,
            )
            for start, stop in split_bounds(length, num_splits)
        ]
        o, lse = (
            torch.stack(x) for x in zip(*partials, strict=True)
        )  # (S, Lq, Hq, D), (S, Lq, Hq)
        rows.append(combine(o, lse))
    o, lse = (torch.stack(x) for x in zip(*rows, strict=True))
    return (o.to(q.dtype), lse) if return_lse else o.to(q.dtype)


def workspace_bytes(B: int, Lq: int, Hq: int, D: int, S: int) -> int:
    """Bytes that the partial results need: S fp32 rows of D numbers and one lse per query head.

    It does not depend on the context length.

    >>> workspace_bytes(B=1, Lq=1, Hq=32, D=128, S=64)
    1056768

    32 heads, 64 splits: 1.06 MB, beside a cache of hundreds of megabytes.
    """
    return 4 * S * B * Lq * Hq * (D + 1)
