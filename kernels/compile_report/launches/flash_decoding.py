"""Which launches of Flash-Decoding `kernels.compile_report` compiles: each feature at least once.

The calls are those of `kernels.flash_decoding.launch`, made from tensors that have shapes but no
memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.call import KernelCall
from kernels.compile_report.case import LaunchCase
from kernels.compile_report.targets import Target
from kernels.flash_decoding.combine import combine_call
from kernels.flash_decoding.features import Features
from kernels.flash_decoding.split import split_call
from kernels.heuristics import choose_decode_launch

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": torch.int8,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
B, LK, HKV, SPLITS = 4, 4096, 8, 16
NO_E4M3 = dict.fromkeys(("sm_75", "sm_80", "sm_86"), "no instruction converts e4m3 before sm_89")
AT_MOST = {  # instructions that a warp issues per tile; lower a number whenever a change does
    "split bf16 D=128 G=8 Lq=1": {"sm_80": 260, "sm_90": 260},
    "split bf16 D=128 G=8 Lq=1 pages of 64": {"sm_80": 300, "sm_90": 300},
    "split bf16 D=128 G=8 Lq=1 pages of 16": {"sm_80": 350, "sm_90": 350},
    "split bf16 D=128 G=1 Lq=1": {"sm_80": 300, "sm_90": 300},
    "split bf16 e4m3 D=128 G=8 Lq=1 scale a head": {"sm_90": 320},
    "split bf16 int8 D=128 G=8 Lq=1 scale a head": {"sm_80": 380, "sm_90": 380},
    "split bf16 e5m2 D=128 G=8 Lq=1 scale a head": {"sm_80": 290, "sm_90": 290},
}
WHOLE = {"sm_80": 128 * 1024, "sm_90": 192 * 1024}  # two tiles of 32 KiB in two, three programs
HALF = {"sm_80": 96 * 1024, "sm_90": 192 * 1024}  # three of 16 KiB in two, four: eight bits
AT_LEAST = {name: WHOLE if name.startswith("split bf16 D") else HALF for name in AT_MOST}
NO_MLA = {"sm_75": "576 columns take more shared memory than a program gets"}


@dataclass(frozen=True)
class Shape:
    """One launch: dtype of q, dtype of the cache if different, head dims, rows, page size."""

    dtype: str
    D: int
    G: int
    Lq: int = 1
    kv: str | None = None
    Dv: int | None = None
    page: int | None = None
    latent: bool = False
    plan: bool = False


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor with a shape but no memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def compile_cases() -> list[LaunchCase]:
    """List what is compiled for both stages."""
    plain = [("bf16", D, G, 1) for D in (64, 128, 256) for G in (1, 8)]
    plain += [("bf16", 128, 8, 8), ("fp16", 80, 4, 1), ("fp32", 128, 8, 1)]
    cases = [_case(Shape(*x)) for x in plain]
    token = {"k_scale": ("token",), "v_scale": ("token",)}
    head = {"k_scale": (HKV,), "v_scale": (HKV,)}
    row = {"k_scale": (B, HKV), "v_scale": (B, HKV)}
    base = Shape("bf16", 128, 8)
    cases += [
        _case(base, "window", window=4095),
        _case(base, "leftpad", cache_leftpad=(B,)),
        _case(base, "softcap ALiBi", softcap=30.0, alibi_slopes=(8 * HKV,)),
        _case(Shape("bf16", 128, 8, 8), "tree mask", mask=(B, 8, 8)),
        _case(Shape("bf16", 128, 8, page=16), "pages of 16"),
        _case(Shape("bf16", 128, 8, page=64), "pages of 64"),
        _case(Shape("bf16", 128, 8, page=256), "pages of 256"),
        _case(Shape("bf16", 128, 1, page=16), "pages of 16"),
        _case(Shape("bf16", 128, 8, page=48), "pages of 48"),
        _case(Shape("bf16", 128, 8, page=528), "pages of 528"),
        _case(Shape("bf16", 128, 8, page=576), "pages of 576"),
        _case(Shape("bf16", 128, 1, page=528), "pages of 528"),
        _case(Shape("bf16", 128, 8, kv="int8", page=528), "pages of 528, scale a token", **token),
        _case(Shape("bf16", 128, 8, plan=True), "plan"),
        _case(Shape("bf16", 128, 8, kv="int8"), "scale a head", **head),
        _case(Shape("bf16", 128, 8, kv="int8"), "scale a row", **row),
        _case(Shape("bf16", 128, 8, kv="int8"), "scale a token", **token),
        _case(Shape("bf16", 128, 1, kv="int8"), "scale a head", **head),
        _case(Shape("bf16", 128, 8, kv="e4m3"), "scale a head", NO_E4M3, **head),
        _case(Shape("fp16", 128, 8, kv="e5m2"), "scale a token", **token),
        _case(Shape("bf16", 128, 8, kv="e5m2"), "scale a head", **head),
        _case(Shape("bf16", 192, 16, Dv=128), "Dv=128"),
        _case(Shape("bf16", 576, 16, Dv=512, latent=True), "MLA", NO_MLA),
        _case(Shape("bf16", 576, 128, Dv=512, latent=True), "MLA", NO_MLA),
    ]
    return cases + _merges()


def _merges() -> list[LaunchCase]:
    """The combine kernel: head dims and features, and each of its tiles."""
    shapes = [("bf16", 64, ""), ("bf16", 128, ""), ("bf16", 256, ""), ("fp16", 80, "")]
    shapes += [("bf16", 512, ""), ("bf16", 128, "plan, sinks"), ("bf16", 128, "marks")]
    return [
        *(combine_case(dtype, D, name) for dtype, D, name in shapes),
        combine_case("bf16", 128, splits=8),
        combine_case("bf16", 128, splits=128),
        combine_case("bf16", 512, "marks", splits=128),
    ]


def _case(
    shape: Shape, name: str = "", unsupported: dict[str, str] | None = None, **features: object
) -> LaunchCase:
    """One launch of the split kernel; features that are tensors are given as shapes."""
    kind = shape.dtype if shape.kv is None else f"{shape.dtype} {shape.kv}"
    title = f"split {kind} D={shape.D} G={shape.G} Lq={shape.Lq} {name}".strip()
    make: Callable[[Target], KernelCall] = partial(_split, shape, features)
    tile = choose_decode_launch(
        rows=shape.G * shape.Lq, head_dim=shape.D, element_size=2, tensor_cores=True
    )
    dots = shape.dtype != "fp32" and tile.block_m > 1
    streams = ("k",) if shape.latent else ("k", "v")
    return LaunchCase(
        title,
        make,
        streams=streams,
        dots=dots,
        unsupported=unsupported or {},
        tile=_tile,
        at_most=AT_MOST.get(title, {}),
        at_least=AT_LEAST.get(title, {}),
    )


def _tile(call: KernelCall) -> int:
    """Bytes of K and V in a block of keys; a latent head has no V of its own."""
    args, cache = call.args, call.args["cache"]
    latent = cache.v_cells is None and cache.v_ptr is None
    columns = args["D"] + (0 if latent else args["DV"])
    return args["BLOCK_N"] * columns * cache.k_cells.ptr.element_size()


def _split(shape: Shape, given: dict[str, object], target: Target) -> KernelCall:
    dtype, kv = DTYPES[shape.dtype], DTYPES[shape.kv or shape.dtype]
    Hkv = 1 if shape.latent else HKV
    Dv, rows = shape.Dv or shape.D, (B, LK)
    indices = {"cache_seqlens": meta(B, dtype=torch.int32)}
    if shape.page is not None:
        pages = -(-LK // shape.page)
        rows = (B * pages, shape.page)
        indices["block_table"] = meta(B, pages, dtype=torch.int32)
    given = dict(given)
    if given.pop("cache_leftpad", None):
        indices["cache_leftpad"] = meta(B, dtype=torch.int32)
    shapes = {name: wish for name, wish in given.items() if isinstance(wish, tuple)}
    token = (*rows, Hkv)
    given |= {name: meta(*(token if s == ("token",) else s)) for name, s in shapes.items()}
    launch = choose_decode_launch(
        rows=shape.G * shape.Lq,
        head_dim=shape.D,
        value_dim=Dv,
        element_size=kv.itemsize,
        tensor_cores=dtype != torch.float32 and target.tensor_cores,
        small=target.shared_per_block <= 65536,
        paged=shape.page is not None,
    )
    q = meta(B, shape.Lq, shape.G * Hkv, shape.D, dtype=dtype)
    k, v = (meta(*rows, Hkv, d, dtype=kv) for d in (shape.D, Dv))
    o = meta(SPLITS, B, shape.Lq, shape.G * Hkv, Dv)
    return split_call(
        q,
        k,
        None if shape.latent else v,
        Features(**indices, **given),
        o,
        meta(*o.shape[:-1]),
        num_splits=SPLITS,
        causal=True,
        scale=shape.D**-0.5,
        launch=launch,
        items=meta(64, 4, dtype=torch.int32) if shape.plan else None,
    )


def combine_case(dtype: str, D: int, name: str = "", splits: int = SPLITS) -> LaunchCase:
    """One merge; name: "", "marks" or "plan, sinks"."""
    title = f"combine {dtype} D={D} {name}".strip()
    title += "" if splits == SPLITS else f" S={splits}"
    return LaunchCase(title, partial(_combine, dtype, D, name, splits))


def _combine(dtype: str, D: int, name: str, splits: int, target: Target) -> KernelCall:
    """The merge of some splits, the same for all targets."""
    planned = name == "plan, sinks"
    o_partial = meta(64, 1, 64, D) if planned else meta(splits, B, 1, 64, D)
    o, first_slot = meta(B, 1, 64, D, dtype=DTYPES[dtype]), meta(B + 1, dtype=torch.int32)
    return combine_call(
        o_partial,
        meta(*o_partial.shape[:-1]),
        o,
        meta(B, 1, 64),
        first_slot=first_slot if planned else None,
        sinks=meta(64) if planned else None,
        marks=name == "marks",
    )
