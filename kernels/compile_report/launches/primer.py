"""The launches of the first kernels that `kernels.compile_report` compiles."""

from functools import partial

import torch

from kernels.call import KernelCall
from kernels.compile_report.case import LaunchCase
from kernels.compile_report.targets import Target
from kernels.primer import matmul_call, vector_add_call


def compile_cases() -> list[LaunchCase]:
    """What `kernels.compile_report` compiles: the sum, and the product in fp16 and fp32."""
    fp16, fp32 = partial(_matmul_case, torch.float16), partial(_matmul_case, torch.float32)
    return [
        LaunchCase("vector_add fp32", _vector_add_case, ("x", "y")),
        LaunchCase("matmul fp16", fp16, ("a", "b"), dots=True),
        LaunchCase("matmul fp32", fp32, ("a", "b")),
    ]


def _vector_add_case(_: Target) -> KernelCall:
    return vector_add_call(*(torch.empty(2**20, device="meta") for _ in range(3)))


def _matmul_case(dtype: torch.dtype, target: Target) -> KernelCall:
    a, b, c = (torch.empty(4096, 4096, dtype=dtype, device="meta") for _ in range(3))
    return matmul_call(a, b, c, target.tensor_cores)
