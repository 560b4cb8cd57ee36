"""An exercise to test the checker with whose answer is a Triton kernel: double a tensor."""

import torch

from course.check import Exercise, Property, Seen
from course.check.guards import guarded, poisoned

from kernels import runtime  # isort: skip - decides the mode before triton is imported
import triton
import triton.language as tl


@triton.jit
def double_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < n)
    tl.store(y_ptr + offs, 2 * x, mask=offs < n)


def odd_length(answer, rng, n=20):
    numbers = torch.randn(n, generator=rng).to(runtime.device())
    x, y = guarded(numbers, "x"), poisoned((n,), name="y", device=runtime.device())
    answer[(2,)](x.tensor, y.tensor, n, BLOCK=16)
    return Seen(y.tensor, 2 * numbers, f"n = {n}, BLOCK = 16", guards=(x, y))


DOUBLE = Exercise(
    id="9.3",
    name="double",
    title="Double",
    section="1",
    right=double_kernel,
    also_right=(),
    properties=(Property("odd length", "n is not a multiple of the block", odd_length),),
    mistakes=(),
    needs=("triton",),
)
