"""The KV cache as it grows: where the new tokens go, and rotary embedding on the way there.

    before     k0 k1 k2 k3 k4 ·  ·  ·        cache_seqlens[b] = 5, room for 8
    append     k0 k1 k2 k3 k4 k5 k6 ·        two new tokens at places 5 and 6; nothing else moves

Rotary embedding rotates each pair of dimensions of a key by an angle that grows with its place, and
does the same to a query; the score q·k then depends only on the distance between the two. So a key
is rotated once, when it is stored, and never again.

Sources: Su et al. 2021, "RoFormer", section 3.4.2; pages: Kwon et al. 2023, "Efficient memory
management for large language model serving with PagedAttention", section 4.
"""

from typing import Any

import torch
from torch import Tensor

from reference.quantization import LARGEST, round_to_cache, scale_of_token


def rotary_table(max_pos: int, R: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cos and sin of every angle, (max_pos, R/2) each, fp32.

    Pair i of the token at position p is rotated by p · base^(-2i/R): the first pair by one radian
    per token, the last hardly at all. Raises ValueError unless R is even and at least 2.
    """
    if R < 2 or R % 2:
        raise ValueError(f"R must be even and at least 2; got {R}")
    frequency = base ** (-torch.arange(0, R, 2, dtype=torch.float64) / R)
    angle = torch.arange(max_pos, dtype=torch.float64)[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Rotate the first R dimensions of x, computed in fp32 (fp64 for fp64) and not rounded back.

    x: (L, H, D); cos, sin: (L, R/2), one row per token (or one row for all). interleaved:
    pairs are (0, 1), (2, 3) …; otherwise (0, R/2), (1, R/2 + 1) …

    >>> x = torch.tensor([[[1.0, 0.0, 7.0]]])
    >>> rotate(x, torch.tensor([[0.0]]), torch.tensor([[1.0]]))
    tensor([[[0., 1., 7.]]])

    A quarter turn takes (1, 0) to (0, 1); the third dimension is not part of a pair.
    """
    R = 2 * cos.shape[-1]
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, cos, sin = x.to(wide), cos.to(wide)[:, None], sin.to(wide)[:, None]  # one for every head
    rotated = x[..., :R]
    a, b = rotated.unflatten(-1, (-1, 2)).unbind(-1) if interleaved else rotated.chunk(2, -1)
    a, b = a * cos - b * sin, b * cos + a * sin
    rotated = torch.stack((a, b), -1).flatten(-2) if interleaved else torch.cat((a, b), -1)
    return rotated if x.shape[-1] == R else torch.cat((rotated, x[..., R:]), -1)


def append_kv(
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor,
    v: Tensor,
    cache_seqlens: Tensor | None = None,
    *,
    cache_batch_idx: Tensor | None = None,
    block_table: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    interleaved: bool = False,
    q: Tensor | None = None,
    rotate_at: str = "each",
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> Tensor | None:
    """Write the k and v of Ln new tokens into the cache, in place; rotate k and q by position.

    k_cache, v_cache: (B, Lk, Hkv, D or Dv), or (num_pages, page_size, Hkv, D or Dv) with
    block_table (B, max_pages), page_size at least 1. k, v: (B, Ln, Hkv, D or Dv), in the
    cache's dtype unless that has eight bits. cache_seqlens: int (B,), the lengths *before*;
    token i goes to place cache_seqlens[b] + i (None: 0). cache_batch_idx: int (B,), row b is
    written to this row of the cache; rows that write to the same place overwrite each other in no
    particular order. rotary_cos, rotary_sin: (max_pos, R/2), indexed by place; R ≤ D. q: (B, Lq,
    Hq, D), rotated at cache_seqlens + i (rotate_at="each") or all at cache_seqlens ("first").
    k_scale, v_scale: () or (1,), (Hkv,), (B, Hkv) per row of k, or the cache's first three
    dimensions: then they are computed and written, too. What an eight-bit cache keeps of NaN, inf
    and numbers too large for it: the table of `reference.quantization`.

    Returns the rotated q, in its dtype, or q itself if there is no rotation; None without q.
    Raises ValueError for shapes that don't fit and, before anything is written, for places, rows,
    pages or positions that don't exist, for a given scale that is 0 or not finite, and for k or v
    that are not finite where int8 has a given scale; TypeError for dtypes.
    """
    _check_tokens(k_cache, v_cache, k, v, q)
    _check_scales(k_cache, v_cache, k_scale, v_scale, len(k))
    _check_numbers(k_cache.dtype, k=(k, k_scale), v=(v, v_scale))
    _check_places(k, k_cache, cache_batch_idx, block_table)
    (B, Ln), Lq = k.shape[:2], 0 if q is None else q.shape[1]
    starts = [0] * B if cache_seqlens is None else _integers("cache_seqlens", cache_seqlens, B)
    table, where = (rotary_cos, rotary_sin, k.shape[3]), (k_cache, cache_batch_idx, block_table)
    cells = [_cells(b, start, start + Ln, *where) for b, start in enumerate(starts)]
    k_angles = [_angles(start, Ln, *table, "each") for start in starts]
    q_angles = [_angles(start, Lq, *table, rotate_at) for start in starts]
    # Nothing has been written so far: whatever does not fit has already raised.
    for b, cell in enumerate(cells):
        new_k = k[b] if rotary_cos is None else rotate(k[b], *k_angles[b], interleaved=interleaved)
        _store(new_k, k_cache, _of_row(k_scale, b), cell)
        _store(v[b], v_cache, _of_row(v_scale, b), cell)
    if q is None or rotary_cos is None:
        return q
    rotated = torch.empty_like(q)
    for b in range(B):
        rotated[b] = rotate(q[b], *q_angles[b], interleaved=interleaved)
    return rotated


def cells_of(
    b: int,
    start: int,
    stop: int,
    cache: Tensor,
    cache_batch_idx: Tensor | None = None,
    block_table: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Where places `[start, stop)` of row b are in the cache: (row or page, slot), each int (n,).

    cache: (rows, Lk, …), or (num_pages, page_size, …) with block_table. `cache[cells]` are the
    cells. Raises ValueError for places, rows or pages that don't exist; reads no more of
    the block table than these places need.

    >>> table = torch.tensor([[7, 3, -1]])
    >>> cells_of(0, 3, 6, torch.empty(8, 4), block_table=table)
    (tensor([7, 3, 3]), tensor([3, 0, 1]))

    With four tokens per page, place 3 is the last of page 7; places 4 and 5 begin page 3.
    """
    found = _cells(b, start, stop, cache, cache_batch_idx, block_table)
    if block_table is not None:
        return found
    slot = torch.arange(start, stop, device=cache.device)
    return torch.full_like(slot, found[0]), slot


def _cells(
    b: int,
    start: int,
    stop: int,
    cache: Tensor,
    cache_batch_idx: Tensor | None,
    block_table: Tensor | None,
) -> tuple[Tensor, Tensor] | tuple[int, slice]:
    """`cells_of`, but for a cache without pages a row and a slice: copied to in half the time."""
    size = cache.shape[1]
    capacity = size if block_table is None else block_table.shape[1] * size
    if not 0 <= start <= stop <= capacity:
        raise ValueError(
            f"row {b} has room for {capacity} tokens; places {start} to {stop - 1} don't fit"
        )
    if block_table is None:
        row = b if cache_batch_idx is None else int(cache_batch_idx[b])
        _check_rows("cache_batch_idx", b, [row], len(cache))
        return row, slice(start, stop)
    place = torch.arange(start, stop, device=cache.device)
    pages = block_table[b, place // size].long()
    _check_rows("block_table", b, pages.unique().tolist(), len(cache))
    return pages, place % size


def _check_rows(name: str, b: int, found: list[int], rows: int) -> None:
    """Raise ValueError unless the rows or pages in which row b is stored exist."""
    if any(not 0 <= row < rows for row in found):
        raise ValueError(f"{name} must lie in 0…{rows - 1}; row {b} has {found}")


def _angles(
    start: int, count: int, cos: Tensor | None, sin: Tensor | None, D: int, rotate_at: str
) -> tuple[Tensor, Tensor] | None:
    """The rows of the tables for `count` tokens from place `start` on, or for the first only."""
    if rotate_at not in ("each", "first"):
        raise ValueError(f'rotate_at must be "each" or "first"; got {rotate_at!r}')
    if cos is None and sin is None:
        return None
    if cos is None or sin is None or cos.shape != sin.shape or cos.ndim != 2:
        raise ValueError("rotary_cos and rotary_sin must both be (max_pos, R/2)")
    if not 1 <= cos.shape[1] <= D // 2:
        raise ValueError(f"rotary_cos must have R/2 from 1 to {D // 2}; got {cos.shape[1]}")
    stop = start + (min(count, 1) if rotate_at == "first" else count)
    if stop > cos.shape[0]:
        raise ValueError(f"the tables have {cos.shape[0]} positions; position {stop - 1} is needed")
    return cos[start:stop], sin[start:stop]


def _of_row(scale: Tensor | None, b: int) -> Tensor | None:
    """The scales (Hkv,) of row b if each row has its own, (B, Hkv); any others as they are."""
    return scale if scale is None or scale.ndim != 2 else scale[b]


def _store(x: Tensor, cache: Tensor, scale: Tensor | None, cell: tuple[Any, Any]) -> None:
    """Round x (n, Hkv, D) once, to the dtype of the cache, and write it there."""
    if cache.dtype not in LARGEST:
        cache[cell] = x.to(cache.dtype)
    elif scale is not None and scale.ndim == 3:  # each token and head has its own scale
        own, scale[cell] = scale_of_token(x, cache.dtype)
        cache[cell] = round_to_cache(x, own, cache.dtype)
    else:
        cache[cell] = round_to_cache(x.float(), scale, cache.dtype)


def _check_tokens(k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, q: Tensor | None) -> None:
    """Check the shapes and dtypes of the caches and of what goes into them."""
    rows, size = k_cache.shape[:2]
    pages = (rows, size, *k.shape[2:]), (rows, size, *v.shape[2:])
    if k.ndim != 4 or k.shape[:3] != v.shape[:3] or (k_cache.shape, v_cache.shape) != pages:
        raise ValueError(
            "k, v must be (B, Ln, Hkv, D or Dv), the caches (…, …, Hkv, D or Dv); got "
            + ", ".join(str(tuple(x.shape)) for x in (k, v, k_cache, v_cache))
        )
    if not k.is_floating_point() or k.dtype in LARGEST or k.dtype != v.dtype:
        raise TypeError(f"k and v must have one wide float dtype; got {k.dtype}, {v.dtype}")
    if k_cache.dtype != v_cache.dtype or k_cache.dtype not in (k.dtype, *LARGEST):
        raise TypeError(
            f"the caches must both be {k.dtype}, as k, or an eight-bit dtype; got {k_cache.dtype}, "
            f"{v_cache.dtype}"
        )
    if q is not None and (q.ndim != 4 or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]):
        raise ValueError(f"q must agree with k {tuple(k.shape)} in B and D; got {tuple(q.shape)}")


def _check_places(
    k: Tensor, k_cache: Tensor, cache_batch_idx: Tensor | None, block_table: Tensor | None
) -> None:
    """Check how the rows of the batch are found in the cache."""
    B, (rows, size) = k.shape[0], k_cache.shape[:2]
    if block_table is None and cache_batch_idx is None and rows != B:
        raise ValueError(f"k_cache must have the batch of k, {B}; got {tuple(k_cache.shape)}")
    if cache_batch_idx is not None:
        _integers("cache_batch_idx", cache_batch_idx, B)
    if block_table is None:
        return
    if cache_batch_idx is not None:
        raise ValueError("cache_batch_idx and block_table both say where a row lies: give one")
    if block_table.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"block_table must be int32 or int64; got {block_table.dtype}")
    if block_table.ndim != 2 or block_table.shape[0] != B or size < 1:
        raise ValueError(
            f"block_table must be (B, max_pages) = ({B}, …) and the page size at least 1; "
            f"got {tuple(block_table.shape)} and {size}"
        )


def _check_scales(
    k_cache: Tensor, v_cache: Tensor, k_scale: Tensor | None, v_scale: Tensor | None, B: int
) -> None:
    for name, scale, cache in (("k_scale", k_scale, k_cache), ("v_scale", v_scale, v_cache)):
        if scale is None and cache.dtype == torch.int8:
            raise ValueError(f"an int8 cache needs {name}")
        if scale is not None and cache.dtype not in LARGEST:
            raise ValueError(
                f"{name} must be None unless the cache is int8 or fp8; got {cache.dtype}"
            )
        heads, tokens = tuple(cache.shape[2:3]), tuple(cache.shape[:3])
        shapes = ((), (1,), heads, (B, *heads), tokens)
        if scale is not None and tuple(scale.shape) not in shapes:
            raise ValueError(
                f"{name} must be {' or '.join(map(str, shapes))}; got {tuple(scale.shape)}"
            )


def _check_numbers(dtype: torch.dtype, **new: tuple[Tensor, Tensor | None]) -> None:
    """Raise ValueError where a given scale loses everything, or int8 with it what is not finite.

    new: k and v, each with its scale.
    """
    for name, (x, scale) in new.items():
        if scale is None or scale.ndim == 3:
            continue
        if not (scale.isfinite() & (scale != 0)).all():
            raise ValueError(f"{name}_scale must be finite and not 0; got {scale.tolist()}")
        lost = x.numel() - int(x.isfinite().sum())
        if dtype == torch.int8 and lost:
            raise ValueError(
                f"{name} must be finite: int8 has no NaN or inf, nor can a scale that tokens share "
                f"hold one; got {lost} of {x.numel()} numbers that are not. Nothing was written"
            )


def _integers(name: str, x: Tensor, B: int) -> list[int]:
    if x.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} must be int32 or int64; got {x.dtype}")
    if x.shape != (B,):
        raise ValueError(f"{name} must be (B,) = ({B},); got {tuple(x.shape)}")
    return x.tolist()
