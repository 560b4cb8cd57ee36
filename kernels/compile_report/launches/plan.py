"""The launches of the plan kernel that `kernels.compile_report` compiles."""

import torch

from kernels.call import KernelCall
from kernels.compile_report.case import LaunchCase
from kernels.plan.plan_kernel import plan_call


def compile_cases() -> list[LaunchCase]:
    """List what `kernels.compile_report` compiles of the plan kernel."""
    return [
        LaunchCase("plan int32 B=64", lambda _: _case(64, torch.int32, None)),
        LaunchCase("plan int64 B=300 window, padding", lambda _: _case(300, torch.int64, 4096)),
    ]


def _case(B: int, dtype: torch.dtype, reach: int | None) -> KernelCall:
    items = torch.empty(33 + B, 4, dtype=torch.int32, device="meta")
    first_slot = torch.empty(B + 1, dtype=torch.int32, device="meta")
    lengths = torch.empty(B, dtype=dtype, device="meta")
    return plan_call(
        items,
        first_slot,
        lengths,
        lengths if reach else None,
        programs=33,
        max_len=131072,
        reach=reach,
        block_n=64,
    )
