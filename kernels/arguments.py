"""What a public op accepts, and what it says when it gets something else.

Every check names what was wanted and what came. None of them reads a value from a GPU: that would
make the host wait for it.
"""

import torch
from torch import Tensor

from kernels.runtime import INTERPRETED

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_HEAD_DIM = 256
MAX_SCALE = 2.0**127  # times log2(e) it is still below the largest fp32


def check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Check that q, k and v fit together and can be handed to a kernel.

    Args:
        q: (B, Lq, Hq, D), fp32, fp16 or bf16, D from 1 to 256 and contiguous (stride 1).
        k, v: (B, Lk, Hkv, D), same dtype and device; Hq a multiple of Hkv.

    Raises:
        TypeError: not a tensor, or a dtype other than one of the three, the same for all.
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


def check_lengths(cache_seqlens: Tensor | None, k_cache: Tensor) -> None:
    """Check the number of valid keys of each row of a cache (B, Lk, Hkv, D).

    Args:
        cache_seqlens: (B,), int32 or int64, on the device of k_cache, each from 0 to Lk; or None.
        k_cache: (B, Lk, Hkv, D).

    Raises:
        TypeError: not an int32 or int64 tensor.
        ValueError: wrong shape or device; a length outside 0…Lk. The values themselves are looked
            at only on the CPU and in interpreted mode. On a GPU that would stop the host, so there
            a kernel clamps them to 0…Lk instead, and never reads outside the cache.
    """
    if cache_seqlens is None:
        return
    if not isinstance(cache_seqlens, Tensor):
        raise TypeError(
            f"cache_seqlens must be a tensor or None; got {type(cache_seqlens).__name__}"
        )
    if cache_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cache_seqlens must be int32 or int64; got {cache_seqlens.dtype}")
    B, Lk = k_cache.shape[:2]
    if cache_seqlens.shape != (B,):
        raise ValueError(
            f"cache_seqlens must be (B,) = ({B},), a length a row; got {_shape(cache_seqlens)}"
        )
    if cache_seqlens.device != k_cache.device:
        raise ValueError(
            f"cache_seqlens must be on the device of the cache, {k_cache.device}; got "
            f"{cache_seqlens.device}"
        )
    if (INTERPRETED or cache_seqlens.device.type == "cpu") and B > 0:
        low, high = cache_seqlens.min().item(), cache_seqlens.max().item()
        if low < 0 or high > Lk:
            raise ValueError(
                f"cache_seqlens must be from 0 to {Lk}, the cache's length "
                f"(k_cache {_shape(k_cache)}); got lengths from {low} to {high}"
            )


def check_num_splits(num_splits: int | None) -> None:
    """Raise TypeError unless num_splits is None or an int, ValueError if it is below 1."""
    if num_splits is None:
        return
    if isinstance(num_splits, bool) or not isinstance(num_splits, int):
        raise TypeError(f"num_splits must be an int or None; got {num_splits!r}")
    if num_splits < 1:
        raise ValueError(f"num_splits must be at least 1; got {num_splits}")


def resolve_scale(scale: float | None, head_dim: int) -> float:
    """Return `scale`, or 1/√D where it is None.

    Raises:
        TypeError: neither None nor a number.
        ValueError: not finite in fp32, which kernels compute in.
    """
    if scale is None:
        return head_dim**-0.5
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise TypeError(f"scale must be a number or None; got {scale!r}")
    if not abs(scale) < MAX_SCALE:  # a NaN is not, either
        raise ValueError(f"scale must be finite in fp32; got {scale!r:.30}")
    return float(scale)


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _check_tensor(name: str, x: Tensor) -> None:
    """Check what can be said about one of q, k, v by itself."""
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
    """Check that a kernel of this process can run on tensors that live there."""
    if not INTERPRETED and device.type != "cuda":
        raise ValueError(
            f"this process compiles its kernels for a GPU, so tensors must be on cuda; got "
            f"{device}. To interpret them on the CPU, set TRITON_INTERPRET=1 before Python starts"
        )
    if INTERPRETED and device.type not in ("cpu", "cuda"):
        raise ValueError(f"interpreted kernels take tensors on the CPU; got {device}")
