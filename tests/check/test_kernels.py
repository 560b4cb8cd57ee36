"""The checker on answers that are Triton kernels."""

from dataclasses import replace

import doubling_kernel
import pytest
import torch
import triton
import triton.language as tl
from doubling import told
from doubling_kernel import double_kernel

from course.check import Mistake, judge
from course.check.report import Status
from course.check.rewritten import rewritten
from kernels.runtime import device


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


MISTAKES = (
    Mistake("no mask", "The store has no mask.", no_mask_kernel),
    Mistake("first block", "All programs do the first block.", first_block_kernel),
)
DOUBLE = replace(doubling_kernel.DOUBLE, also_right=(other_kernel,), mistakes=MISTAKES)


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


def test_a_kernel_is_rewritten_as_a_kernel():
    wrong = rewritten(double_kernel, [("2 * x", "3 * x")], "test")
    for kernel, factor in ((wrong, 3), (double_kernel, 2)):
        x = torch.arange(20.0, device=device())
        y = torch.empty_like(x)
        kernel[(2,)](x, y, 20, BLOCK=16)
        assert torch.equal(y, factor * x)
