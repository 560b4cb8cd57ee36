"""What every call requires of the tensors that describe a KV cache: indices, pages, scales.

Only shapes, dtypes and layouts are checked here; the calls themselves look at values, and only
where that costs nothing.
"""

import torch
from torch import Tensor

INDICES = (torch.int32, torch.int64)
QUANTISED = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)


def kind(x: object) -> object:
    """Describe a wrong argument: the dtype of a tensor, the type's name of anything else."""
    return x.dtype if isinstance(x, Tensor) else type(x).__name__


def check_indices(name: str, x: Tensor | None, shape: tuple[int, ...], wanted: str) -> None:
    """Raise unless x is an integer tensor of that shape, contiguous in its last dimension.

    wanted: the shape in words. A wrong type or dtype is a TypeError, the rest a
    ValueError. None passes.
    """
    if x is None:
        return
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor or None; got {type(x).__name__}")
    if x.dtype not in INDICES:
        raise TypeError(f"{name} must be int32 or int64; got {x.dtype}")
    if x.shape != shape:
        raise ValueError(f"{name} must be {wanted}; got {tuple(x.shape)}")
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        raise ValueError(
            f"{name} must be contiguous in its last dimension; got {tuple(x.shape)} with strides "
            f"{x.stride()}"
        )


def check_rows(name: str, x: Tensor | None, B: int) -> None:
    """Raise as `check_indices` does unless x is one integer per row, (B,), or None."""
    check_indices(name, x, (B,), f"(B,) = ({B},), one per row")


def check_pages(table: Tensor, B: int, k_cache: Tensor, cache_batch_idx: Tensor | None) -> None:
    """Raise TypeError or ValueError unless a table names the pages of B rows in k_cache."""
    if cache_batch_idx is not None:
        raise ValueError("block_table and cache_batch_idx both say where a row lies: give one")
    width = table.shape[1] if isinstance(table, Tensor) and table.ndim == 2 else 0
    check_indices("block_table", table, (B, width), f"(B, max_pages) = ({B}, …)")
    size = k_cache.shape[1]
    if size < 1 or size & (size - 1):
        raise ValueError(
            "with block_table, k_cache must be (pages, size, Hkv, D), the size of a page a power "
            f"of two; got {tuple(k_cache.shape)}"
        )


def check_scale(name: str, scale: Tensor | None, cache: Tensor) -> None:
    """Raise TypeError or ValueError unless a scale fits its cache; only int8 requires one."""
    if scale is None:
        if cache.dtype == torch.int8:
            raise ValueError(f"an int8 cache needs k_scale and v_scale; {name} is None")
        return
    if cache.dtype not in QUANTISED:
        raise ValueError(f"{name} must be None unless the cache is int8 or fp8; got {cache.dtype}")
    if not isinstance(scale, Tensor) or scale.dtype != torch.float32:
        raise TypeError(f"{name} must be a tensor, float32; got {kind(scale)}")
    heads, tokens = tuple(cache.shape[2:3]), tuple(cache.shape[:3])
    if tuple(scale.shape) not in ((), (1,), heads, tokens):
        raise ValueError(
            f"{name} must be (), (1,), (Hkv,) = {heads} or one per token and head, {tokens}; "
            f"got {tuple(scale.shape)}"
        )
