"""Exercise 5.2's other right answer, and what people get wrong: wide softmax kernels.

Most differ from a right one by a line or two, so they share two helpers: the first pass over a row
and the second.
"""

from __future__ import annotations

from kernels.runtime import INTERPRETED  # noqa: F401 — before triton: it decides the mode

# isort: split
import triton
import triton.language as tl

NEG_INF = tl.constexpr(float("-inf"))


@triton.jit
def normaliser(
    x_ptr, cols, BLOCK: tl.constexpr, OTHER: tl.constexpr, RESCALE: tl.constexpr, SAFE: tl.constexpr
):
    """Ruler and sum of a row, in one pass; the constants switch off parts of it."""
    m = NEG_INF
    ruler = 0.0
    l = 0.0
    for start in range(0, cols, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=OTHER)
        m_new = tl.maximum(m, tl.max(x, 0))
        ruler = tl.where(m_new == NEG_INF, 0.0, m_new) if SAFE else m_new
        l = (l * tl.exp(m - ruler) if RESCALE else l) + tl.sum(tl.exp(x - ruler), 0)
        m = m_new
    return ruler, l


@triton.jit
def write(x_ptr, p_ptr, cols, ruler, l, BLOCK: tl.constexpr):
    """The second pass: p = exp(x - ruler) / l."""
    for start in range(0, cols, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=NEG_INF)
        tl.store(p_ptr + offs, tl.exp(x - ruler) / l, mask=offs < cols)


@triton.jit
def not_zero(l):
    """The sum, or 1 if it is 0."""
    return tl.where(l == 0.0, 1.0, l)


@triton.jit
def backwards(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """Another right answer: maximum first, then the sum, then the result; from the last block."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    blocks = (cols + BLOCK - 1) // BLOCK
    largest = tl.full((BLOCK,), NEG_INF, tl.float32)
    for i in range(0, blocks):
        offs = (blocks - 1 - i) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=NEG_INF)
        largest = tl.maximum(largest, x)
    m = tl.max(largest, 0)
    m = tl.where(m == NEG_INF, 0.0, m)
    sums = tl.zeros((BLOCK,), tl.float32)
    for i in range(0, blocks):
        offs = (blocks - 1 - i) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=NEG_INF)
        sums += tl.exp(x - m)
    write(x_ptr, p_ptr, cols, m, not_zero(tl.sum(sums, 0)), BLOCK)


@triton.jit
def not_rescaled(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """The old sum stays as it was when the maximum moves."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    ruler, l = normaliser(x_ptr, cols, BLOCK, OTHER=NEG_INF, RESCALE=False, SAFE=True)
    write(x_ptr, p_ptr, cols, ruler, not_zero(l), BLOCK)


@triton.jit
def written_too_early(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """Writes in the first pass."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    m = NEG_INF
    l = 0.0
    for start in range(0, cols, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=NEG_INF)
        m_new = tl.maximum(m, tl.max(x, 0))
        ruler = tl.where(m_new == NEG_INF, 0.0, m_new)
        e = tl.exp(x - ruler)
        l = l * tl.exp(m - ruler) + tl.sum(e, 0)
        tl.store(p_ptr + offs, e / not_zero(l), mask=offs < cols)
        m = m_new


@triton.jit
def first_block_only(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """No loop."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    offs = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < cols, other=NEG_INF)
    m = tl.max(x, 0)
    e = tl.exp(x - tl.where(m == NEG_INF, 0.0, m))
    tl.store(p_ptr + offs, e / not_zero(tl.sum(e, 0)), mask=offs < cols)


@triton.jit
def zero_lanes(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """Lanes past the end are 0."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    ruler, l = normaliser(x_ptr, cols, BLOCK, OTHER=0.0, RESCALE=True, SAFE=True)
    write(x_ptr, p_ptr, cols, ruler, not_zero(l), BLOCK)


@triton.jit
def mask_of_the_block(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """The mask ignores where the block starts."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    mask = tl.arange(0, BLOCK) < cols
    m = NEG_INF
    l = 0.0
    for start in range(0, cols, BLOCK):
        x = tl.load(x_ptr + start + tl.arange(0, BLOCK), mask=mask, other=NEG_INF)
        m_new = tl.maximum(m, tl.max(x, 0))
        ruler = tl.where(m_new == NEG_INF, 0.0, m_new)
        l = l * tl.exp(m - ruler) + tl.sum(tl.exp(x - ruler), 0)
        m = m_new
    ruler = tl.where(m == NEG_INF, 0.0, m)
    for start in range(0, cols, BLOCK):
        x = tl.load(x_ptr + start + tl.arange(0, BLOCK), mask=mask, other=NEG_INF)
        tl.store(p_ptr + start + tl.arange(0, BLOCK), tl.exp(x - ruler) / not_zero(l), mask=mask)


@triton.jit
def no_ruler(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """-inf - (-inf), as long as nothing but -inf was seen."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    ruler, l = normaliser(x_ptr, cols, BLOCK, OTHER=NEG_INF, RESCALE=True, SAFE=False)
    write(x_ptr, p_ptr, cols, ruler, not_zero(l), BLOCK)


@triton.jit
def zero_by_zero(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """0 / 0 in a row of -inf."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    ruler, l = normaliser(x_ptr, cols, BLOCK, OTHER=NEG_INF, RESCALE=True, SAFE=True)
    write(x_ptr, p_ptr, cols, ruler, l, BLOCK)


@triton.jit
def not_divided(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """Exponentials without their sum."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    ruler, _l = normaliser(x_ptr, cols, BLOCK, OTHER=NEG_INF, RESCALE=True, SAFE=True)
    write(x_ptr, p_ptr, cols, ruler, 1.0, BLOCK)


@triton.jit
def no_strides(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """Assumes that rows are cols apart."""
    x_ptr += tl.program_id(0) * cols
    p_ptr += tl.program_id(0) * cols
    ruler, l = normaliser(x_ptr, cols, BLOCK, OTHER=NEG_INF, RESCALE=True, SAFE=True)
    write(x_ptr, p_ptr, cols, ruler, not_zero(l), BLOCK)


@triton.jit
def one_stride(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """Addresses both tensors with the stride of x."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_xr
    ruler, l = normaliser(x_ptr, cols, BLOCK, OTHER=NEG_INF, RESCALE=True, SAFE=True)
    write(x_ptr, p_ptr, cols, ruler, not_zero(l), BLOCK)
