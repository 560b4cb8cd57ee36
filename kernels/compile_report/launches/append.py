"""The launches of the append kernel that `kernels.compile_report` compiles."""

from functools import partial

import torch
from torch import Tensor

from kernels.append.append_kernel import Tokens, append_call
from kernels.call import KernelCall
from kernels.compile_report.case import LaunchCase
from kernels.compile_report.targets import Target


def compile_cases() -> list[LaunchCase]:
    """List what `kernels.compile_report` compiles of the append kernel."""
    no_e4m3 = {
        name: "Triton converts to float8_e4m3fn from sm_89 on"
        for name in ("sm_75", "sm_80", "sm_86")
    }
    bf16, e4m3, e5m2 = torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2
    return [
        LaunchCase("append bf16 D=128 Ln=1", partial(_case, bf16, bf16, 1, 0)),
        LaunchCase("append fp32 D=128 Ln=1", partial(_case, torch.float32, torch.float32, 1, 0)),
        LaunchCase("append bf16 D=128 Ln=512 page=16", partial(_case, bf16, bf16, 512, 16)),
        LaunchCase("append bf16 D=128 Ln=512 page=528", partial(_case, bf16, bf16, 512, 528)),
        LaunchCase("append int8 D=128 Ln=1 page=16", partial(_case, bf16, torch.int8, 1, 16)),
        LaunchCase("append int8 D=128 Ln=1 page=528", partial(_case, bf16, torch.int8, 1, 528)),
        LaunchCase(
            "append int8 D=128 Ln=1 scale a row",
            partial(_case, bf16, torch.int8, 1, 0, per_row=True),
        ),
        LaunchCase("append e4m3 D=128 Ln=1", partial(_case, bf16, e4m3, 1, 0), unsupported=no_e4m3),
        LaunchCase("append e5m2 D=128 Ln=1", partial(_case, bf16, e5m2, 1, 0)),
    ]


def _case(
    dtype: torch.dtype,
    stored: torch.dtype,
    Ln: int,
    page: int,
    _: Target,
    *,
    per_row: bool = False,
) -> KernelCall:
    """Append to 4 rows of 8 KV heads; scales, in eight bits, per token, or per row and head."""

    def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    cells = (1000, page, 8) if page else (4, 8192, 8)
    shape = (4, 8) if per_row else cells
    scales = [empty(*shape, dtype=torch.float32) if stored != dtype else None for _ in "kv"]
    x = Tokens(
        empty(*cells, 128, dtype=stored),
        empty(*cells, 128, dtype=stored),
        empty(4, Ln, 8, 128),
        empty(4, Ln, 8, 128),
        cache_seqlens=empty(4, dtype=torch.int32),
        block_table=empty(4, 512, dtype=torch.int32) if page else None,
        rotary_cos=empty(8192, 64),
        rotary_sin=empty(8192, 64),
        q=empty(4, Ln, 32, 128),
        k_scale=scales[0],
        v_scale=scales[1],
    )
    return append_call(x, interleaved=bool(page), each=True, q_out=x.q)
