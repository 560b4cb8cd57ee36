"""Calls that differ from one of two others in one thing each, every one of them allowed.

A call is made anew each time, with the same numbers. `GPU_ONLY` sees to tensors that start at an
address that is no multiple of 16, which only a compiled kernel notices.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels.flash_decoding import flash_decode_plan
from kernels.runtime import INTERPRETED

Call = dict[str, Any]
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
B, Lk, Hq, Hkv, D, PAGE = 2, 96, 4, 2, 16, 32


def _numbers() -> Callable[..., Tensor]:
    rng = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=rng).to(DEVICE)


def _int32(*numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32, device=DEVICE)


def _int64(*numbers: Any) -> Tensor:
    return torch.tensor(numbers, device=DEVICE)


def _full(number: float, *shape: int) -> Tensor:
    return torch.full(shape, number, device=DEVICE)


def plain(dtype: torch.dtype = torch.float32, **sizes: int) -> Call:
    """q, k_cache, v_cache and lengths; sizes: B, Lq, Lk, Hq, Hkv, D, Dv."""
    n = {"B": B, "Lq": 2, "Lk": Lk, "Hq": Hq, "Hkv": Hkv, "D": D, "Dv": D} | sizes
    random = _numbers()
    return {
        "q": random(n["B"], n["Lq"], n["Hq"], n["D"]).to(dtype),
        "k_cache": random(n["B"], n["Lk"], n["Hkv"], n["D"]).to(dtype),
        "v_cache": random(n["B"], n["Lk"], n["Hkv"], n["Dv"]).to(dtype),
        "cache_seqlens": _int32(*[n["Lk"], 60, 3][: n["B"]]),
    }


def paged(eight: torch.dtype = torch.int8) -> Call:
    """Pages of 32 keys in eight bits, a scale per head."""
    call = plain()
    for name in ("k", "v"):
        x = call[f"{name}_cache"] * 20
        call[f"{name}_cache"] = x.to(eight).view(-1, PAGE, Hkv, D)
        call[f"{name}_scale"] = torch.tensor([0.05, 0.04], device=DEVICE)
    table = torch.arange(B * Lk // PAGE, dtype=torch.int32, device=DEVICE).flip(0).view(B, -1)
    return call | {"block_table": table}


def shifted(x: Tensor) -> Tensor:
    """A copy, one element further than memory usually starts: its address is no multiple of 16."""
    room = torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)[1:].view(x.shape)
    return room.copy_(x)


def spread(x: Tensor) -> Tensor:
    """A copy with gaps between the rows of its first dimension."""
    return torch.cat([x, x], 1)[:, : x.shape[1]]


def _latent(share: bool) -> Call:
    """One KV head whose values are columns of the keys, or copies of them."""
    call = plain(Hkv=1)
    return call | {"v_cache": call["k_cache"] if share else call["k_cache"].clone()}


def _planned() -> Call:
    call = plain()
    return call | {"plan": flash_decode_plan(**call)}


def _scratch(fit: Callable[[Tensor], Tensor] = lambda x: x) -> Call:
    return plain() | {"num_splits": 2, "workspace": fit(_full(0.0, 4000))}


def _one_scale() -> Call:
    call = paged()
    return call | {"v_scale": call["k_scale"]}


_random = _numbers()
ADDED = {
    "all": {"causal": False},
    "scale": {"scale": 0.3},
    "scale 0": {"scale": 0.0},
    "scale -0": {"scale": -0.0},
    "scale 1": {"scale": 1},
    "scale 1.0": {"scale": 1.0},
    "one split": {"num_splits": 1},
    "two splits": {"num_splits": 2},
    "split size": {"split_size": 64},
    "SMs": {"num_sms": 1},
    "window 5": {"window": 5},
    "window 6": {"window": 6},
    "window on both sides": {"window": (5, 1), "causal": False},
    "window to the right": {"window": (None, 1), "causal": False},
    "softcap": {"softcap": 2.0},
    "softcap 3": {"softcap": 3.0},
    "softcap 3, an int": {"softcap": 3},
    "padding": {"cache_leftpad": _int32(3, 0)},
    "padding, int64": {"cache_leftpad": _int64(3, 0)},
    "rows": {"cache_batch_idx": _int64(1, 1)},
    "sinks": {"sinks": _random(Hq)},
    "sinks, bf16": {"sinks": _random(Hq).bfloat16()},
    "ALiBi": {"alibi_slopes": _random(Hq).abs()},
    "ALiBi of each row": {"alibi_slopes": _random(B, Hq).abs()},
    "mask": {"mask": _random(2, 2)},
    "mask, bool": {"mask": _random(2, 2) > -0.5},
    "mask, bool, of each row": {"mask": _random(B, 2, 2) > -0.5},
    "no lengths": {"cache_seqlens": None},
    "lengths, int64": {"cache_seqlens": _int64(Lk, 70)},
}
DECODE: dict[str, Callable[[], Call]] = {
    "plain": plain,
    **{name: lambda added=added: plain() | added for name, added in ADDED.items()},
    **{
        f"{name} = {size}": lambda name=name, size=size: plain(**{name: size})
        for name, size in {"B": 3, "Lq": 1, "Lk": 64, "Hq": 6, "Hkv": 4, "D": 8, "Dv": 8}.items()
    },
    "bf16": lambda: plain(torch.bfloat16),
    "fp16": lambda: plain(torch.float16),
    **{
        f"{name}, spread": lambda name=name: plain() | {name: spread(plain()[name])}
        for name in ("q", "k_cache", "v_cache")
    },
    "latent": lambda: _latent(True),
    "copies of the keys": lambda: _latent(False),
    "plan": _planned,
    "workspace": _scratch,
    "workspace, longer": lambda: _scratch(lambda x: torch.cat([x, x])),
    "int8 pages": paged,
    "one scale for both": _one_scale,
    "scales of each row": lambda: paged() | {"k_scale": _full(0.05, B, Hkv)},
    "a scale for all": lambda: paged() | {"k_scale": _full(0.05)},
    "e5m2 pages": lambda: paged(torch.float8_e5m2),
    "e4m3 pages": lambda: paged(torch.float8_e4m3fn),
    "a window over pages": lambda: paged() | {"window": 5},
    "half the pages": lambda: paged() | {
        "block_table": paged()["block_table"][:, :2], "cache_seqlens": _int64(40, 1)
    },
}  # fmt: skip
GPU_ONLY = {
    f"{name}, shifted": lambda name=name: plain() | {name: shifted(plain()[name])}
    for name in plain()
} | {"workspace, shifted": lambda: _scratch(shifted)}


def append(**change: Any) -> Call:
    """One token for each of two rows, rotated; caches of NaN."""
    random = _numbers()
    angles = random(Lk, D // 2)
    return {
        **{name: _full(torch.nan, B, Lk, Hkv, D) for name in ("k_cache", "v_cache")},
        **{"k": random(B, 1, Hkv, D), "v": random(B, 1, Hkv, D), "q": random(B, 1, Hq, D)},
        "cache_seqlens": _int32(5, 0),
        **{"rotary_cos": angles.cos(), "rotary_sin": angles.sin()},
    } | change


def _quantised(scale: Callable[[], Tensor]) -> Call:
    caches = {
        x: torch.zeros(B, Lk, Hkv, D, dtype=torch.int8, device=DEVICE)
        for x in ("k_cache", "v_cache")
    }
    return append(**caches, k_scale=scale(), v_scale=scale())


APPEND: dict[str, Callable[[], Call]] = {
    "rotated": append,
    "in pairs": lambda: append(interleaved=True),
    "all at the old length": lambda: append(rotate_at="first", q=_numbers()(B, 2, Hq, D)),
    "two queries": lambda: append(q=_numbers()(B, 2, Hq, D)),
    "no q": lambda: append(q=None),
    "not rotated": lambda: append(rotary_cos=None, rotary_sin=None),
    "two tokens": lambda: append(k=_full(1.0, B, 2, Hkv, D), v=_full(1.0, B, 2, Hkv, D)),
    "no token": lambda: append(k=_full(1.0, B, 0, Hkv, D), v=_full(1.0, B, 0, Hkv, D)),
    "lengths, int64": lambda: append(cache_seqlens=_int64(5, 0)),
    "no lengths": lambda: append(cache_seqlens=None),
    "other rows": lambda: append(cache_batch_idx=_int64(1, 0)),
    "pages": lambda: append(block_table=_int32([1], [0])),
    "k, spread": lambda: append(k=spread(append()["k"])),
    "fewer angles": lambda: append(**{x: append()[x][:9] for x in ("rotary_cos", "rotary_sin")}),
    "fewer dimensions": lambda: append(
        **{x: append()[x][:, :4].clone() for x in ("rotary_cos", "rotary_sin")}
    ),
    "k and v are one": lambda: append(**dict.fromkeys(("k", "v"), _full(1.0, B, 1, Hkv, D))),
    "bf16 angles": lambda: append(
        **{x: append()[x].bfloat16() for x in ("rotary_cos", "rotary_sin")}
    ),
    "int8": lambda: _quantised(lambda: _full(0.1)),
    "int8, per head": lambda: _quantised(lambda: _full(0.1, Hkv)),
    "int8, per row": lambda: _quantised(lambda: _full(0.1, B, Hkv)),
    "int8, per token": lambda: _quantised(lambda: _full(0.0, B, Lk, Hkv)),
}
