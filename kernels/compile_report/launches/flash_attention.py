"""Which launches of FlashAttention `kernels.compile_report` compiles, forward and backward.

The calls are those of `kernels.flash_attention.forward` and `kernels.flash_attention.backward`,
made from tensors that have shapes but no memory.
"""

from functools import partial

import torch
from torch import Tensor

from kernels.call import KernelCall
from kernels.compile_report.case import LaunchCase
from kernels.compile_report.targets import Target
from kernels.flash_attention.backward import backward_calls
from kernels.flash_attention.forward import forward_call
from kernels.flash_attention.packed import Packing
from kernels.flash_attention.tiles import choose_backward_tiles
from kernels.heuristics import choose_prefill_launch

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
WIDTHS = (("bf16", 192, 128), ("bf16", 128, 64), ("bf16", 64, 128), ("fp32", 192, 128))
"""dtype, D and Dv: MLA before it is absorbed, its half, values wider than keys, and fp32."""
NOT_ON_TURING = {"sm_75": "its registers cannot hold tiles of head dims above 128"}
B, HQ, HKV, L, SEQUENCES = 4, 32, 8, 4096, 8


def compile_cases() -> list[LaunchCase]:
    """List what is compiled: each row of the tile tables, a padded D, Dv ≠ D, packed sequences."""
    shapes = [("fp16", 64), ("bf16", 64), ("fp16", 128), ("bf16", 128), ("fp16", 80), ("fp16", 256)]
    shapes += [("fp32", 64), ("fp32", 128), ("fp32", 256)]
    cases = [_forward_case(*shape, L) for shape in shapes] + [_forward_case("fp16", 128, 1)]
    cases += [_forward_case(dtype, D, L, Dv=Dv) for dtype, D, Dv in WIDTHS]
    cases += [_forward_case("bf16", 192, 1, Dv=128)]
    cases += [_forward_case("bf16", 128, L, packed=True)]
    cases += [_forward_case("bf16", 192, L, packed=True, Dv=128)]
    cases += [case for shape in shapes for case in _backward_cases(*shape)]
    cases += [case for dtype, D, Dv in WIDTHS for case in _backward_cases(dtype, D, Dv=Dv)]
    cases += _backward_cases("bf16", 128, packed=True)
    cases += _backward_cases("bf16", 192, packed=True, Dv=128)
    return [*cases, LaunchCase("backward rows bf16 D=128", partial(_rows, "bf16", 128))]


def _forward_case(
    dtype: str, D: int, Lq: int, packed: bool = False, Dv: int | None = None
) -> LaunchCase:
    name = f"flash_attention {dtype} {_widths(D, Dv)} {'packed' if packed else f'Lq={Lq}'}"
    make = partial(_forward, dtype, (D, Dv or D), Lq, packed)
    return LaunchCase(name, make, streams=("k", "v"), dots=dtype != "fp32", tile=_tile)


def _tile(call: KernelCall) -> int:
    """Bytes of K and V in a tile of the forward kernel."""
    args = call.args
    return args["BLOCK_N"] * (args["D"] + args["DV"]) * args["k_ptr"].element_size()


def _backward_cases(
    dtype: str, D: int, packed: bool = False, Dv: int | None = None
) -> list[LaunchCase]:
    streams = {"dkdv": ("q", "do"), "dq": ("k", "v")}
    return [
        LaunchCase(
            f"{name} {dtype} {_widths(D, Dv)}" + packed * " packed",
            partial(_backward, number, dtype, (D, Dv or D), packed),
            streams=streams[name],
            dots=dtype != "fp32",
            unsupported=NOT_ON_TURING if max(D, Dv or D) > 128 else {},
        )
        for number, name in enumerate(("dkdv", "dq"), start=1)
    ]


def _widths(D: int, Dv: int | None) -> str:
    return f"D={D}" if Dv is None else f"D={D} Dv={Dv}"


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _tensors(
    dtype: str, widths: tuple[int, int], Lq: int, packed: bool
) -> tuple[Tensor, Tensor, Tensor, Packing | None]:
    """q, k, v and, if packed, where the sequences lie: all in one row."""
    rows, per_row = (1, B) if packed else (B, 1)
    D, Dv = widths
    q, k, v = (
        _meta(rows, per_row * length, heads, width, dtype=DTYPES[dtype])
        for length, heads, width in ((Lq, HQ, D), (L, HKV, D), (L, HKV, Dv))
    )
    cu_seqlens = _meta(SEQUENCES + 1, dtype=torch.int32)
    return q, k, v, Packing(cu_seqlens, cu_seqlens, Lq, L) if packed else None


def _forward(
    dtype: str, widths: tuple[int, int], Lq: int, packed: bool, target: Target
) -> KernelCall:
    """One causal launch, with the strides of contiguous tensors. widths: D and Dv."""
    q, k, v, packing = _tensors(dtype, widths, Lq, packed)
    D, Dv = widths
    tensor_cores = dtype != "fp32" and target.tensor_cores
    small = target.shared_per_block <= 65536
    launch = choose_prefill_launch(
        num_queries=Lq, head_dim=D, value_dim=Dv, tensor_cores=tensor_cores, small=small
    )
    o, lse = _meta(*q.shape[:3], Dv, dtype=q.dtype), _meta(*q.shape[:3])
    return forward_call(q, k, v, o, lse, packing, True, D**-0.5, launch)


def _backward(
    number: int, dtype: str, widths: tuple[int, int], packed: bool, target: Target
) -> KernelCall:
    """The launch of one of the three backward steps, causal. widths: D and Dv."""
    q, k, v, packing = _tensors(dtype, widths, L, packed)
    D, Dv = widths
    named = {"sm_75": "turing", "sm_90": "hopper", "gfx942": "amd"}
    tiles = choose_backward_tiles(
        head_dim=D,
        value_dim=Dv,
        element_size=DTYPES[dtype].itemsize,
        cores=named.get(target.name, "ampere"),
    )
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    o, do = (_meta(*q.shape[:3], Dv, dtype=q.dtype) for _ in range(2))
    lse = _meta(*q.shape[:3])
    calls = backward_calls(q, k, v, o, lse, do, lse, grads, packing, D**-0.5, True, tiles)
    return calls[number]


def _rows(dtype: str, D: int, target: Target) -> KernelCall:
    return _backward(0, dtype, (D, D), False, target)
