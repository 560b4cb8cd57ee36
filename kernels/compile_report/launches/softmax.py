"""The launches of the softmax kernels that `kernels.compile_report` compiles."""

from functools import partial

import torch

from kernels.call import KernelCall
from kernels.compile_report.case import LaunchCase
from kernels.compile_report.targets import Target
from kernels.softmax import MAX_BLOCK, softmax_call


def compile_cases() -> list[LaunchCase]:
    """What `kernels.compile_report` compiles: a short row, the longest that fits, a wider one."""
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
    shapes = [("fp16", cols) for cols in (1024, MAX_BLOCK, 131072)]
    return [
        LaunchCase(f"softmax {dtype} {cols} columns", partial(_case, dtypes[dtype], cols), ("x",))
        for dtype, cols in [*shapes, ("bf16", MAX_BLOCK), ("fp32", MAX_BLOCK)]
    ]


def _case(dtype: torch.dtype, cols: int, _: Target) -> KernelCall:
    return softmax_call(*(torch.empty(4096, cols, dtype=dtype, device="meta") for _ in range(2)))
