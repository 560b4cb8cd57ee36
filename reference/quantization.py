"""Caches in eight bits: store `x / scale` rounded to int8 or fp8, and multiply back when reading.

    per      scale's shape for x (B, Lk, Hkv, D)    one scale for
    tensor   ()                                     everything
    head     (Hkv,)                                 one KV head, across rows and tokens
    row      (B, Hkv)                               one KV head of one row, across its tokens
    token    (B, Lk, Hkv)                           one token of one head: D numbers

A scale is the largest magnitude it serves, divided by the largest number the dtype holds: 127,
448 or 57344. int8 rounds to a fixed grid, off by at most scale / 2; the fp8 dtypes round
relative to the number: 3 bits after the leading one (e4m3), or 2 (e5m2). Finite numbers beyond the
largest become the largest, with their sign.

A cache that grows meets numbers that nobody looked at first, and what is not finite must not become
a number that looks like any other:

    dtype           NaN     ±inf    the scale of a token that has one
    int8            -128    -128    NaN if it is the token's own, so that all of it is read as NaN
    float8_e4m3fn   NaN     NaN     that of its finite numbers
    float8_e5m2     NaN     ±inf    that of its finite numbers

No finite number becomes -128. Where tokens share a scale, that mark is all that int8 can keep.

Source: Micikevicius et al. 2022, "FP8 formats for deep learning", table 1 (the dtypes).
"""

import math

import torch
from torch import Tensor

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def quantize(x: Tensor, dtype: torch.dtype, per: str = "tensor") -> tuple[Tensor, Tensor]:
    """Return `(stored, scale)` with stored · scale ≈ x.

    x: (..., H, D), floating point, finite; dtype: int8, float8_e4m3fn or float8_e5m2;
    per: "tensor" → scale (), "head" → (H,), "row" → (B, H) for x (B, L, H, D), "token" → (..., H).
    stored has the shape of x; scale is fp32, and 1 where x is all zeros. Rounds to nearest, ties to
    even. Raises ValueError for any other `per`, a shape without (H, D) or, per row, without
    (B, L, H, D), or numbers that are not finite, TypeError for other dtypes.

    >>> stored, scale = quantize(torch.tensor([[1.0, -0.5, 0.25]]), torch.int8)
    >>> stored.tolist(), scale
    ([[127, -64, 32]], tensor(0.0079))

    The largest becomes 127; 0.5 falls half-way between 63 and 64 and goes to the even one.
    """
    if dtype not in LARGEST:
        raise TypeError(f"dtype must be one of {[*map(str, LARGEST)]}; got {dtype}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point; got {x.dtype}")
    if x.ndim < 2:
        raise ValueError(f"x must be (..., H, D); got {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError("x must be finite: one inf or nan would set the scale of all the rest")
    wide = _wide(x)
    scale = scale_for(_largest_magnitude(wide, per), dtype)
    return round_to_cache(wide, scale, dtype), scale


def round_to_cache(x: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Round x / scale to an eight-bit dtype, to nearest, ties to even; None: a scale of 1.

    x: (..., H, D), floating point, any numbers: see the table above for those that are not finite.
    scale: () or (1,), (H,) or (..., H). Returns the shape of x. Raises ValueError for a scale of
    another shape.

    >>> x = torch.tensor([[1e9, -torch.inf, torch.nan, 0.3]])
    >>> [round_to_cache(x, None, dtype).float().tolist()[0] for dtype in LARGEST]
    ... # doctest: +NORMALIZE_WHITESPACE
    [[127.0, -128.0, -128.0, 0.0],
     [448.0, nan, nan, 0.3125],
     [57344.0, -inf, nan, 0.3125]]

    1e9 is too large for all three. Of what is not finite each keeps what it can.
    """
    x, finite = _wide(x), x.isfinite()
    y = torch.where(finite, x, 0.0)
    y = y if scale is None else y / _spread(scale, x.shape)
    y = y.clamp(-LARGEST[dtype], LARGEST[dtype])
    if dtype == torch.int8:
        return torch.where(finite, y.round(), -128.0).to(dtype)
    infinite = x.isinf() & (dtype == torch.float8_e5m2)
    return torch.where(finite, y, torch.where(infinite, x, math.nan)).to(dtype)


def scale_of_token(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the scale of each token and head of x (..., H, D), and the one to store: (..., H).

    It maps the largest finite |x| to the largest number of the dtype; 1 where all are zeros. The
    two differ for a token that int8 cannot hold: NaN is stored.

    >>> scale_of_token(torch.tensor([[63.5, torch.nan]]), torch.int8)
    (tensor([0.5000]), tensor([nan]))

    63.5 becomes 127, and nobody will read 63.5: NaN times anything is NaN.
    """
    finite = x.isfinite()
    scale = scale_for(_largest_magnitude(torch.where(finite, _wide(x), 0.0), "token"), dtype)
    lost = ~finite.all(-1) & (dtype == torch.int8)
    return scale, torch.where(lost, math.nan, scale)


def dequantize(stored: Tensor, scale: Tensor | None, dtype: torch.dtype = torch.float32) -> Tensor:
    """`stored · scale`, multiplied in fp32 (fp64 for dtype = fp64) and rounded once to `dtype`.

    stored: (..., H, D); scale: () or (1,), (H,), (..., H) or, for stored (B, L, H, D), (B, H), as
    `quantize` returns it; None: 1. Raises ValueError for any other shape.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = stored.to(wide)
    return (x if scale is None else x * _spread(scale.to(wide), stored.shape)).to(dtype)


def _wide(x: Tensor) -> Tensor:
    """As fp32, or fp64 where it is that already."""
    return x if x.dtype == torch.float64 else x.float()


def scale_for(amax: Tensor, dtype: torch.dtype) -> Tensor:
    """The fp32 scale, shaped like amax, that maps amax to the dtype's largest number; 1 for 0."""
    smallest = torch.finfo(torch.float32).tiny  # a scale must not underflow to 0
    return torch.where(amax == 0, 1.0, (amax / LARGEST[dtype]).clamp_min(smallest)).float()


def _largest_magnitude(x: Tensor, per: str) -> Tensor:
    """The largest |x| of each group: () per tensor, (H,) head, (B, H) row, (..., H) token."""
    if per not in ("tensor", "head", "row", "token"):
        raise ValueError(f'per must be "tensor", "head", "row" or "token"; got {per!r}')
    if per == "row" and x.ndim != 4:
        raise ValueError(f'x must be (B, L, H, D) for per = "row"; got {tuple(x.shape)}')
    if x.numel() == 0:
        heads = x.shape[-2:-1]
        shapes = {"tensor": (), "head": heads, "row": (x.shape[0], *heads), "token": x.shape[:-1]}
        return x.new_zeros(shapes[per])
    if per == "tensor":
        return x.abs().amax()
    if per == "row":
        return x.abs().amax((1, 3))
    if per == "head":
        return x.abs().movedim(-2, 0).flatten(1).amax(1)
    return x.abs().amax(-1)


def _spread(scale: Tensor, shape: torch.Size) -> Tensor:
    """View `scale` so that it broadcasts over `shape (..., H, D)`."""
    if math.prod(scale.shape) == 1 and scale.ndim <= 1:
        return scale.reshape(())
    if scale.shape == shape[-2:-1] or scale.shape == shape[:-1]:
        return scale[..., None]
    row = (shape[0], shape[-2]) if len(shape) == 4 else None
    if scale.shape == row:
        return scale[:, None, :, None]
    rows = "" if row is None else f"(B, H) = {row} or "
    raise ValueError(
        f"scale must be (), (H,) = {tuple(shape[-2:-1])} or {rows}(..., H) = {tuple(shape[:-1])} "
        f"for {tuple(shape)}; got {tuple(scale.shape)}"
    )
