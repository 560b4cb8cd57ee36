"""Exercise 5.2: more wrong kernels, each with one line of a right one left out or wrong."""

from __future__ import annotations

from kernels.runtime import INTERPRETED  # noqa: F401 — before triton: it decides the mode

# isort: split
import triton
import triton.language as tl

from course.check.lesson_05_softmax_answers import NEG_INF, normaliser, not_zero, write


@triton.jit
def store_not_masked(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """The second pass masks its load, but not its store."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    ruler, l = normaliser(x_ptr, cols, BLOCK, OTHER=NEG_INF, RESCALE=True, SAFE=True)
    for start in range(0, cols, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=NEG_INF)
        tl.store(p_ptr + offs, tl.exp(x - ruler) / not_zero(l))


@triton.jit
def no_maximum(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """exp(x) divided by its sum."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    l = 0.0
    for start in range(0, cols, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=NEG_INF)
        l += tl.sum(tl.exp(x), 0)
    write(x_ptr, p_ptr, cols, 0.0, not_zero(l), BLOCK)


@triton.jit
def each_block(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """The sum starts afresh in each block."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    for start in range(0, cols, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=NEG_INF)
        m = tl.max(x, 0)
        e = tl.exp(x - tl.where(m == NEG_INF, 0.0, m))
        tl.store(p_ptr + offs, e / not_zero(tl.sum(e, 0)), mask=offs < cols)


@triton.jit
def maximum_of_the_block(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """No tl.maximum with the old maximum."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    m = NEG_INF
    ruler = 0.0
    l = 0.0
    for start in range(0, cols, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=NEG_INF)
        m_new = tl.max(x, 0)
        ruler = tl.where(m_new == NEG_INF, 0.0, m_new)
        l = l * tl.exp(m - ruler) + tl.sum(tl.exp(x - ruler), 0)
        m = m_new
    write(x_ptr, p_ptr, cols, ruler, not_zero(l), BLOCK)


@triton.jit
def maximum_not_kept(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """No m = m_new."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    m = NEG_INF
    ruler = 0.0
    l = 0.0
    for start in range(0, cols, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=NEG_INF)
        m_new = tl.maximum(m, tl.max(x, 0))
        ruler = tl.where(m_new == NEG_INF, 0.0, m_new)
        l = l * tl.exp(m - ruler) + tl.sum(tl.exp(x - ruler), 0)
    write(x_ptr, p_ptr, cols, ruler, not_zero(l), BLOCK)


@triton.jit
def without_start(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    """Both loops stay at the first block."""
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    offs = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < cols, other=NEG_INF)
    m = tl.max(x, 0)
    ruler = tl.where(m == NEG_INF, 0.0, m)
    l = 0.0
    for _start in range(0, cols, BLOCK):
        l += tl.sum(tl.exp(x - ruler), 0)
    tl.store(p_ptr + offs, tl.exp(x - ruler) / not_zero(l), mask=offs < cols)
