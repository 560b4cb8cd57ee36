"""What a public op accepts, and what it says when it gets something else.

Every check says what was wanted and what it got. None of them reads a value from a GPU: that would
make the host wait for it.
"""

import torch
from torch import Tensor

from kernels.runtime import INTERPRETED

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_HEAD_DIM = 256
MAX_SCALE = 2.0**127  # multiplied by log2(e), still below the largest fp32


def check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Check that q, k and v fit together and can be passed to a kernel.

    Args:
        q: (B, Lq, Hq, D), fp32, fp16 or bf16, D from 1 to 256 and contiguous (stride 1).
        k, v: (B, Lk, Hkv, D), same dtype and device; Hq a multiple of Hkv.

    Raises:
        TypeError: not a tensor, not one of the three dtypes, or not the same dtype for all.
        ValueError: shapes, strides or devices that do not fit.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        _check_tensor(name, x)
    if k.shape != v.shape:
        raise ValueError(f"k and v must have one shape; got k {_shape(k)} and v {_shape(v)}")
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"q and k must have one batch size B; got q {_shape(q)} and k {_shape(k)}")
    if q.shape[3] != k.shape[3]:
        raise ValueError(f"q and k must have one head dim D; got q {_shape(q)} and k {_shape(k)}")
    if not 1 <= q.shape[3] <= MAX_HEAD_DIM:
        raise ValueError(f"head dim D must be from 1 to {MAX_HEAD_DIM}; got q {_shape(q)}")
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise ValueError(
            f"Hq must be a multiple of Hkv; got Hq = {q.shape[2]} and Hkv = {k.shape[2]} "
            f"(q {_shape(q)}, k {_shape(k)})"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(f"q, k and v must have one dtype; got {q.dtype}, {k.dtype} and {v.dtype}")
    if not q.device == k.device == v.device:
        raise ValueError(
            f"q, k and v must be on one device; got {q.device}, {k.device} and {v.device}"
        )
    check_device(q.device)


def resolve_scale(scale: float | None, head_dim: int) -> float:
    """Return `scale`, or 1/√D if it is None.

    Raises:
        TypeError: neither None nor a number.
        ValueError: not finite in fp32, which kernels compute in.
    """
    if scale is None:
        return head_dim**-0.5
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise TypeError(f"scale must be a number or None; got {scale!r}")
    if not abs(scale) < MAX_SCALE:  # also catches NaN
        raise ValueError(f"scale must be finite in fp32; got {scale!r:.30}")
    return float(scale)


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _check_tensor(name: str, x: Tensor) -> None:
    """Check what can be checked on one of q, k, v alone."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(x).__name__}")
    if x.ndim != 4:
        layout = "(B, Lq, Hq, D)" if name == "q" else "(B, Lk, Hkv, D)"
        raise ValueError(f"{name} must be {layout}, four dimensions; got {_shape(x)}")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32, float16 or bfloat16; got {x.dtype}")
    if x.stride(3) != 1 and x.shape[3] > 1:
        raise ValueError(
            f"{name} must be contiguous in D, its last dimension; got {_shape(x)} with strides "
            f"{x.stride()}: call .contiguous() on it"
        )


def check_device(device: torch.device) -> None:
    """Check that this process's kernels can run on tensors on that device."""
    if not INTERPRETED and device.type != "cuda":
        raise ValueError(
            f"this process compiles its kernels for a GPU, so tensors must be on cuda; got "
            f"{device}. To interpret them on the CPU, set TRITON_INTERPRET=1 before Python starts"
        )
    if INTERPRETED and device.type not in ("cpu", "cuda"):
        raise ValueError(f"interpreted kernels take tensors on the CPU; got {device}")
