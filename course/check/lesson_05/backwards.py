"""A right answer to exercise 5.2 that is written differently."""

from kernels.runtime import INTERPRETED  # noqa: F401 — before triton: it decides the mode

# isort: split
import triton
import triton.language as tl


@triton.jit
def backwards(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """Maximum first, then the sum, then the result; from the last block to the first."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    blocks = (cols + BLOCK - 1) // BLOCK
    largest = tl.full((BLOCK,), float("-inf"), tl.float32)
    for i in range(0, blocks):
        offs = (blocks - 1 - i) * BLOCK + tl.arange(0, BLOCK)
        largest = tl.maximum(largest, tl.load(x_ptr + offs, mask=offs < cols, other=float("-inf")))
    m = tl.max(largest, 0)
    m = tl.where(m == float("-inf"), 0.0, m)
    sums = tl.zeros((BLOCK,), tl.float32)
    for i in range(0, blocks):
        offs = (blocks - 1 - i) * BLOCK + tl.arange(0, BLOCK)
        sums += tl.exp(tl.load(x_ptr + offs, mask=offs < cols, other=float("-inf")) - m)
    l = tl.sum(sums, 0)
    l = tl.where(l == 0.0, 1.0, l)
    for i in range(0, blocks):
        offs = (blocks - 1 - i) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=float("-inf"))
        tl.store(p_ptr + offs, tl.exp(x - m) / l, mask=offs < cols)
