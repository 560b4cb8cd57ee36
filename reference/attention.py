"""Naive attention: the definition, and the fp64 oracle everything else is judged by.

`o = softmax(scale · q kᵀ) v`, one score for every (query, key) pair, held in memory at once.
Simple enough to be believed; it needs `Lq × Lk` numbers per head, which is what the rest of
the course removes.

Source: Vaswani et al. 2017, "Attention Is All You Need", equation 1; grouped queries: Ainslie
et al. 2023, "GQA".
"""

import math

import torch
from torch import Tensor


def check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError or TypeError unless q, k, v fit together (shapes as in `attention`)."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(
                f"{name} should be (B, L, H, D), four dimensions; got {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise TypeError(f"{name} should be floating point; got {x.dtype}")
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"k and v should agree in (B, Lk, Hkv); got k {tuple(k.shape)}, v {tuple(v.shape)}"
        )
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"q and k should agree in B and D; got q {tuple(q.shape)}, k {tuple(k.shape)}"
        )
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise ValueError(
            f"Hq should be a multiple of Hkv; got Hq = {q.shape[2]}, Hkv = {k.shape[2]}"
        )
    if not (q.dtype == k.dtype == v.dtype):
        raise TypeError(f"q, k, v should share one dtype; got {q.dtype}, {k.dtype}, {v.dtype}")


def safe_softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the last dimension that cannot overflow, and its log-sum-exp.

    scores: (..., Lk), any float dtype; -inf marks a key that may not be seen.
    Returns `p (..., Lk)` and `lse (...)` (natural log). A row of -inf only gives p = 0,
    lse = -inf, where `torch.softmax` gives nan.

    >>> p, lse = safe_softmax(torch.tensor([0.0, 0.0]))
    >>> p, lse
    (tensor([0.5000, 0.5000]), tensor(0.6931))

    Two equal scores share the weight, and the denominator is 2, so lse = log 2.
    """
    m = scores.amax(-1, keepdim=True)
    safe_m = torch.where(m == -math.inf, torch.zeros_like(m), m)  # -inf − (-inf) would be nan
    p = torch.exp(scores - safe_m)
    total = p.sum(-1, keepdim=True)
    lse = (safe_m + total.log()).squeeze(-1)  # log 0 = -inf: an empty row says so by itself
    return p / torch.where(total == 0, torch.ones_like(total), total), lse


def causal_mask(Lq: int, Lk: int, device: torch.device | None = None) -> Tensor:
    """Bottom-right aligned causal mask, `(Lq, Lk)` bool, True where a query may see a key.

    Query i stands at position `i + Lk - Lq`: the last query is the newest token and sees all.

    >>> causal_mask(2, 4).int()
    tensor([[1, 1, 1, 0],
            [1, 1, 1, 1]], dtype=torch.int32)

    Two new tokens after two cached ones: the first may not see the second, both see the cache.
    """
    position = torch.arange(Lq, device=device)[:, None] + (Lk - Lq)
    return torch.arange(Lk, device=device)[None, :] <= position


def group_queries(q: Tensor, Hkv: int) -> Tensor:
    """View `q (B, Lq, Hq, D)` as `(B, Lq, Hkv, G, D)`: the G query heads of each KV head together.

    Query head h reads KV head h // G. Nothing is copied, and no K or V is repeated.
    Raises ValueError unless Hq is a multiple of Hkv.
    """
    if q.shape[2] % Hkv:
        raise ValueError(f"Hq should be a multiple of Hkv; got Hq = {q.shape[2]}, Hkv = {Hkv}")
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


def row_lengths(q: Tensor, k_cache: Tensor, cache_seqlens: Tensor | None) -> list[int]:
    """The number of valid keys of each row as Python ints, checked.

    cache_seqlens: integer (B,), or None when the whole cache is valid. Raises ValueError for a
    wrong shape and for lengths below 0 or beyond the cache, TypeError for a non-integer dtype.
    """
    B, capacity = k_cache.shape[:2]
    if cache_seqlens is None:
        return [capacity] * B
    if cache_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cache_seqlens should be int32 or int64; got {cache_seqlens.dtype}")
    if cache_seqlens.shape != (B,):
        raise ValueError(f"cache_seqlens should be (B,) = ({B},); got {tuple(cache_seqlens.shape)}")
    lengths = cache_seqlens.tolist()
    if any(not 0 <= n <= capacity for n in lengths):
        raise ValueError(
            f"cache_seqlens should lie in 0…{capacity} (the cache's length); got {lengths}"
        )
    return lengths


def attention_with_cache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_seqlens: Tensor | None = None,
    *,
    causal: bool = True,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Naive attention over a KV cache, row by row: never reads behind a row's length.

    q: (B, Lq, Hq, D), the newest Lq tokens; k_cache, v_cache: (B, capacity, Hkv, D);
    cache_seqlens: int (B,), valid keys of each row, the new tokens' own included (None: all).
    causal: bottom-right aligned to the row's length. Returns and raises as `attention`, and
    ValueError for a length outside the cache.
    """
    check_qkv(q, k_cache, v_cache)
    lengths = row_lengths(q, k_cache, cache_seqlens)
    rows = [
        attention(
            q[b : b + 1],
            k_cache[b : b + 1, :n],
            v_cache[b : b + 1, :n],
            causal=causal,
            scale=scale,
            return_lse=True,
        )
        for b, n in enumerate(lengths)
    ]
    o, lse = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return (o, lse) if return_lse else o


def oracle_with_cache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_seqlens: Tensor | None = None,
    *,
    causal: bool = True,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`attention_with_cache` in fp64, not rounded back: `(o, lse)`, the truth for decoding."""
    return attention_with_cache(
        q.double(),
        k_cache.double(),
        v_cache.double(),
        cache_seqlens,
        causal=causal,
        scale=scale,
        return_lse=True,
    )
