"""What the functions of this package accept, and the errors they raise for anything else.

Every error states what was wanted and what was given. The checks read values freely: this
package is for the CPU, where that costs nothing.
"""

import math

import torch
from torch import Tensor

from reference.features import Features, row_range
from reference.quantization import LARGEST


def check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError or TypeError unless q, k, v fit together.

    q: (B, Lq, Hq, D); k: (B, Lk, Hkv, D); v: (B, Lk, Hkv, Dv); one float dtype.
    """
    _check_shapes(q, k, v, same_rows=True)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not x.is_floating_point():
            raise TypeError(f"{name} must be floating point; got {x.dtype}")
    if not (q.dtype == k.dtype == v.dtype):
        raise TypeError(f"q, k and v must have one dtype; got {q.dtype}, {k.dtype} and {v.dtype}")


def row_lengths(
    q: Tensor, k_cache: Tensor, cache_seqlens: Tensor | None, capacity: int | None = None
) -> list[int]:
    """The number of valid keys in each row of q, checked, as Python ints.

    cache_seqlens: integer (B,), or None when the whole cache is valid. capacity: how many keys a
    row has room for, default k_cache.shape[1]. Raises ValueError for a wrong shape and for lengths
    below 0 or above the capacity, TypeError for a non-integer dtype.
    """
    capacity = k_cache.shape[1] if capacity is None else capacity
    if cache_seqlens is None:
        return [capacity] * q.shape[0]
    return _row_integers("cache_seqlens", cache_seqlens, q.shape[0], capacity, "the cache's length")


def check_features(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, cache_seqlens: Tensor | None, features: Features
) -> list[int]:
    """Return the length of each row of q, after checking caches, lengths and features together.

    Shapes as in `reference.features.Features`. Raises ValueError for shapes and values,
    TypeError for dtypes.
    """
    if features.none and k_cache.dtype not in LARGEST:
        check_qkv(q, k_cache, v_cache)
        return row_lengths(q, k_cache, cache_seqlens)
    elsewhere = features.block_table is not None or features.cache_batch_idx is not None
    _check_shapes(q, k_cache, v_cache, same_rows=not elsewhere)
    _check_stored(q, k_cache, v_cache, features)
    B, capacity = q.shape[0], k_cache.shape[1]
    if features.cache_batch_idx is not None:
        if features.block_table is not None:
            raise ValueError("cache_batch_idx and block_table both say where a row lies: give one")
        rows = k_cache.shape[0]
        _row_integers("cache_batch_idx", features.cache_batch_idx, B, rows - 1, "the cache's rows")
    if features.block_table is not None:
        capacity = _paged_capacity(B, k_cache, cache_seqlens, features.block_table)
    lengths = row_lengths(q, k_cache, cache_seqlens, capacity)
    if features.cache_leftpad is not None:
        _row_integers("cache_leftpad", features.cache_leftpad, B, capacity, "the cache's length")
    _check_scores(q, features)
    if features.block_table is not None:
        _check_pages(q, k_cache, features, lengths)
    return lengths


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, *, same_rows: bool) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(f"{name} must be (B, L, H, D), four dimensions; got {tuple(x.shape)}")
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"k and v must agree in (B, Lk, Hkv); got k {tuple(k.shape)}, v {tuple(v.shape)}"
        )
    if (same_rows and q.shape[0] != k.shape[0]) or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"q and k must agree in {'B and D' if same_rows else 'D'}; "
            f"got q {tuple(q.shape)}, k {tuple(k.shape)}"
        )
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise ValueError(
            f"Hq must be a multiple of Hkv; got Hq = {q.shape[2]} and Hkv = {k.shape[2]}"
        )


def _row_integers(name: str, x: Tensor, B: int, most: int, limit: str) -> list[int]:
    """`x` as a list, after checking that it has one integer in 0…most for each of B rows."""
    if not isinstance(x, Tensor) or x.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} must be int32 or int64; got {_kind(x)}")
    if x.shape != (B,):
        raise ValueError(f"{name} must be (B,) = ({B},); got {tuple(x.shape)}")
    numbers = x.tolist()
    if any(not 0 <= n <= most for n in numbers):
        raise ValueError(f"{name} must lie in 0…{most} ({limit}); got {numbers}")
    return numbers


def _check_stored(q: Tensor, k: Tensor, v: Tensor, features: Features) -> None:
    """Check the caches' dtype, and the scales that go with it."""
    if not q.is_floating_point() or q.dtype in LARGEST:
        raise TypeError(f"q must be fp16, bf16, fp32 or fp64; got {q.dtype}")
    scales = {"k_scale": features.k_scale, "v_scale": features.v_scale}
    given = {name: scale for name, scale in scales.items() if scale is not None}
    if k.dtype not in LARGEST:
        if given:
            raise ValueError(
                f"{' and '.join(given)} must be None unless the cache is int8 or fp8; got {k.dtype}"
            )
        if not (q.dtype == k.dtype == v.dtype):
            raise TypeError(
                f"q, k and v must have one dtype; got {q.dtype}, {k.dtype} and {v.dtype}"
            )
        return
    if k.dtype != v.dtype:
        raise TypeError(f"both caches must be quantised alike; got {k.dtype} and {v.dtype}")
    if k.dtype == torch.int8 and len(given) < 2:
        raise ValueError(
            f"an int8 cache needs k_scale and v_scale; got {' and '.join(given) or 'neither'}"
        )
    for name, scale in given.items():
        heads = (k.shape[2],)
        shapes = ((), (1,), heads, (q.shape[0], *heads), tuple(k.shape[:3]))
        _check_float32(name, scale, *shapes)


def _check_float32(name: str, x: Tensor, *shapes: tuple[int, ...]) -> None:
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        raise TypeError(f"{name} must be a float32 tensor; got {_kind(x)}")
    if tuple(x.shape) not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"{name} must be {wanted}; got {tuple(x.shape)}")


def _check_scores(q: Tensor, features: Features) -> None:
    """Check the features that decide which keys a query sees, and what they score."""
    B, Lq, Hq, _ = q.shape
    _check_window(features.window)
    softcap, sinks, mask = features.softcap, features.sinks, features.mask
    if softcap is not None:
        if isinstance(softcap, bool) or not isinstance(softcap, int | float):
            raise TypeError(f"softcap must be a number or None; got {softcap!r}")
        if not 0 < softcap < math.inf:
            raise ValueError(f"softcap must be above 0 and finite (None: no cap); got {softcap}")
    if sinks is not None:
        if not isinstance(sinks, Tensor) or not sinks.is_floating_point():
            raise TypeError(f"sinks must be a floating point tensor; got {_kind(sinks)}")
        if sinks.shape != (Hq,):
            raise ValueError(f"sinks must be (Hq,) = ({Hq},); got {tuple(sinks.shape)}")
    if features.alibi_slopes is not None:
        _check_float32("alibi_slopes", features.alibi_slopes, (Hq,), (B, Hq))
    if mask is not None:
        dtypes = (torch.bool, torch.float32, torch.float16, torch.bfloat16)
        if not isinstance(mask, Tensor) or mask.dtype not in dtypes:
            raise TypeError(f"mask must be bool, fp32, fp16 or bf16; got {_kind(mask)}")
        if mask.shape not in ((Lq, Lq), (B, Lq, Lq)):
            raise ValueError(
                f"mask must be (Lq, Lq) = {(Lq, Lq)} or (B, Lq, Lq) = {(B, Lq, Lq)}; "
                f"got {tuple(mask.shape)}"
            )


def _check_window(window: object) -> None:
    sides = window if isinstance(window, tuple) else (window,)
    wanted = "window must be an int ≥ 0, None, or a pair (left, right) of these"
    if isinstance(window, tuple) and len(window) != 2:
        raise ValueError(f"{wanted}; got {window!r}")
    for side in sides:
        if side is not None and (isinstance(side, bool) or not isinstance(side, int)):
            raise TypeError(f"{wanted}; got {window!r}")
        if side is not None and side < 0:
            raise ValueError(f"{wanted} (None, not −1, means no bound); got {window!r}")


def _paged_capacity(B: int, k_cache: Tensor, cache_seqlens: Tensor | None, table: Tensor) -> int:
    """How many keys a row of the block table has room for."""
    page_size = k_cache.shape[1]
    if page_size < 1:
        raise ValueError(f"page_size must be at least 1; got {page_size} (k_cache.shape[1])")
    if not isinstance(table, Tensor) or table.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"block_table must be int32 or int64; got {_kind(table)}")
    if table.ndim != 2 or table.shape[0] != B:
        raise ValueError(f"block_table must be (B, max_pages) = ({B}, …); got {tuple(table.shape)}")
    if cache_seqlens is None:
        raise ValueError("block_table needs cache_seqlens: a table does not say where a row ends")
    return table.shape[1] * page_size


def _check_pages(q: Tensor, k_cache: Tensor, features: Features, lengths: list[int]) -> None:
    """Check that every page to be read exists. Dead entries of the table may be anything."""
    num_pages, page_size = k_cache.shape[:2]
    for b, length in enumerate(lengths):
        start, stop = row_range(features, b, length, q.shape[1])
        live = features.block_table[b, start // page_size : -(-stop // page_size)]
        pages = live.tolist() if start < stop else []
        if any(not 0 <= page < num_pages for page in pages):
            raise ValueError(
                f"block_table's live entries must lie in 0…{num_pages - 1} (the pages); "
                f"row {b} reads {pages}"
            )


def _kind(x: object) -> object:
    """What a wrong argument is: the dtype of a tensor, otherwise the type."""
    return x.dtype if isinstance(x, Tensor) else type(x).__name__
