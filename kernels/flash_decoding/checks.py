"""What a decode call accepts, and what it says when it gets something else.

Shapes, dtypes and devices are always checked. Values are checked only where that costs nothing, on
the CPU: on a GPU the host would have to wait for them. There the kernel clamps lengths and padding,
and the caller must see to it that the pages and rows named by a table exist.
"""

import torch
from torch import Tensor

from kernels.checks import (
    DTYPES,
    MAX_HEAD_DIM,
    QUANTISED,
    check_device,
    check_eight_bits,
    check_groups,
    check_index,
    check_last_contiguous,
    check_no_grad,
    check_pages,
    check_range,
    check_same_device,
    check_scale,
    check_tensor,
    check_window,
    dtype_names,
    has_values,
    kind,
    remedy,
)
from kernels.flash_decoding.features import Features

MAX_KEYS = 2**30  # per row: the sum of a place, a window and a block still fits in 32 bits
SOFTCAPS = (1e-30, 1e30)  # fp32 holds s / c and c · log2(e)
MAX_LATENT = (576, 512)  # D and Dv of MLA: one head whose values are part of its keys


def check_decode(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, features: Features, causal: bool
) -> None:
    """Raise TypeError or ValueError unless everything fits, as `flash_decode` says."""
    check_shapes(q, k_cache, v_cache, features)
    if not isinstance(causal, bool):
        raise TypeError(f"causal must be True or False; got {causal!r}{remedy(causal)}")
    if features.block_table is not None and features.cache_seqlens is None:
        raise ValueError("block_table needs cache_seqlens: a table does not say where a row ends")
    if torch.is_grad_enabled():
        check_no_grads(q, k_cache, v_cache, features)
    check_device(q.device)
    B, rows, capacity = q.shape[0], k_cache.shape[0], features.capacity(k_cache)
    check_index("cache_seqlens", features.cache_seqlens, B, q.device, capacity)
    check_index("cache_leftpad", features.cache_leftpad, B, q.device, capacity)
    check_index("cache_batch_idx", features.cache_batch_idx, B, q.device, rows - 1)
    if features.block_table is not None and has_values(features.block_table):
        check_pages_exist(q.shape[1], k_cache, features)


def check_values(q: Tensor, k_cache: Tensor, features: Features) -> None:
    """Check the numbers of a call whose shapes were checked before, as `check_decode` does."""
    if not has_values(q):
        return
    rows, capacity = k_cache.shape[0], features.capacity(k_cache)
    check_range("cache_seqlens", features.cache_seqlens, capacity)
    check_range("cache_leftpad", features.cache_leftpad, capacity)
    check_range("cache_batch_idx", features.cache_batch_idx, rows - 1)
    if features.block_table is not None:
        check_pages_exist(q.shape[1], k_cache, features)


def check_no_grads(q: Tensor, k_cache: Tensor, v_cache: Tensor, features: Features) -> None:
    """Raise ValueError if autograd wants a gradient of any of them."""
    given = {"q": q, "k_cache": k_cache, "v_cache": v_cache, **vars(features)}
    for name, tensor in given.items():
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            check_no_grad(name, tensor, "decoding has no backward (flash_attention has one)")


def check_shapes(q: Tensor, k_cache: Tensor, v_cache: Tensor, features: Features) -> None:
    """Check types, shapes and dtypes, on any one device (the meta device too)."""
    for name, tensor in (("q", q), ("k_cache", k_cache), ("v_cache", v_cache)):
        _check_tensor(name, tensor, q)
    for name, tensor in vars(features).items():
        if isinstance(tensor, Tensor):
            _check_plain(name, tensor, q)
    _check_dims(q, k_cache, v_cache, features)
    _check_dtypes(q, k_cache, v_cache, features)
    B, Lq, Hq, _ = q.shape
    if features.block_table is not None:
        check_pages(features.block_table, B, k_cache, features.cache_batch_idx)
    if features.capacity(k_cache) >= MAX_KEYS:
        raise ValueError(
            f"a row of the cache must have room for fewer than 2^30 keys; got k_cache "
            f"{tuple(k_cache.shape)}"
            + (
                ""
                if features.block_table is None
                else f", block_table {tuple(features.block_table.shape)}"
            )
        )
    _check_scores(B, Lq, Hq, features)


def _check_plain(name: str, x: Tensor, q: Tensor) -> None:
    """Check that a pointer and strides describe x fully, and that it is on the device of q."""
    if x.is_nested or x.layout != torch.strided:
        raise ValueError(f"{name} must be a dense, strided tensor; got {x.layout}, {type(x)}")
    check_same_device(name, x, q.device, "q")


def _check_tensor(name: str, x: Tensor, q: Tensor) -> None:
    check_tensor(name, x)
    _check_plain(name, x, q)
    if x.ndim != 4:
        layout = "(B, Lq, Hq, D)" if name == "q" else "(B, Lk, Hkv, D) or (pages, size, Hkv, D)"
        raise ValueError(f"{name} must be {layout}, four dimensions; got {tuple(x.shape)}")
    check_last_contiguous(name, x)


def _shapes(q: Tensor, k: Tensor, v: Tensor) -> str:
    return f"q {tuple(q.shape)}, k_cache {tuple(k.shape)}, v_cache {tuple(v.shape)}"


def _check_dims(q: Tensor, k: Tensor, v: Tensor, features: Features) -> None:
    (B, _, Hq, D), Hkv, Dv = q.shape, k.shape[2], v.shape[3]
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"k_cache and v_cache must agree in all but D; got {_shapes(q, k, v)}")
    elsewhere = features.block_table is not None or features.cache_batch_idx is not None
    if not elsewhere and k.shape[0] != B:
        raise ValueError(
            "q and the caches must have one batch size B, without block_table or cache_batch_idx; "
            f"got {_shapes(q, k, v)}"
        )
    if k.shape[3] != D:
        raise ValueError(f"q and k_cache must have one head dim D; got {_shapes(q, k, v)}")
    check_groups(q, k)
    if not (1 <= D <= MAX_HEAD_DIM and 1 <= Dv <= MAX_HEAD_DIM):
        most = MAX_LATENT if Hkv == 1 else (MAX_HEAD_DIM, MAX_HEAD_DIM)
        if not (1 <= D <= most[0] and 1 <= Dv <= most[1]):
            raise ValueError(
                f"head dims must be from 1 to {MAX_HEAD_DIM}, or, with a single KV head, D up to "
                f"{MAX_LATENT[0]} and Dv up to {MAX_LATENT[1]}; got {_shapes(q, k, v)}"
            )
    if B > 65535 or Hq > 65535:
        raise ValueError(f"B and Hq must be at most 65535, the limit of a grid; got {B} and {Hq}")


def _check_dtypes(q: Tensor, k: Tensor, v: Tensor, features: Features) -> None:
    if q.dtype not in DTYPES:
        raise TypeError(f"q must be float32, float16 or bfloat16; got {q.dtype}")
    if k.dtype != v.dtype or k.dtype not in (q.dtype, *QUANTISED):
        raise TypeError(
            "k_cache and v_cache must have the dtype of q, or both int8, float8_e4m3fn or "
            f"float8_e5m2; got q {q.dtype}, k_cache {k.dtype}, v_cache {v.dtype}"
        )
    if k.dtype != q.dtype:
        check_eight_bits(k)
    for name in ("k_scale", "v_scale"):
        check_scale(name, getattr(features, name), k, q.shape[0])


def _check_scores(B: int, Lq: int, Hq: int, features: Features) -> None:
    """Check what decides how a key scores and which queries see it."""
    check_window(features.window)
    if features.softcap is not None:
        if isinstance(features.softcap, bool) or not isinstance(features.softcap, int | float):
            raise TypeError(
                f"softcap must be a number or None; got {features.softcap!r}"
                f"{remedy(features.softcap)}"
            )
        if not SOFTCAPS[0] <= features.softcap <= SOFTCAPS[1]:
            raise ValueError(
                f"softcap must be above 0, from {SOFTCAPS[0]} to {SOFTCAPS[1]} (None: none); got "
                f"{features.softcap!r:.30}"
            )
    _check_float("sinks", features.sinks, ((Hq,),), (*DTYPES, torch.float64))
    _check_float("alibi_slopes", features.alibi_slopes, ((Hq,), (B, Hq)), (torch.float32,))
    shapes = ((Lq, Lq), (B, Lq, Lq))
    _check_float("mask", features.mask, shapes, (torch.bool, *DTYPES))


def _check_float(
    name: str,
    x: Tensor | None,
    shapes: tuple[tuple[int, ...], ...],
    dtypes: tuple[torch.dtype, ...],
) -> None:
    """Check a tensor's dtype and shape; its last dimension must be contiguous. None passes."""
    if x is None:
        return
    if not isinstance(x, Tensor) or x.dtype not in dtypes:
        raise TypeError(f"{name} must be a tensor, {dtype_names(dtypes)}; got {kind(x)}")
    if tuple(x.shape) not in shapes:
        raise ValueError(f"{name} must be {' or '.join(map(str, shapes))}; got {tuple(x.shape)}")
    check_last_contiguous(name, x)


def check_workspace(x: Tensor, numbers: int, device: torch.device) -> None:
    """Check that the caller's scratch memory is fp32, contiguous, large enough, on the device."""
    if not isinstance(x, Tensor) or x.dtype != torch.float32 or x.layout != torch.strided:
        raise TypeError(f"workspace must be a float32 tensor; got {kind(x)}")
    if x.ndim != 1 or not x.is_contiguous() or x.device != device:
        raise ValueError(
            f"workspace must be one contiguous row of numbers on {device}; got {tuple(x.shape)} on "
            f"{x.device}"
        )
    check_no_grad("workspace", x, "it is overwritten")
    if x.numel() < numbers:
        raise ValueError(
            f"workspace must hold {numbers} fp32 numbers for the partial results; got {x.numel()}: "
            "`workspace_bytes` says how much a call needs"
        )


def check_grid(q: Tensor, programs: int, block_m: int) -> None:
    """Check that the tiles of block_m query rows fit on one axis of a launch."""
    if programs > 65535:
        raise ValueError(
            f"q has too many rows for one launch: Hkv · ⌈G·Lq / {block_m}⌉ must be at most 65535; "
            f"got {programs} for q {tuple(q.shape)}"
        )


def row_ends(B: int, Lq: int, k_cache: Tensor, features: Features) -> tuple[Tensor, Tensor]:
    """Return the first place that each row sees, and its length: two (B,), int64, on the CPU.

    The two are equal where a row sees nothing. Arguments as in `split_call`.
    """
    length = torch.full((B,), features.capacity(k_cache))
    if features.cache_seqlens is not None:
        length = features.cache_seqlens.cpu().long()
    first_key = torch.zeros_like(length)
    if features.cache_leftpad is not None:
        first_key = features.cache_leftpad.cpu().long()
    if features.sides[0] is not None:
        first_key = torch.maximum(first_key, length - Lq - features.sides[0])
    return torch.minimum(first_key, length), length


def check_pages_exist(Lq: int, k_cache: Tensor, features: Features) -> None:
    """Raise ValueError unless every page that a row reads exists; dead entries may be anything."""
    if features.block_table is None:
        return
    table = features.block_table.cpu()
    first_key, length = (n[:, None] for n in row_ends(len(table), Lq, k_cache, features))
    begin = torch.arange(table.shape[1]) * k_cache.shape[1]
    live = (first_key < length) & (begin < length) & (begin + k_cache.shape[1] > first_key)
    pages = table[live]
    if pages.numel() and not 0 <= pages.min() <= pages.max() < len(k_cache):
        raise ValueError(
            f"block_table must name pages from 0 to {len(k_cache) - 1} where a row has keys; got "
            f"pages from {pages.min()} to {pages.max()}"
        )


def check_plan_fits(
    items: Tensor, first_slot: Tensor, block_n: int, Lq: int, k_cache: Tensor, features: Features
) -> None:
    """Raise ValueError unless a plan covers exactly the keys that the rows have now.

    items (W, 4), first_slot (B + 1,): as in `kernels.plan.Plan`.
    """
    B, slots = len(first_slot) - 1, first_slot.cpu()
    row, start, stop, slot = items.cpu().long().unbind(1)
    busy = row >= 0
    row, start, stop, slot = (n[busy] for n in (row, start, stop, slot))
    first_key, length = row_ends(B, Lq, k_cache, features)
    wanted = torch.where(first_key < length, length - first_key // block_n * block_n, 0)
    if (row < B).all():
        planned = torch.zeros_like(length).index_add(0, row, stop - start)
        inside = (start >= 0) & (start <= stop) & (stop <= length[row])
        counted = torch.bincount(row, minlength=B)
        own = (slot >= slots[row]) & (slot < slots[row + 1])
        agree = torch.equal(planned, wanted) and torch.equal(slots.diff(), counted.int())
        if agree and inside.all() and own.all() and slots[0] == 0:
            return
    raise ValueError(
        "plan must cover exactly the keys that the rows have now; got one made for other "
        "cache_seqlens (or padding): make a new one when they change"
    )
