"""Flash-Decoding on the threads of your own CPU: the same splits, in one call per row.

PyTorch has a FlashAttention for CPUs. It gives its threads one task per (batch, head, tile of
queries), so a decode step of one sequence and one KV head keeps only one core busy, and with
grouped queries every query head reads the whole cache again. Two views of the same memory fix
both, and nothing is copied:

    K, V  (length, Hkv, D) → (S, Hkv, chunk, D)   each split poses as a batch row of its own
    q     (Lq, Hq, D)      → (S, Hkv, Lq · G, D)  the G query heads of a KV head pose as queries

    keys    0 ········ chunk ········ 2·chunk ········ … ··· length
            └─ split 0 ─┘└── split 1 ──┘ …  one call     └ tail ┘  a second, small call

The call returns o and lse for every split; they are merged as by `merge_states`. The
tail is the keys that some query must not see (causal, Lq > 1) and those after the last full chunk.

Source: the Flash-Decoding post (Dao et al. 2023); PyTorch's
`aten::_scaled_dot_product_flash_attention_for_cpu`, which returns lse beside o.
"""

import math

import torch
from torch import Tensor

from reference.arguments import check_qkv, row_lengths
from reference.attention import causal_mask

CHUNK = 512
"""Keys per split; also the tile of keys that PyTorch's CPU kernel works on at a time."""


def choose_chunk(length: int, Hkv: int, threads: int) -> int:
    """Keys per split: CHUNK, or fewer if that would leave threads without a task.

    Aims at two tasks (split × KV head) per thread, but never fewer than 64 keys: below that,
    starting a task costs more than its reads. So do a second call and the merge where a cache of
    up to CHUNK keys has a head for every thread: it stays whole.

    >>> choose_chunk(32768, Hkv=8, threads=2), choose_chunk(4096, Hkv=1, threads=16)
    (512, 128)
    >>> choose_chunk(500, Hkv=3, threads=2)
    500
    """
    if 0 < length <= CHUNK and Hkv >= threads:
        return length
    return max(64, min(CHUNK, length * Hkv // (2 * threads)))


def fold_splits(cache: Tensor, b: int, start: int, splits: int, chunk: int) -> Tensor:
    """View row b of `cache (B, capacity, Hkv, D)` from key `start` on as `(splits, Hkv, chunk, D)`.

    One as_strided instead of four views, which take a tenth of the time at short contexts.
    """
    stride_b, stride_l, stride_h, stride_d = cache.stride()
    return cache.as_strided(
        (splits, cache.shape[2], chunk, cache.shape[3]),
        (chunk * stride_l, stride_h, stride_l, stride_d),
        cache.storage_offset() + b * stride_b + start * stride_l,
    )


def fold_queries(q: Tensor, b: int, Hkv: int) -> Tensor:
    """Row b of `q (B, Lq, Hq, D)` as `(1, Hkv, Lq · G, D)`; row r is query r // G, head r % G."""
    _, Lq, Hq, D = q.shape
    if Lq == 1:
        return q[b].view(1, Hkv, Hq // Hkv, D) if q.is_contiguous() else q[b].reshape(1, Hkv, -1, D)
    return q[b].unflatten(1, (Hkv, Hq // Hkv)).transpose(0, 1).reshape(1, Hkv, -1, D)


def unfold_queries(x: Tensor, Lq: int) -> Tensor:
    """Undo `fold_queries`: `(Hkv, Lq · G, ...)` back to `(Lq, Hq, ...)`."""
    if Lq == 1:
        return x.flatten(0, 1).unsqueeze(0)
    return x.unflatten(1, (Lq, x.shape[1] // Lq)).transpose(0, 1).flatten(1, 2)


def decode_row(
    q: Tensor,
    caches: tuple[Tensor, Tensor],
    b: int,
    length: int,
    chunk: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """One row of the batch: partials o (S, Hkv, rows, D) and lse (S, Hkv, rows), rows = Lq · G."""
    Lq, Hkv = q.shape[1], caches[0].shape[2]
    G = q.shape[2] // Hkv
    rows = fold_queries(q, b, Hkv)
    # PyTorch multiplies one half-precision row by a matrix several times more slowly than two rows;
    # so a lone row is passed twice (as a view), and the second answer is dropped.
    lone = rows.shape[2] == 1 and q.dtype in (torch.bfloat16, torch.float16)
    shown = rows.expand(1, Hkv, 2, -1) if lone else rows

    seen_by_all = max(length - Lq + 1, 0) if causal else length
    splits = seen_by_all // chunk
    partials = []
    if splits:
        k, v = (fold_splits(cache, b, 0, splits, chunk) for cache in caches)
        partials.append(_flash(shown.expand(splits, -1, -1, -1), k, v, None, scale))
    done = splits * chunk
    if done < length:
        k, v = (fold_splits(cache, b, done, 1, length - done) for cache in caches)
        visible = None
        if causal and Lq > 1:
            visible = causal_mask(Lq, length)[:, done:].repeat_interleave(G, 0)
        partials.append(_flash(shown, k, v, visible, scale))
    o, lse = partials[0] if len(partials) == 1 else map(torch.cat, zip(*partials, strict=True))
    return (o[:, :, :1], lse[:, :, :1]) if lone else (o, lse)


def _flash(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """PyTorch's CPU FlashAttention on (batch, heads, rows, D): o, and lse (natural log).

    visible: (rows, keys), bool, which keys a row sees; None: all of them. A row that sees none gets
    (0, -inf), as in every partial result. PyTorch says lse = 0.0 there, the weight of a key whose
    score is 0; and whether that is meant can't be told from the number.
    """
    mask = None
    if visible is not None:
        mask = torch.zeros(visible.shape, dtype=q.dtype).masked_fill_(~visible, -math.inf)
    o, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, False, attn_mask=mask, scale=scale
    )
    if visible is not None:
        blind = ~visible.any(1)
        o, lse = o.masked_fill_(blind[:, None], 0.0), lse.masked_fill_(blind, -math.inf)
    return o, lse


def flash_decode_threads(
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
    """`reference.flash_decoding.flash_decode`, run by all of PyTorch's CPU threads.

    Arguments, result and errors are the same, except: no features; CPU tensors only; K and V have
    one head dim; all are contiguous in their last dim. num_splits: chunks of ⌈length / num_splits⌉
    keys (default: about 512 keys each). Partials are kept in the dtype of q (PyTorch's kernel
    rounds them), so with bf16 each split adds one bf16 rounding; sums within a split are fp32.
    """
    check_qkv(q, k_cache, v_cache)
    _check_cpu(q, k_cache, v_cache, num_splits)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    rows = [
        _merged_row(q, (k_cache, v_cache), b, length, num_splits, causal, scale, return_lse)
        for b, length in enumerate(row_lengths(q, k_cache, cache_seqlens))
    ]
    if not return_lse:
        return rows[0][0][None] if len(rows) == 1 else torch.stack([o for o, _ in rows])
    o, lse = (torch.stack(x) for x in zip(*rows, strict=True))
    return o, lse


def _merged_row(
    q: Tensor,
    caches: tuple[Tensor, Tensor],
    b: int,
    length: int,
    num_splits: int | None,
    causal: bool,
    scale: float,
    return_lse: bool,
) -> tuple[Tensor, Tensor | None]:
    """Split, attend, merge one row of the batch: o (Lq, Hq, D) and, if wanted, lse (Lq, Hq)."""
    _, Lq, Hq, D = q.shape
    Hkv = caches[0].shape[2]
    if length == 0:
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        return q.new_zeros(Lq, Hq, D), torch.full((Lq, Hq), -math.inf, dtype=wide)
    if num_splits is None:
        chunk = choose_chunk(length, Hkv, torch.get_num_threads())
    else:
        chunk = math.ceil(length / num_splits)
    o_s, lse_s = decode_row(q, caches, b, length, chunk, causal, scale)
    if len(lse_s) == 1:  # nothing to merge
        merged = o_s[0]
    else:
        weights = torch.softmax(lse_s, 0)  # exp(lse_s − lse): they sum to 1 over the splits
        merged = (o_s * weights.unsqueeze(-1)).sum(0)
    o = unfold_queries(merged, Lq).to(q.dtype)
    lse = unfold_queries(torch.logsumexp(lse_s, 0), Lq) if return_lse else None
    if causal and Lq > length:  # queries before the first key
        o[: Lq - length] = 0.0
        if lse is not None:
            lse[: Lq - length] = -math.inf
    return o, lse


def _check_cpu(q: Tensor, k: Tensor, v: Tensor, num_splits: int | None) -> None:
    for name, x in (("q", q), ("k_cache", k), ("v_cache", v)):
        if x.device.type != "cpu":
            raise ValueError(
                f"{name} must be on the CPU; got {x.device}: use kernels.flash_decoding"
            )
        if x.stride(-1) != 1:
            raise ValueError(
                f"{name} must be contiguous in its last dimension; got strides {x.stride()}"
            )
    if v.shape[3] != k.shape[3]:
        raise ValueError(f"k and v must have one head dim; got {k.shape[3]} and {v.shape[3]}")
    if num_splits is not None and num_splits < 1:
        raise ValueError(f"num_splits must be at least 1; got {num_splits}")
