"""The checker on answers that are Triton kernels."""

import pytest
import torch
from doubling import told

from course.check import Exercise, Mistake, Property, Seen, judge
from course.check.guards import guarded, poisoned
from course.check.report import Status

from kernels import runtime  # isort: skip - decides the mode before triton is imported
import triton
import triton.language as tl


@triton.jit
def double_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < n)
    tl.store(y_ptr + offs, 2 * x, mask=offs < n)


@triton.jit
def other_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offs < n
    x = tl.load(x_ptr + offs, mask=inside, other=0.0)
    tl.store(y_ptr + offs, x + x, mask=inside)


@triton.jit
def no_mask_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + offs, 2 * tl.load(x_ptr + offs, mask=offs < n, other=0.0))


@triton.jit
def first_block_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < n)
    tl.store(y_ptr + offs, 2 * x, mask=offs < n)


@triton.jit
def broken_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    tl.store(y_ptr + offs, no_such_name)  # noqa: F821


@triton.jit
def stub_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    # YOUR CODE HERE
    raise NotImplementedError()


def _odd_length(answer, rng):
    x = guarded(torch.randn(20, generator=rng).to(runtime.device()), "x")
    y = poisoned((20,), name="y", device=runtime.device())
    answer[(2,)](x.tensor, y.tensor, 20, BLOCK=16)
    return Seen(y.tensor, 2 * x.tensor, "n = 20, BLOCK = 16", guards=(x, y))


DOUBLE = Exercise(
    id="9.3",
    name="double",
    title="Double",
    section="1",
    right=double_kernel,
    also_right=(other_kernel,),
    properties=(Property("odd length", "n is not a multiple of the block", _odd_length),),
    mistakes=(
        Mistake("no mask", "The store has no mask.", no_mask_kernel),
        Mistake("first block", "All programs do the first block.", first_block_kernel),
    ),
    needs=("triton",),
)


@pytest.mark.parametrize("kernel", [double_kernel, other_kernel], ids=["one way", "another"])
def test_right_kernels_pass(kernel):
    report = judge(DOUBLE, kernel)
    assert report.status is Status.PASS, f"\n{report}"


@pytest.mark.parametrize("mistake", DOUBLE.mistakes, ids=lambda mistake: mistake.name)
def test_wrong_kernels_are_named(mistake):
    report = judge(DOUBLE, mistake.implementation)
    assert report.status is Status.FAIL and report.mistake is mistake, f"\n{report}"


def test_what_guards_saw_is_told():
    assert "It wrote outside the buffer `y`" in told(judge(DOUBLE, no_mask_kernel))
    unwritten = told(judge(DOUBLE, first_block_kernel))
    assert "NaN (not a number) in 4 of 20 entries, the first at [16]" in unwritten
    assert "outside an input, never written, or is 0 / 0" in unwritten


def test_stub_kernel_is_not_written_yet():
    report = judge(DOUBLE, stub_kernel)
    assert report.unwritten and report.headline.endswith("not written yet")


def test_a_kernel_that_raises_is_told_with_its_line():
    text = told(judge(DOUBLE, broken_kernel))
    assert "no_such_name" in text
    assert "tl.store(y_ptr + offs, no_such_name)" in text
