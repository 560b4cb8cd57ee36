"""Row softmax, fused: the first kernel that is faster because it reads less.

Written with PyTorch's own operations, `p = exp(x - x.max()) / sum` over a (rows, cols) tensor makes
five trips through memory. Counted in elements, for n = rows · cols:

    m = x.max(1)       reads n                   the fused kernel, a program per row:
    z = x - m          reads n   writes n            reads n     (the row stays in registers)
    e = z.exp()        reads n   writes n            writes n
    s = e.sum(1)       reads n
    p = e / s          reads n   writes n        2n instead of 8n: a quarter

A row wider than a block (`MAX_BLOCK`) does not stay in registers. It is read twice: once
for the maximum and the sum together, by the online softmax, and once to write the result. 3n.

    grid (rows,)      program i ─→  row i  ├────── BLOCK ──────┤              cols ≤ MAX_BLOCK
                                           ├─ BLOCK ─┼─ BLOCK ─┼─ BLOCK ─┄    wider: a loop

Source: Milakov & Gimelshein 2018, "Online normalizer calculation for softmax", algorithms 2 (safe)
and 3 (online).
"""

import torch

from kernels.call import KernelCall
from kernels.checks import DTYPES
from kernels.primitives import round_to, to_fp32
from kernels.runtime import INTERPRETED, device

# isort: split
import triton
import triton.language as tl

MAX_BLOCK = 16384  # fp32 values of one row that 8 warps hold in registers: 64 per thread
WIDE_BLOCK = 4096  # the tile of the loop over wider rows


@triton.jit
def softmax_kernel(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr) -> None:
    """One row that fits in a block: one read, one write."""
    row = tl.program_id(0).to(tl.int64)
    offs = tl.arange(0, BLOCK)
    mask = offs < cols
    x = to_fp32(tl.load(x_ptr + row * stride_xr + offs, mask=mask, other=float("-inf")))
    m = tl.max(x, 0)
    # A row of -inf alone would be -inf - (-inf) = NaN; with 0 in its place it becomes all zeros.
    e = tl.exp(x - tl.where(m == float("-inf"), 0.0, m))
    l = tl.sum(e, 0)
    p = e / tl.where(l == 0.0, 1.0, l)
    tl.store(p_ptr + row * stride_pr + offs, round_to(p, p_ptr.dtype.element_ty), mask=mask)


@triton.jit
def softmax_wide_kernel(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr) -> None:
    """One row of any width: an online pass for maximum and sum, then a pass that writes."""
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride_xr
    p_ptr += row * stride_pr
    m = float("-inf")
    ruler = 0.0  # m, or 0 while m is -inf: what the exponents are measured from
    l = 0.0
    for start in range(0, cols, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        x = to_fp32(tl.load(x_ptr + offs, mask=offs < cols, other=float("-inf")))
        m_new = tl.maximum(m, tl.max(x, 0))
        ruler = tl.where(m_new == float("-inf"), 0.0, m_new)
        l = l * tl.exp(m - ruler) + tl.sum(tl.exp(x - ruler), 0)  # old sum → new ruler, plus block
        m = m_new

    l = tl.where(l == 0.0, 1.0, l)
    for start in range(0, cols, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        mask = offs < cols
        x = to_fp32(tl.load(x_ptr + offs, mask=mask, other=float("-inf")))
        p = tl.exp(x - ruler) / l
        tl.store(p_ptr + offs, round_to(p, p_ptr.dtype.element_ty), mask=mask)


def softmax(x: torch.Tensor) -> torch.Tensor:
    """Return the softmax of every row of x.

    x: (rows, cols), fp32, fp16 or bf16; rows may lie any distance apart, a row is contiguous.
    Returns (rows, cols), contiguous, in the dtype of x, computed in fp32. A row of nothing but -inf
    gives zeros, as `reference.attention.safe_softmax` does (torch.softmax: NaN).

    Bytes moved: 2 · rows · cols · itemsize if cols ≤ MAX_BLOCK, otherwise 3 · rows · cols ·
    itemsize.
    Raises ValueError for a wrong rank, stride or device, TypeError for other dtypes.
    """
    if x.ndim != 2:
        raise ValueError(f"x must be (rows, cols); got {tuple(x.shape)}")
    rows, cols = x.shape
    if x.dtype not in DTYPES:
        raise TypeError(f"x must have a dtype of {DTYPES}; got {x.dtype}")
    if cols > 1 and x.stride(1) != 1:
        raise ValueError(f"each row of x must be contiguous (stride 1); got {x.stride()}")
    if x.device.type != device():
        mode = "interpreted" if INTERPRETED else "compiled"
        raise ValueError(f"x must be on {device()} ({mode} kernels); got {x.device}")
    p = torch.empty(rows, cols, dtype=x.dtype, device=x.device)
    if p.numel():
        softmax_call(x, p).launch(x.device)
    return p


def softmax_call(x: torch.Tensor, p: torch.Tensor) -> KernelCall:
    """Return the launch that writes the softmax of x (rows, cols) into p."""
    rows, cols = x.shape
    kernel, block, num_warps = _launch(cols)
    args = {
        "x_ptr": x,
        "p_ptr": p,
        "cols": cols,
        "stride_xr": x.stride(0),
        "stride_pr": p.stride(0),
        "BLOCK": block,
    }
    return KernelCall(kernel, (rows,), args, num_warps)


def _launch(cols: int) -> tuple[triton.JITFunction, int, int]:
    """Kernel, BLOCK and warps for a row width: the whole row where it fits, tiles where not."""
    if cols > MAX_BLOCK:
        return softmax_wide_kernel, WIDE_BLOCK, 8
    block = triton.next_power_of_2(cols)
    return softmax_kernel, block, 4 if block <= 2048 else 8
