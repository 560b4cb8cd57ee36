"""Cascade: many sequences that begin alike read their common beginning once.

A system prompt of Lp tokens begins all B rows. Decoded as one cache, its keys are read B times, by
tiles of 16 to 64 rows of which a single row of the batch fills only G·Lq. Kept separately, the
queries of all rows attend to it together, in full tiles:

    prefix   one cache row,          q seen as          ┌────────┐
             (1, Lp, Hkv, D)         (1, B·Lq, Hq, D) ─►│ decode │─► o, lse ─┐
                                                        ├────────┤           ├─► merge ─► o, lse
    suffix   the rows' own keys      q                ─►│ decode │─► o, lse ─┘
             (B, capacity, Hkv, D)   (B, Lq, Hq, D)     └────────┘

This requires that all queries see the same keys, and score them by the same rule. One exception
is separated out: in a causal call, or with a right window, a query of a row with fewer than Lq keys
of its own is inside the prefix and sees less of it. That concerns at most the last Lq - 1 keys,
which are attended to query by query, as a third partial result. ALiBi and a left window differ from
row to row over the whole prefix, which every row would then read on its own: they are refused.
`flash_decode` serves them with the prefix as pages that all rows share.

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

from kernels.checks import (
    check_last_contiguous,
    check_no_grad,
    check_same_device,
    check_tensor,
    has_values,
)
from kernels.flash_decoding import flash_decode
from kernels.flash_decoding.features import Features
from kernels.merge import merge_states


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
            `flash_decode`; a row's own place j is place Lp + j overall. The caches may be
            quantised (float8_e4m3fn: on NVIDIA GPUs from sm_89 on).
        causal, scale, return_lse: as in `flash_decode`.
        num_splits: for the rows' own keys; `kernels.heuristics` chooses for the prefix.
        features: as in `flash_decode`, but neither alibi_slopes nor a left window. Right window and
            softcap apply to the prefix as well, the sinks count once; the others concern only the
            own keys. With a mask every row needs at least Lq own keys; on a GPU this is not
            checked (it would make the host wait).

    Returns:
        o (B, Lq, Hq, Dv) in the dtype of q; with return_lse also lse (B, Lq, Hq), fp32, natural
        log. Nothing here waits for the device, and no cache is copied.

    Raises:
        TypeError, ValueError: as in `flash_decode`, and for a prefix that does not fit.
        ValueError: alibi_slopes or a left window; a mask where a row has fewer than Lq own keys;
            more than 65535 queries B·Lq.

    Source: the posts and papers above; what each feature means: `reference.features`.
    The twin, `reference.cascade`, also takes ALiBi and left windows.
    """
    given = Features(cache_seqlens=cache_seqlens, **features)
    options = {"causal": causal, "scale": scale, "num_splits": num_splits, "return_lse": True}
    own = flash_decode(q, k_cache, v_cache, cache_seqlens, **options, **features)
    _check_prefix(q, prefix_k, prefix_v, k_cache, v_cache)
    _check_features(q, k_cache, given)
    states = [own]  # includes the sinks: they count once
    if own[1].numel():
        states += _prefix_states(q, prefix_k, prefix_v, k_cache, given, causal, scale)
    o, lse = merge_states(*zip(*states, strict=True)) if len(states) > 1 else own
    return (o, lse) if return_lse else o


def _prefix_states(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    features: Features,
    causal: bool,
    scale: float | None,
) -> list[tuple[Tensor, Tensor]]:
    """Attention of all queries over the prefix, in up to two partial results."""
    Lq, Lp = q.shape[1], k.shape[0]  # len(k) would tie a graph to this length
    seam = Lp  # keys from here on may be hidden from some queries
    if causal or features.sides[1] is not None:
        seam = max(0, Lp - max(0, Lq - 1 - _fewest_keys(k_cache, features)))
    states = []
    if seam > 0:
        states.append(_together(q, k[:seam], v[:seam], features, scale))
    if seam < Lp:
        right = 0 if causal else features.sides[1]
        stop = Lp - seam + _positions(q, k_cache, features) + 1 + right
        states.append(_one_by_one(q, k[seam:], v[seam:], stop, features, scale))
    return states


def _together(
    q: Tensor, k: Tensor, v: Tensor, features: Features, scale: float | None
) -> tuple[Tensor, Tensor]:
    """All queries over keys (n, Hkv, D) that all of them see: one cache row for everyone."""
    (B, Lq, Hq, _), Dv = q.shape, v.shape[2]
    o, lse = flash_decode(
        q.flatten(0, 1)[None],
        k[None],
        v[None],
        causal=False,
        scale=scale,
        return_lse=True,
        softcap=features.softcap,
    )
    return o.view(B, Lq, Hq, Dv), lse.view(B, Lq, Hq)


def _one_by_one(
    q: Tensor, k: Tensor, v: Tensor, stop: Tensor, features: Features, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Every query over the first stop (B, Lq) of the keys (n, Hkv, D), as a row of its own."""
    (B, Lq, Hq, _), (n, _, Dv) = q.shape, v.shape
    o, lse = flash_decode(
        q.flatten(0, 1)[:, None],
        k.expand(B * Lq, *k.shape),
        v.expand(B * Lq, *v.shape),
        stop.clamp(0, n).flatten(),
        scale=scale,
        return_lse=True,
        softcap=features.softcap,
    )
    return o.view(B, Lq, Hq, Dv), lse.view(B, Lq, Hq)


def _fewest_keys(k_cache: Tensor, features: Features) -> int:
    """How many own keys every row has at least, as far as shapes tell."""
    return features.capacity(k_cache) if features.cache_seqlens is None else 0


def _positions(q: Tensor, k_cache: Tensor, features: Features) -> Tensor:
    """Where the queries are among their own keys: (B, Lq), int64; below 0: in the prefix."""
    B, Lq, capacity = *q.shape[:2], features.capacity(k_cache)
    new = torch.arange(-Lq, 0, device=q.device)
    if features.cache_seqlens is None:
        return (capacity + new).expand(B, Lq)
    return features.cache_seqlens.long().clamp(0, capacity)[:, None] + new


def _check_prefix(q: Tensor, prefix_k: Tensor, prefix_v: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x, cache in (("prefix_k", prefix_k, k), ("prefix_v", prefix_v, v)):
        check_tensor(name, x)
        if x.ndim != 3 or x.shape[1:] != cache.shape[2:]:
            raise ValueError(
                f"{name} must be (Lp, Hkv, D) = (…, {cache.shape[2]}, {cache.shape[3]}), as the "
                f"cache; got {tuple(x.shape)}"
            )
        if x.dtype != q.dtype:
            raise TypeError(f"{name} must have the dtype of q, {q.dtype}; got {x.dtype}")
        check_same_device(name, x, q.device, "q")
        check_last_contiguous(name, x)
        check_no_grad(name, x, "decoding has no backward")
    if prefix_k.shape[0] != prefix_v.shape[0]:
        raise ValueError(
            f"prefix_k and prefix_v must agree in Lp; got {len(prefix_k)} and {len(prefix_v)}"
        )


def _check_features(q: Tensor, k_cache: Tensor, features: Features) -> None:
    """Raise ValueError for features that no shared prefix has, or a mask of rows too short."""
    if features.alibi_slopes is not None or features.sides[0] is not None:
        name = "a left window" if features.alibi_slopes is None else "alibi_slopes"
        raise ValueError(
            f"cascade_decode must not get {name}: it treats each row's prefix differently, so "
            "nothing can be shared; call flash_decode on pages that all rows share"
        )
    B, Lq = q.shape[:2]
    if features.mask is None or B == 0:
        return
    fewest = _fewest_keys(k_cache, features)
    if features.cache_seqlens is not None:
        look = has_values(features.cache_seqlens)
        fewest = int(features.cache_seqlens.min()) if look else Lq
    if fewest < Lq:
        raise ValueError(f"a mask needs rows of at least Lq = {Lq} own keys; got {fewest}")
