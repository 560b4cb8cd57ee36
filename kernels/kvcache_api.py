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

from typing import Any

import torch
from torch import Tensor

from kernels.append import append_kv
from kernels.checks import MAX_SCALE, check_int
from kernels.flash_decoding import flash_decode

_NUMBERS = (int, float, torch.SymInt, torch.SymFloat)


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
        cache_seqlens: (B,), int32 or int64, or one number for all rows: lengths *without* k. None:
            the whole cache, which leaves no room for k.
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

    A number may also be a numpy scalar or a 0-d tensor; reading one from a GPU makes the host wait
    (not cache_seqlens, which stays there). A tensor that is strided in its last dimension is
    copied, except the caches, which are written in place, and the rotary tables, which are large.

    Returns:
        o (B, Lq, Hq, Dv); with return_softmax_lse also lse in flash-attn's layout, (B, Hq, Lq),
        fp32, natural log.

    Raises:
        TypeError, ValueError: as in `append_kv` and `flash_decode`, float8_e4m3fn on an NVIDIA GPU
            before sm_89 among them; k without v or without cache_seqlens; rotary tables without k;
            a number that is none.

    What differs. The lse of a query that sees no key is -inf (flash-attn 2: +inf; o is 0 in both).
    With ALiBi, causal and no left window, flash-attn adds slope · j to the score of key j in place
    of -slope · (p - j), p being the query's place: o is the same, its lse larger by slope · p. An
    input that requires grad is refused while grad is enabled (there: o without a gradient). A page
    may have any size (there: a multiple of 256), R is even (there: a multiple of 16), padding and
    pages may be combined, lengths and indices may be int64, tensors fp32, and the rotary tables
    need only as many positions as are used, in any of the three dtypes. Strided cache_seqlens,
    cache_leftpad and alibi_slopes are copied (there: refused). On a GPU, tokens that do not fit in
    a row are dropped.
    """
    _check_together(k, v, rotary_cos, rotary_sin, cache_seqlens)
    q, k, v, cache_batch_idx, cache_leftpad, block_table, alibi_slopes = (
        _contiguous(x) for x in (q, k, v, cache_batch_idx, cache_leftpad, block_table, alibi_slopes)
    )
    causal, interleaved, return_lse = _flags(causal, rotary_interleaved, return_softmax_lse)
    window, splits = _window(window_size), _whole("num_splits", num_splits)
    scale, softcap = _scale(softmax_scale), _real("softcap", softcap)
    lengths = _lengths(cache_seqlens, q, k_cache, block_table)
    where = {"cache_batch_idx": cache_batch_idx, "block_table": block_table}
    if k is not None:
        rotary = {"rotary_cos": rotary_cos, "rotary_sin": rotary_sin, "interleaved": interleaved}
        rotate_at = "each" if causal or window is not None else "first"
        q = append_kv(k_cache, v_cache, k, v, lengths, q=q, rotate_at=rotate_at, **rotary, **where)
        lengths = lengths + k.shape[1]
    options = {"causal": causal, "scale": scale, "num_splits": splits if splits > 0 else None}
    scores = {"softcap": softcap if softcap > 0 else None, "alibi_slopes": alibi_slopes}
    features = {"cache_leftpad": cache_leftpad, "window": window, **where, **scores}
    o, lse = flash_decode(q, k_cache, v_cache, lengths, return_lse=True, **options, **features)
    return (o, lse.transpose(1, 2).contiguous()) if return_lse else o


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


def _contiguous(x: Any) -> Any:
    """Copy a tensor whose last dimension is strided; anything else is left to be checked."""
    strided = isinstance(x, Tensor) and x.layout == torch.strided and x.ndim and x.stride(-1) != 1
    return x.contiguous() if strided else x


def _lengths(
    cache_seqlens: int | Tensor | None, q: Tensor, k_cache: Tensor, block_table: Tensor | None
) -> Tensor | None:
    """Return one length per row; None if every row fills its row of the cache."""
    if cache_seqlens is None:
        if block_table is None:
            return None
        cache_seqlens = block_table.shape[1] * k_cache.shape[1]
    if isinstance(cache_seqlens, Tensor):
        if cache_seqlens.ndim == 0:  # without reading it
            cache_seqlens = cache_seqlens.to(q.device).expand(q.shape[0])
        return _contiguous(cache_seqlens)
    length = _whole("cache_seqlens", cache_seqlens, " or a tensor (B,)")
    check_int("cache_seqlens", length, 0)
    return torch.full((q.shape[0],), length, dtype=torch.int32, device=q.device)


def _plain(x: Any) -> Any:
    """Return a numpy scalar or a 0-d tensor as a Python number, and anything else as it is."""
    if isinstance(x, _NUMBERS):  # asked first: torch.compile can't look for the shape of a symbol
        return x
    return x.item() if getattr(x, "shape", None) == () else x


def _whole(name: str, x: Any, otherwise: str = "") -> int:
    """Return x as an int. Raises TypeError if it is not one: 3.0 is not, nor is True."""
    number = _plain(x)
    if isinstance(number, bool) or not isinstance(number, int | torch.SymInt):
        raise TypeError(f"{name} must be an int{otherwise}; got {x!r}")
    return number


def _scale(x: Any) -> float | None:
    """Return softmax_scale as a float; None stays None. Raises as `_real` does."""
    return None if x is None else _real("softmax_scale", x)


def _real(name: str, x: Any) -> float:
    """Return x as a float. Raises TypeError if it is no number, ValueError if fp32 can't hold it.

    Checked here, where the argument's name is still the caller's.
    """
    number = _plain(x)
    if isinstance(number, bool) or not isinstance(number, int | float | torch.SymFloat):
        raise TypeError(f"{name} must be a number; got {x!r}")
    if not abs(number) < MAX_SCALE:  # also catches NaN
        raise ValueError(f"{name} must be finite in fp32; got {x!r:.30}")
    return float(number)


def _flags(causal: Any, rotary_interleaved: Any, return_softmax_lse: Any) -> tuple[bool, ...]:
    """Return all three as bools. Raises as `_flag` does."""
    given = {
        "causal": causal,
        "rotary_interleaved": rotary_interleaved,
        "return_softmax_lse": return_softmax_lse,
    }
    return tuple(_flag(name, x) for name, x in given.items())


def _flag(name: str, x: Any) -> bool:
    """Return x as a bool. Raises TypeError unless it is True or False, or 1 or 0 as in C++."""
    flag = _plain(x)
    if not isinstance(flag, int) or flag not in (0, 1):
        raise TypeError(f"{name} must be True or False; got {x!r}")
    return bool(flag)


def _window(window_size: tuple[int, int]) -> tuple[int | None, int | None] | None:
    """Return flash-attn's window as ours, where None is no bound; None if there is none at all."""
    if not isinstance(window_size, tuple | list) or len(window_size) != 2:
        raise TypeError(f"window_size must be two ints, (left, right); got {window_size!r}")
    sides = [_whole("window_size", side, "s, (left, right), -1: no bound") for side in window_size]
    for side in sides:
        check_int("window_size", side, -(2**31))
    left, right = (side if side >= 0 else None for side in sides)
    return None if left is None and right is None else (left, right)
