"""The call that serving code already makes: flash-attn's `flash_attn_with_kvcache`.

Names, order, defaults and meaning of the arguments are those of flash-attn 2, so that code written
for it runs unchanged after one changed import:

    from flash_attn import flash_attn_with_kvcache             before
    from kernels.kvcache_api import flash_attn_with_kvcache    after

It only translates: `kernels.append.append_kv` and `kernels.flash_decoding.flash_decode`
do the work, one after the other, where flash-attn uses one kernel for both.

Source: Dao-AILab/flash-attention, `flash_attn/flash_attn_interface.py` (the signature) and
`csrc/flash_attn` (what it does).
"""

import torch
from torch import Tensor

from kernels.append import append_kv
from kernels.flash_decoding import flash_decode


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Append k and v to the cache in place, if given; then attend to all of it.

    Args:
        q: (B, Lq, Hq, D), fp16, bf16 or fp32.
        k_cache, v_cache: (rows, Lk, Hkv, D), or (num_pages, page_size, Hkv, D) with block_table.
        k, v: (B, Ln, Hkv, D), new tokens: written to places cache_seqlens[b] + i, then seen.
        rotary_cos, rotary_sin: (max_pos, R/2): k is rotated by the angle of its place; q too, by
            that of cache_seqlens + i if causal or with a window, else by that of cache_seqlens.
        cache_seqlens: (B,), int32 or int64, or an int for all rows: lengths *without* k. None: the
            whole cache, which leaves no room for k.
        cache_batch_idx: (B,): the cache row for each row of q. Not with block_table.
        cache_leftpad: (B,): places before it are padding. They count in cache_seqlens and in the
            angles, as in flash-attn.
        block_table: (B, max_pages): the pages of each row.
        softmax_scale: 1/√D if None. causal: aligned bottom-right.
        window_size: (left, right): how many keys a query sees on either side; -1: all.
        softcap: above 0, scores become softcap · tanh(score / softcap).
        rotary_interleaved: pairs are (0, 1), (2, 3) …; if False (0, R/2), (1, R/2 + 1) …
        alibi_slopes: (Hq,) or (B, Hq), fp32.
        num_splits: splits of the keys; 0: chosen for you. return_softmax_lse: return lse as well.

    Returns:
        o (B, Lq, Hq, Dv); with return_softmax_lse also lse in flash-attn's layout, (B, Hq, Lq),
        fp32, natural log.

    Raises:
        TypeError, ValueError: as in `append_kv` and `flash_decode`; k without v or without
            cache_seqlens; rotary tables without k.

    What differs: the lse of a query that sees no key is -inf (flash-attn 2: +inf; o is 0 in both).
    A page may have any size (there: a multiple of 256), R is even (there: a multiple of 16),
    padding and pages may be combined, lengths may be int64, tensors fp32, and the rotary tables
    need only as many positions as are used. On a GPU, tokens that do not fit in a row are dropped.
    """
    _check_together(k, v, rotary_cos, rotary_sin, cache_seqlens)
    q, k, v = (_contiguous(x) for x in (q, k, v))
    left, right = (side if side >= 0 else None for side in window_size)
    window = None if left is None and right is None else (left, right)
    lengths = _lengths(cache_seqlens, q, k_cache, block_table)
    where = {"cache_batch_idx": cache_batch_idx, "block_table": block_table}
    if k is not None:
        tables = {"rotary_cos": rotary_cos, "rotary_sin": rotary_sin, "q": q}
        rotate_at = "each" if causal or window is not None else "first"
        rotary = {**tables, "interleaved": rotary_interleaved, "rotate_at": rotate_at}
        q = append_kv(k_cache, v_cache, k, v, lengths, **rotary, **where)
        lengths = lengths + k.shape[1]
    softcap = softcap if softcap > 0 else None
    scores = {"window": window, "softcap": softcap, "alibi_slopes": alibi_slopes}
    splits = num_splits if num_splits > 0 else None
    options = {"causal": causal, "scale": softmax_scale, "num_splits": splits, "return_lse": True}
    features = {"cache_leftpad": cache_leftpad, **where, **scores}
    o, lse = flash_decode(q, k_cache, v_cache, lengths, **options, **features)
    return (o, lse.transpose(1, 2).contiguous()) if return_softmax_lse else o


def _check_together(
    k: Tensor | None,
    v: Tensor | None,
    rotary_cos: Tensor | None,
    rotary_sin: Tensor | None,
    cache_seqlens: int | Tensor | None,
) -> None:
    """Raise ValueError for an argument given without another that it needs."""
    if (k is None) != (v is None):
        raise ValueError("k and v must be given together; got only one of them")
    if k is None and (rotary_cos is not None or rotary_sin is not None):
        raise ValueError("rotary_cos and rotary_sin rotate new tokens: they need k and v")
    if k is not None and cache_seqlens is None:
        raise ValueError("k and v need cache_seqlens: the place where they go")


def _contiguous(x: Tensor | None) -> Tensor | None:
    """Copy x where its last dimension is strided, as flash-attn does for q, k and v."""
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


def _lengths(
    cache_seqlens: int | Tensor | None, q: Tensor, k_cache: Tensor, block_table: Tensor | None
) -> Tensor | None:
    """Return one length per row; None if every row fills its row of the cache."""
    if cache_seqlens is None and block_table is not None:
        cache_seqlens = block_table.shape[1] * k_cache.shape[1]
    if isinstance(cache_seqlens, int):
        return torch.full((q.shape[0],), cache_seqlens, dtype=torch.int32, device=q.device)
    return cache_seqlens
