"""What a public op accepts, and what it says when it gets something else.

Every check says what was wanted and what it got. None of them reads a value from a GPU: that would
make the host wait for it.
"""

import torch
from torch import Tensor

from kernels.call import may_launch
from kernels.runtime import INTERPRETED, has_e4m3

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_HEAD_DIM = 256
INDICES = (torch.int32, torch.int64)
QUANTISED = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)
Window = int | tuple[int | None, int | None] | None
MAX_SCALE = 2.0**127  # multiplied by log2(e), still below the largest fp32


def check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Check that q, k and v fit together and can be passed to a kernel.

    Args:
        q: (B, Lq, Hq, D), fp32, fp16 or bf16, D from 1 to 256 and contiguous (stride 1).
        k: (B, Lk, Hkv, D); v: (B, Lk, Hkv, Dv), Dv from 1 to 256; same dtype and device, last
            dimension contiguous; Hq a multiple of Hkv.

    Raises:
        TypeError: not a tensor, not one of the three dtypes, or not the same dtype for all.
        ValueError: shapes, strides or devices that do not fit.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        _check_tensor(name, x)
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"k and v must agree in (B, Lk, Hkv); got k {_shape(k)} and v {_shape(v)}")
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"q and k must have one batch size B; got q {_shape(q)} and k {_shape(k)}")
    if q.shape[3] != k.shape[3]:
        raise ValueError(f"q and k must have one head dim D; got q {_shape(q)} and k {_shape(k)}")
    if not 1 <= q.shape[3] <= MAX_HEAD_DIM:
        raise ValueError(f"head dim D must be from 1 to {MAX_HEAD_DIM}; got q {_shape(q)}")
    if not 1 <= v.shape[3] <= MAX_HEAD_DIM:
        raise ValueError(f"value dim Dv must be from 1 to {MAX_HEAD_DIM}; got v {_shape(v)}")
    check_groups(q, k)
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
        raise TypeError(f"scale must be a number or None; got {scale!r}{remedy(scale)}")
    if not abs(scale) < MAX_SCALE:  # also catches NaN
        raise ValueError(f"scale must be finite in fp32; got {scale!r:.30}")
    return float(scale)


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _check_tensor(name: str, x: Tensor) -> None:
    """Check what can be checked on one of q, k, v alone."""
    check_tensor(name, x)
    if x.ndim != 4:
        layout = {"q": "(B, Lq, Hq, D)", "k": "(B, Lk, Hkv, D)", "v": "(B, Lk, Hkv, Dv)"}[name]
        raise ValueError(f"{name} must be {layout}, four dimensions; got {_shape(x)}")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32, float16 or bfloat16; got {x.dtype}")
    check_last_contiguous(name, x)


def check_tensor(name: str, x: object) -> None:
    """Raise TypeError unless x is a tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(x).__name__}")


def check_last_contiguous(name: str, x: Tensor) -> None:
    """Raise ValueError unless the elements of x's last dimension are next to each other."""
    if x.ndim and x.stride(-1) != 1 and x.shape[-1] > 1:
        raise ValueError(
            f"{name} must be contiguous in its last dimension; got {_shape(x)} with strides "
            f"{x.stride()}: call .contiguous() on it"
        )


def check_no_grad(name: str, x: Tensor, why: str) -> None:
    """Raise ValueError if autograd wants a gradient of x; why: the reason that there is none."""
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires grad, but {why}: call it under torch.no_grad()")


def check_same_device(name: str, x: Tensor, device: torch.device, whose: str) -> None:
    """Raise ValueError unless x is on that device; whose: the tensor that is known to be there."""
    if x.device != device:
        raise ValueError(f"{name} must be on the device of {whose}, {device}; got {x.device}")


def has_values(x: Tensor) -> bool:
    """Say whether the numbers of x can be read, and without making the host wait for a GPU."""
    if torch.compiler.is_dynamo_compiling() or not (INTERPRETED or x.device.type == "cpu"):
        return False
    if type(x) is not Tensor and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__:
        x = x.as_subclass(Tensor)  # a subclass with plain memory
    return may_launch(x)


def check_groups(q: Tensor, k: Tensor) -> None:
    """Raise ValueError unless the query heads, (…, Hq, D), divide evenly among those of k."""
    Hq, Hkv = q.shape[2], k.shape[2]
    if Hkv == 0 or Hq % Hkv:
        raise ValueError(
            f"Hq must be a multiple of Hkv; got Hq = {Hq} and Hkv = {Hkv} (q {_shape(q)}, "
            f"k {_shape(k)})"
        )


def remedy(x: object) -> str:
    """Return how a numpy scalar or a 0-d tensor becomes the number that is wanted; "" for others.

    Not done here: reading a tensor can make the host wait for a GPU, which the caller should see.
    """
    return ": call .item() on it" if getattr(x, "shape", None) == () else ""


def check_int(name: str, x: object, least: int, limit: int = 2**31) -> None:
    """Raise TypeError unless x is an int, ValueError unless it is from least to below limit."""
    if isinstance(x, bool) or not isinstance(x, int):
        raise TypeError(f"{name} must be an int; got {x!r}{remedy(x)}")
    if not least <= x < limit:
        below = "" if x < least else f" and below 2^{limit.bit_length() - 1}"
        raise ValueError(f"{name} must be at least {least}{below}; got {x}")


def sides_of(window: Window) -> tuple[int | None, int | None]:
    """Return a window as (left, right), None: no bound; a single number is the left side."""
    return window if isinstance(window, tuple) else (window, None)


def dtype_names(dtypes: tuple[torch.dtype, ...]) -> str:
    """Return dtypes in words, for a message: "float32 or float16"."""
    return " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def check_window(window: Window) -> None:
    """Raise TypeError or ValueError unless window is None, a number of keys, or a pair of these."""
    sides = sides_of(window)
    numbers = [side for side in sides if side is not None]
    if len(sides) != 2 or any(isinstance(x, bool) or not isinstance(x, int) for x in numbers):
        wrong = next(filter(None, map(remedy, sides)), "")
        raise TypeError(f"window must be an int, None, or a pair of these; got {window!r}{wrong}")
    if any(not 0 <= x < 2**31 for x in numbers):
        raise ValueError(f"window must not be negative (None: no bound); got {window!r}")


def check_device(device: torch.device) -> None:
    """Check that this process's kernels can run on tensors on that device, or need not: "meta"."""
    # On the meta device shapes alone are computed, and nothing is launched.
    if not INTERPRETED and device.type not in ("cuda", "meta"):
        raise ValueError(
            f"this process compiles its kernels for a GPU, so tensors must be on cuda; got "
            f"{device}. To interpret them on the CPU, set TRITON_INTERPRET=1 before Python starts"
        )
    if INTERPRETED and device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"interpreted kernels take tensors on the CPU; got {device}")


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
    check_last_contiguous(name, x)


def check_rows(name: str, x: Tensor | None, B: int) -> None:
    """Raise as `check_indices` does unless x is one integer per row, (B,), or None."""
    check_indices(name, x, (B,), f"(B,) = ({B},), one per row")


def check_pages(table: Tensor, B: int, k_cache: Tensor, cache_batch_idx: Tensor | None) -> None:
    """Raise TypeError or ValueError unless a table names the pages of B rows in k_cache."""
    if cache_batch_idx is not None:
        raise ValueError("block_table and cache_batch_idx both say where a row lies: give one")
    width = table.shape[1] if isinstance(table, Tensor) and table.ndim == 2 else 0
    check_indices("block_table", table, (B, width), f"(B, max_pages) = ({B}, …)")
    if k_cache.shape[1] < 1:
        raise ValueError(
            "with block_table, k_cache must be (pages, size, Hkv, D), the size of a page at least "
            f"1; got {tuple(k_cache.shape)}"
        )


def check_eight_bits(cache: Tensor) -> None:
    """Raise ValueError for a float8_e4m3fn cache on a GPU that cannot convert it."""
    if cache.dtype == torch.float8_e4m3fn and not has_e4m3(cache.device):
        major, minor = torch.cuda.get_device_capability(cache.device)
        raise ValueError(
            "a float8_e4m3fn cache must be on an NVIDIA GPU from sm_89 on (Ada, Hopper, Blackwell) "
            f"or on AMD's; got {cache.device}, sm_{major}{minor}: take float8_e5m2 or int8 there"
        )


def per_token(scale: Tensor | None) -> bool:
    """Say whether each token of each head has a scale of its own."""
    return getattr(scale, "ndim", 0) == 3  # asked before checks, too: it need not be a tensor


def check_scale(name: str, scale: Tensor | None, cache: Tensor, B: int) -> None:
    """Raise TypeError or ValueError unless a scale fits its cache; only int8 requires one.

    B: rows of the call, which are not those of the cache if a row's place is looked up.
    """
    if scale is None:
        if cache.dtype == torch.int8:
            raise ValueError(f"an int8 cache needs k_scale and v_scale; {name} is None")
        return
    if cache.dtype not in QUANTISED:
        raise ValueError(f"{name} must be None unless the cache is int8 or fp8; got {cache.dtype}")
    if not isinstance(scale, Tensor) or scale.dtype != torch.float32:
        raise TypeError(f"{name} must be a tensor, float32; got {kind(scale)}")
    heads, tokens = tuple(cache.shape[2:3]), tuple(cache.shape[:3])
    if tuple(scale.shape) not in ((), (1,), heads, (B, *heads), tokens):
        raise ValueError(
            f"{name} must be (), (1,), (Hkv,) = {heads}, (B, Hkv) = {(B, *heads)} or one per token "
            f"and head, {tokens}; got {tuple(scale.shape)}"
        )


def check_index(name: str, x: Tensor | None, B: int, device: torch.device, most: int) -> None:
    """Check one integer per row, from 0 to most: TypeError or ValueError; None passes."""
    if x is None:
        return
    check_rows(name, x, B)
    check_same_device(name, x, device, "the cache")
    check_range(name, x, most)


def check_range(name: str, x: Tensor | None, most: int) -> None:
    """Raise ValueError for a number outside 0 … most, where reading them is free; None passes."""
    if x is not None and x.numel() > 0 and has_values(x):
        low, high = x.min().item(), x.max().item()
        if low < 0 or high > most:
            raise ValueError(f"{name} must be from 0 to {most}; got values from {low} to {high}")
