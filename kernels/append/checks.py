"""What `kernels.append` accepts, and the errors it raises for anything else.

`check_tokens` checks shapes, dtypes and devices; `check_values` checks values, only on the CPU: on
a GPU that would make the host wait.
"""

import torch
from torch import Tensor

from kernels.append.append_kernel import Tokens
from kernels.checks import (
    DTYPES,
    QUANTISED,
    check_device,
    check_eight_bits,
    check_last_contiguous,
    check_no_grad,
    check_pages,
    check_rows,
    check_scale,
    check_tensor,
    has_values,
    per_token,
)

NO_BACKWARD = "appending has no backward"


def check_tokens(x: Tokens) -> None:
    """Raise TypeError or ValueError unless the tensors fit together as `append_kv` requires."""
    for name in ("k_cache", "v_cache", "k", "v") + (() if x.q is None else ("q",)):
        _check_rows(name, getattr(x, name))
    B, Ln, Hkv, D = x.k.shape
    _check_equal("v", x.v, (B, Ln, Hkv, x.v.shape[3]), "(B, Ln, Hkv, Dv), as k")
    rows, length = x.k_cache.shape[:2]
    _check_equal("k_cache", x.k_cache, (rows, length, Hkv, D), "(…, …, Hkv, D), as k")
    _check_equal(
        "v_cache", x.v_cache, (rows, length, Hkv, x.v.shape[3]), "as k_cache, with the Dv of v"
    )
    _check_dtypes(x)
    for name in ("cache_seqlens", "cache_batch_idx"):
        check_rows(name, getattr(x, name), B)
    _check_cache(x)
    Hq = 0 if x.q is None else x.q.shape[2]
    if max(B, Hq + Hkv) > 65535:
        raise ValueError(
            f"B and Hq + Hkv must be at most 65535, the limit of a grid; got {B}, {Hq + Hkv}"
        )
    if x.q is not None:
        _check_equal("q", x.q, (B, *x.q.shape[1:3], D), "(B, Lq, Hq, D), with B and D of k")
    _check_rotary(x)
    check_scale("k_scale", x.k_scale, x.k_cache, B)
    check_scale("v_scale", x.v_scale, x.v_cache, B)
    if per_token(x.k_scale) != per_token(x.v_scale):
        raise ValueError(
            "k_scale and v_scale must both hold a scale per token, or neither; got "
            f"{_shape(x.k_scale)} and {_shape(x.v_scale)}"
        )
    _check_devices(x)


def check_rotate_at(rotate_at: str) -> None:
    """Raise ValueError unless it is one of the two words."""
    if rotate_at not in ("each", "first"):
        raise ValueError(f'rotate_at must be "each" or "first"; got {rotate_at!r}')


def check_values(x: Tokens, each: bool) -> None:
    """On the CPU, raise ValueError for a place that does not exist, or a number with no place."""
    if not has_values(x.k) or x.k.shape[0] == 0:
        return
    _check_numbers("k", x.k, x.k_scale, x.k_cache)
    _check_numbers("v", x.v, x.v_scale, x.v_cache)
    B, Ln = x.k.shape[:2]
    page = x.k_cache.shape[1]
    capacity = page if x.block_table is None else x.block_table.shape[1] * page
    starts = [0] * B if x.cache_seqlens is None else x.cache_seqlens.tolist()
    if min(starts) < 0 or max(starts) + Ln > capacity:
        raise ValueError(
            f"a row has room for {capacity} tokens; cache_seqlens = {starts} and {Ln} new ones do "
            "not fit. Nothing was written"
        )
    if x.cache_batch_idx is not None:
        _check_range("cache_batch_idx", x.cache_batch_idx, x.k_cache.shape[0], "a row of the cache")
    if x.block_table is not None and Ln:
        for b, start in enumerate(starts):
            live = x.block_table[b, start // page : -(-(start + Ln) // page)]
            _check_range(f"block_table of row {b}", live, x.k_cache.shape[0], "a page")
    if x.rotary_cos is not None:
        Lq = 0 if x.q is None else x.q.shape[1]
        last = max(starts) + max(Ln, Lq if each else min(Lq, 1)) - 1
        if last >= x.rotary_cos.shape[0]:
            raise ValueError(
                f"rotary_cos and rotary_sin must have at least {last + 1} positions; got "
                f"{x.rotary_cos.shape[0]}. Nothing was written"
            )


def _shape(x: Tensor | None) -> tuple[int, ...] | None:
    return None if x is None else tuple(x.shape)


def _check_rows(name: str, x: Tensor) -> None:
    """Check one of the four-dimensional tensors on its own."""
    check_tensor(name, x)
    if x.ndim != 4 or 0 in x.shape[2:]:
        raise ValueError(
            f"{name} must have four dimensions, (…, length, heads, head dim), with heads and head "
            f"dim at least 1; got {_shape(x)}"
        )
    check_last_contiguous(name, x)
    check_no_grad(name, x, NO_BACKWARD)


def _check_equal(name: str, x: Tensor, wanted: tuple[int, ...], what: str) -> None:
    if x.shape != wanted:
        raise ValueError(f"{name} must be {what}: {wanted}; got {_shape(x)}")


def _check_dtypes(x: Tokens) -> None:
    if x.k.dtype not in DTYPES or x.v.dtype != x.k.dtype:
        raise TypeError(
            f"k and v must both be float32, float16 or bfloat16; got {x.k.dtype}, {x.v.dtype}"
        )
    if x.q is not None and x.q.dtype != x.k.dtype:
        raise TypeError(f"q must have the dtype of k, {x.k.dtype}; got {x.q.dtype}")
    if x.k_cache.dtype != x.v_cache.dtype or x.k_cache.dtype not in (x.k.dtype, *QUANTISED):
        raise TypeError(
            f"k_cache and v_cache must both be {x.k.dtype}, as k, or an eight-bit dtype; got "
            f"{x.k_cache.dtype}, {x.v_cache.dtype}"
        )
    check_eight_bits(x.k_cache)


def _check_cache(x: Tokens) -> None:
    """Check how the rows of the batch are found in the cache."""
    B = x.k.shape[0]
    if x.block_table is None:
        if x.cache_batch_idx is None and x.k_cache.shape[0] != B:
            raise ValueError(
                f"k_cache must have the batch of k, {B}, unless cache_batch_idx or block_table is "
                f"given; got {_shape(x.k_cache)}"
            )
        return
    check_pages(x.block_table, B, x.k_cache, x.cache_batch_idx)


def _check_rotary(x: Tokens) -> None:
    cos, sin = x.rotary_cos, x.rotary_sin
    if cos is None and sin is None:
        return
    for name, table in (("rotary_cos", cos), ("rotary_sin", sin)):
        check_tensor(name, table)
        if table.dtype not in DTYPES:
            raise TypeError(f"{name} must be float32, float16 or bfloat16; got {table.dtype}")
    D = x.k.shape[3]
    if cos.ndim != 2 or cos.shape != sin.shape or not 1 <= cos.shape[1] <= D // 2:
        raise ValueError(
            f"rotary_cos and rotary_sin must both be (max_pos, R/2) with 2 ≤ R ≤ D = {D}; got "
            f"{_shape(cos)} and {_shape(sin)}"
        )
    check_last_contiguous("rotary_cos", cos)
    check_last_contiguous("rotary_sin", sin)


def _check_numbers(name: str, x: Tensor, scale: Tensor | None, cache: Tensor) -> None:
    """Raise ValueError where a given scale loses everything, or int8 with it what is not finite."""
    if scale is None or per_token(scale):
        return
    if not (scale.isfinite() & (scale != 0)).all():
        raise ValueError(f"{name}_scale must be finite and not 0; got {scale.tolist()}")
    lost = x.numel() - int(x.isfinite().sum())
    if cache.dtype == torch.int8 and lost:
        raise ValueError(
            f"{name} must be finite: int8 has no NaN or inf, nor can a scale that tokens share "
            f"hold one; got {lost} of {x.numel()} numbers that are not. Nothing was written"
        )


def _check_range(name: str, values: Tensor, limit: int, what: str) -> None:
    low, high = values.min().item(), values.max().item()
    if low < 0 or high >= limit:
        raise ValueError(
            f"{name} must name {what}, from 0 to {limit - 1}; got {low} to {high}. Nothing was "
            "written"
        )


def _check_devices(x: Tokens) -> None:
    """Check that all are on one device, on which the kernels of this process can run."""
    devices = {str(tensor.device) for tensor in x if tensor is not None}
    if len(devices) > 1:
        raise ValueError(f"all tensors must be on one device; got {sorted(devices)}")
    check_device(x.k.device)
