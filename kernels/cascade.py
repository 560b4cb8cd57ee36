"""Cascade: many sequences that begin alike read their common beginning once.

A system prompt of Lp tokens begins all B rows. Decoded as one cache, its keys are read B times, by
tiles of 16 to 64 rows of which a single row of the batch fills only G·Lq. Kept separately, the
queries of all rows attend to it together, in full tiles:

    prefix   one cache row,          q seen as          ┌────────┐
             (1, Lp, Hkv, D)         (1, B·Lq, Hq, D) ─►│ decode │─► o, lse ─┐
                                                        ├────────┤           ├─► merge ─► o, lse
    suffix   the rows' own keys      q                ─►│ decode │─► o, lse ─┘
             (B, capacity, Hkv, D)   (B, Lq, Hq, D)     └────────┘

This requires two things: all queries see the same keys, and score them by the same rule. Where a
feature breaks that, what differs is separated out first:

    causal, right window   in a row with fewer than Lq own keys, a query is inside the prefix and
                           sees less of it: this concerns at most the last Lq - 1 keys. They are
                           attended to query by query, as a third partial result.
    ALiBi                  -slope · (pos - j) = -slope · (pos - end) - slope · (end - j): the first
                           term is the same for all keys j. It shifts lse and leaves o unchanged.
    left window            hides a different part of the prefix from each row: query by query,
                           each over what it sees. One copy is stored, but read many times.

When it pays off: B rows read Lp·(B - 1) fewer keys and values. A tile holds at most 64 query rows,
so above 64 rows of B·Lq·G the prefix is read again, once per tile: ⌈B·Lq·G / 64⌉ times, not B. The
price is two or three launches, and o and lse of each partial; o is rounded to the dtype of q before
the merge, and once more by it. With a short prefix or few rows it does not pay off.

Sources: Ye et al. 2024, "Cascade Inference: Memory Bandwidth Efficient Shared Prefix Batch
Decoding" (FlashInfer); Juravsky et al. 2024, "Hydragen: High-Throughput LLM Inference with Shared
Prefixes", section 3 (attention decomposition, inter-sequence batching). `reference.cascade` is the
twin.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.flash_decoding import flash_decode
from kernels.flash_decoding.features import Features
from kernels.merge import merge_states
from kernels.runtime import INTERPRETED


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

    Args:
        q: (B, Lq, Hq, D), as in `kernels.flash_decoding.flash_decode`.
        prefix_k, prefix_v: (Lp, Hkv, D) and (Lp, Hkv, Dv), shared by all rows, in the dtype of q
            and on its device, contiguous in D; other strides may be anything. Lp may be 0.
        k_cache, v_cache, cache_seqlens: the rows' own keys, without the prefix, as in
            `flash_decode`; a row's own place j is place Lp + j in all. The caches may be quantised.
        causal, scale, return_lse: as in `flash_decode`.
        num_splits: for the rows' own keys; `kernels.heuristics` chooses for the prefix.
        features: as in `flash_decode`. Window, softcap and ALiBi apply to the prefix as well, the
            sinks count once; the others concern only the own keys. With a mask every row needs at
            least Lq own keys; on a GPU this is not checked (it would make the host wait).

    Returns:
        o (B, Lq, Hq, Dv) in the dtype of q; with return_lse also lse (B, Lq, Hq), fp32, natural
        log. Nothing here waits for the device, and no cache is copied.

    Raises:
        TypeError, ValueError: as in `flash_decode`, and for a prefix that does not fit.
        ValueError: a mask where a row has fewer than Lq own keys; non-causal ALiBi with several
            queries, unless rows are known to have Lq - 1 own keys (their shape says so, and
            cache_seqlens is None): a query may come before some keys of the prefix and after
            others, and its distances then have no common term; more than 65535 queries B·Lq, or
            B·Lq·Hq with ALiBi.

    Source: the posts and papers above; what each feature means: `reference.features`.
    """
    given = Features(cache_seqlens=cache_seqlens, **features)
    options = {"causal": causal, "scale": scale, "num_splits": num_splits, "return_lse": True}
    own = flash_decode(q, k_cache, v_cache, cache_seqlens, **options, **features)
    _check_prefix(q, prefix_k, prefix_v, k_cache, v_cache)
    _check_rows(q, len(prefix_k), k_cache, given, causal)
    states = [own]  # includes the sinks: they count once
    if own[1].numel():
        states += _prefix_states(q, prefix_k, prefix_v, k_cache, given, causal, scale)
    o, lse = merge_states(*zip(*states, strict=True)) if len(states) > 1 else own
    return (o, lse) if return_lse else o


def _prefix_states(
    q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, x: Features, causal: bool, scale: float | None
) -> list[tuple[Tensor, Tensor]]:
    """Attention of all queries over the prefix, in up to two partial results."""
    Lq, Lp = q.shape[1], len(k)
    left, right = x.sides
    seam = Lp  # keys from here on may be hidden from some queries
    if causal or right is not None or x.alibi_slopes is not None:
        seam = max(0, Lp - max(0, Lq - 1 - _fewest_keys(k_cache, x)))
    seam = seam if left is None else 0
    places = None
    if seam < Lp or x.alibi_slopes is not None:
        places = Lp + _positions(q, k_cache, x)
    states = []
    if seam > 0:
        states.append(_together(q, k[:seam], v[:seam], places, x, scale))
    if seam < Lp:
        states.append(_one_by_one(q, k[seam:], v[seam:], places - seam, x, causal, scale))
    return states


def _together(
    q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, x: Features, scale: float | None
) -> tuple[Tensor, Tensor]:
    """All queries over keys (n, Hkv, D) that all of them see: one cache row for everyone.

    position (B, Lq), used with ALiBi: where the queries are, place n - 1 or after it.
    """
    (B, Lq, Hq, _), (n, Hkv, Dv) = q.shape, v.shape
    options = {"scale": scale, "softcap": x.softcap, "causal": False, "return_lse": True}
    if x.alibi_slopes is None:
        o, lse = flash_decode(q.flatten(0, 1)[None], k[None], v[None], **options)
        return o.view(B, Lq, Hq, Dv), lse.view(B, Lq, Hq)
    # As heads of a single query, which is at the last key, no key comes after any of them. Heads
    # that share a KV head must be neighbours; q is copied for that.
    slopes = _slopes(q, x)

    def as_heads(y: Tensor) -> Tensor:  # (B, Lq, Hq, …) → (1, 1, Hkv·B·Lq·G, …)
        return y.unflatten(2, (Hkv, -1)).movedim(2, 0).flatten(0, 3)[None, None]

    def as_queries(y: Tensor) -> Tensor:  # and back
        return y[0, 0].unflatten(0, (Hkv, B, Lq, -1)).movedim(0, 2).flatten(2, 3)

    o, lse = flash_decode(
        as_heads(q), k[None], v[None], alibi_slopes=as_heads(slopes)[0, 0], **options
    )
    return as_queries(o), as_queries(lse) - slopes * (position - (n - 1))[..., None]


def _one_by_one(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor,
    x: Features,
    causal: bool,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    """Every query over those keys of (n, Hkv, D) that it sees, which are always contiguous.

    position (B, Lq): where the queries are, key 0 being at place 0. Each query is a row of its
    own: what it sees begins after the row's padding and ends with the row.
    """
    (B, Lq, Hq, _), (n, _, Dv) = q.shape, v.shape
    left, right = x.sides
    stop = torch.full_like(position, n)
    if causal or right is not None:
        stop = (position + 1 + (0 if causal else right)).clamp(0, n)
    start = None if left is None else (position - left).clamp(0, n).flatten()
    slopes = None if x.alibi_slopes is None else _slopes(q, x)
    o, lse = flash_decode(
        q.flatten(0, 1)[:, None],
        k.expand(B * Lq, *k.shape),
        v.expand(B * Lq, *v.shape),
        stop.flatten(),
        cache_leftpad=start,
        softcap=x.softcap,
        alibi_slopes=None if slopes is None else slopes.flatten(0, 1),
        scale=scale,
        return_lse=True,
    )
    o, lse = o.view(B, Lq, Hq, Dv), lse.view(B, Lq, Hq)
    if slopes is not None:  # the kernel counts from the last key that the query sees
        lse = lse - slopes * (position - (stop - 1))[..., None]
    return o, lse


def _fewest_keys(k_cache: Tensor, x: Features) -> int:
    """How many own keys every row has at least, as far as shapes tell."""
    return x.capacity(k_cache) if x.cache_seqlens is None else 0


def _positions(q: Tensor, k_cache: Tensor, x: Features) -> Tensor:
    """Where the queries are among their own keys: (B, Lq), int64; below 0: in the prefix."""
    B, Lq, capacity = *q.shape[:2], x.capacity(k_cache)
    new = torch.arange(-Lq, 0, device=q.device)
    if x.cache_seqlens is None:
        return (capacity + new).expand(B, Lq)
    return x.cache_seqlens.long().clamp(0, capacity)[:, None] + new


def _slopes(q: Tensor, x: Features) -> Tensor:
    """The ALiBi slope of every query row: (B, Lq, Hq)."""
    B, Lq, Hq, _ = q.shape
    return x.alibi_slopes.expand(B, Hq)[:, None].expand(B, Lq, Hq)


def _check_prefix(q: Tensor, prefix_k: Tensor, prefix_v: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x, cache in (("prefix_k", prefix_k, k), ("prefix_v", prefix_v, v)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor; got {type(x).__name__}")
        if x.ndim != 3 or x.shape[1:] != cache.shape[2:]:
            raise ValueError(
                f"{name} must be (Lp, Hkv, D) = (…, {cache.shape[2]}, {cache.shape[3]}), as the "
                f"cache; got {tuple(x.shape)}"
            )
        if x.dtype != q.dtype:
            raise TypeError(f"{name} must have the dtype of q, {q.dtype}; got {x.dtype}")
        if x.device != q.device:
            raise ValueError(f"{name} must be on the device of q, {q.device}; got {x.device}")
        if x.stride(2) != 1 and x.shape[2] > 1:
            raise ValueError(
                f"{name} must be contiguous in D, its last dimension; got strides {x.stride()}"
            )
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name} requires grad, but decoding has no backward")
    if len(prefix_k) != len(prefix_v):
        raise ValueError(
            f"prefix_k and prefix_v must agree in Lp; got {len(prefix_k)} and {len(prefix_v)}"
        )


def _check_rows(q: Tensor, Lp: int, k_cache: Tensor, x: Features, causal: bool) -> None:
    """Raise ValueError if too few own keys make an argument meaningless or impossible to serve."""
    B, Lq, fewest = *q.shape[:2], _fewest_keys(k_cache, x)
    if Lp and x.alibi_slopes is not None and not causal and fewest < Lq - 1:
        raise ValueError(
            f"ALiBi with several queries per row must be causal here, or cache_seqlens None with "
            f"at least Lq - 1 own keys; got Lq = {Lq} and causal=False"
        )
    if x.mask is None or B == 0:
        return
    if x.cache_seqlens is not None:
        look = INTERPRETED or q.device.type == "cpu"
        fewest = int(x.cache_seqlens.min()) if look else Lq
    if fewest < Lq:
        raise ValueError(f"a mask needs rows of at least Lq = {Lq} own keys; got {fewest}")
