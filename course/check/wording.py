"""Short forms of values, as a failing check shows inputs and outputs."""

from __future__ import annotations

import math
from typing import Any

import torch

FEW = 8  # tensors of up to this many entries are written out


def number(x: float | int | bool | complex, digits: int = 4) -> str:
    """Return a number with a few significant digits: `number(0.123456)` is "0.1235"."""
    if isinstance(x, (bool, int)):
        return str(x)
    return f"{x:.{digits}g}" if isinstance(x, complex) or math.isfinite(x) else str(x)


def dtype_name(dtype: torch.dtype) -> str:
    """Return "float32" for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def short(value: Any, *, start: int = 0, digits: int = 4) -> str:
    """Return `value` in short form; tensors without the word "tensor", large ones by shape.

    start: the flat index in a large tensor from which three entries are shown.
    `short((torch.tensor(3.0), torch.tensor([4.40812])))` is "(3, [4.408])".
    """
    if isinstance(value, torch.Tensor):
        return _short_tensor(value.detach(), start, digits)
    if isinstance(value, (bool, int, float, complex)):
        return number(value, digits)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {short(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        inside = [short(v) for v in value[:FEW]] + (["…"] if len(value) > FEW else [])
        left, right = "()" if isinstance(value, tuple) else "[]"
        return left + ", ".join(inside) + right
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def rows(mask: torch.Tensor) -> list[str]:
    """Return a bool matrix as rows of 0s and 1s: "1 1 0"."""
    return [" ".join(str(int(x)) for x in row) for row in mask.tolist()]


def place(t: torch.Tensor, flat: int) -> list[int]:
    """Return the indices of the entry of `t` with flat index `flat`, counted row by row."""
    return [int(i) for i in torch.unravel_index(torch.tensor(flat), t.shape)]


def _short_tensor(t: torch.Tensor, start: int, digits: int) -> str:
    if t.numel() <= FEW:
        return _nested(t.tolist(), digits)
    few = ", ".join(number(x, digits) for x in t.flatten()[start : start + 3].tolist())
    if start + 3 < t.numel():
        few += ", …"
    where = f"from {place(t, start)} on " if start else ""
    return f"{dtype_name(t.dtype)} {tuple(t.shape)} {where}[{few}]"


def _nested(x: Any, digits: int) -> str:
    if isinstance(x, list):
        return "[" + ", ".join(_nested(v, digits) for v in x) + "]"
    return number(x, digits)
