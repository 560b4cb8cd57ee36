"""Values in few characters: what a failing check shows of inputs and outputs."""

from __future__ import annotations

import math
from typing import Any

import torch

FEW = 8  # tensors of up to this many entries are written out


def number(x: float | int | bool | complex) -> str:
    """Return a number in four significant digits: `number(0.123456)` is "0.1235"."""
    if isinstance(x, (bool, int)):
        return str(x)
    return f"{x:.4g}" if isinstance(x, complex) or math.isfinite(x) else str(x)


def dtype_name(dtype: torch.dtype) -> str:
    """Return "float32" for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def short(value: Any) -> str:
    """Return `value` in a few characters; tensors without the word tensor, large ones by shape.

    `short((torch.tensor(3.0), torch.tensor([4.40812])))` is "(3, [4.408])".
    """
    if isinstance(value, torch.Tensor):
        return _short_tensor(value.detach())
    if isinstance(value, (bool, int, float, complex)):
        return number(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {short(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        inside = [short(v) for v in value[:FEW]] + (["…"] if len(value) > FEW else [])
        left, right = "()" if isinstance(value, tuple) else "[]"
        return left + ", ".join(inside) + right
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _short_tensor(t: torch.Tensor) -> str:
    if t.numel() <= FEW:
        return _nested(t.tolist())
    first = ", ".join(number(x) for x in t.flatten()[:3].tolist())
    return f"{dtype_name(t.dtype)} {tuple(t.shape)} [{first}, …]"


def _nested(x: Any) -> str:
    if isinstance(x, list):
        return "[" + ", ".join(_nested(v) for v in x) + "]"
    return number(x)
