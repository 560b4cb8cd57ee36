"""What a kernel does under a check, beyond its results: masked lanes, inputs, shared work."""

from dataclasses import replace

import pytest
import torch
from doubling import told
from doubling_kernel import DOUBLE, double_kernel, odd_length

from course.check import Property, judge
from course.check.launches import Watched
from course.check.report import Status

from kernels import runtime  # isort: skip - decides the mode before triton is imported
import triton
import triton.language as tl

pytestmark = pytest.mark.skipif(not runtime.INTERPRETED, reason="seen in the interpreter alone")


@triton.jit
def all_in_one_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    if tl.program_id(0) == 0:
        for start in range(0, n, BLOCK):
            offs = start + tl.arange(0, BLOCK)
            x = tl.load(x_ptr + offs, mask=offs < n, other=0.0)
            tl.store(y_ptr + offs, 2 * x, mask=offs < n)


@triton.jit
def everything_everywhere_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    for start in range(0, n, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < n, other=0.0)
        tl.store(y_ptr + offs, 2 * x, mask=offs < n)


@triton.jit
def two_results_kernel(x_ptr, y_ptr):
    """Every program stores all of both results."""
    tl.store(x_ptr + tl.arange(0, 8), 1.0)
    tl.store(y_ptr + tl.arange(0, 8), 2.0)


@triton.jit
def destroying_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < n, other=0.0)
    tl.store(y_ptr + offs, 2 * x, mask=offs < n)
    tl.store(x_ptr + offs, 0.0, mask=offs < n)


@triton.jit
def average_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """Uses the masked lanes: fine with zeros, which nobody has promised."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < n)
    tl.store(y_ptr + offs, 2 * x + 0 * tl.sum(x, 0), mask=offs < n)


@triton.jit
def two_masks_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=(offs < n) & (n > 0), other=0.0)
    tl.store(y_ptr + offs, 2 * x, mask=(offs < n) & (tl.program_id(0) < n))


@triton.jit
def loaded_mask_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = (offs < n) & (tl.load(x_ptr) < float("inf"))
    x = tl.load(x_ptr + offs, mask=inside, other=0.0)
    tl.store(y_ptr + offs, tl.where(inside, 2 * x, 0.0), mask=inside)


@triton.jit
def and_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = not (offs >= n or offs < 0)
    x = tl.load(x_ptr + offs, mask=inside and offs >= 0, other=0.0)
    if n > 0 and BLOCK > 0:
        tl.store(y_ptr + offs, 2 * x, mask=offs >= 0 and offs < n)


@triton.jit
def far_away_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """Its last stores and loads are gigabytes from any tensor: done, they would end the process."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    far = tl.where(offs < n, offs, offs + (1 << 40))
    tl.store(y_ptr + far, 2 * tl.load(x_ptr + far))


@pytest.mark.parametrize(
    "kernel", [double_kernel, two_masks_kernel, loaded_mask_kernel, and_kernel]
)
def test_what_a_gpu_runs_passes_and_is_compiled(kernel):
    report = judge(DOUBLE, kernel)
    assert report.status is Status.PASS, f"\n{report}"
    assert "compiled for sm_90 and gfx942" in told(report)


@pytest.mark.parametrize(
    ("kernel", "says"),
    [
        (all_in_one_kernel, "Only program 0 of 2 stores anything"),
        (everything_everywhere_kernel, "Programs 0 and 1 both store to the same entry of `y_ptr`"),
        (destroying_kernel, "It changes its input `x_ptr`"),
        (average_kernel, "A load has a mask but no `other` (line"),
        (far_away_kernel, "It stores where no tensor is (line"),
    ],
)
def test_what_hides_in_the_interpreter_is_refused_with_its_cause(kernel, says):
    report = judge(DOUBLE, kernel)
    assert report.status is Status.FAIL
    assert says in told(report), f"\n{report}"


@pytest.mark.parametrize("places", [(0, 1), (1, 0)])
def test_what_is_said_does_not_depend_on_where_tensors_lie(places):
    memory = torch.zeros(2, 8)
    watched = Watched(two_results_kernel, inputs_may_change=True)
    watched[(2,)](*(memory[place] for place in places))
    (said,) = watched.noticed()[0].conduct
    assert "the same entry of `x_ptr`" in said


def test_the_interpreter_is_as_before_afterwards():
    from triton.runtime import interpreter

    judge(DOUBLE, and_kernel)
    changed = {"create_masked_load", "create_masked_store", "create_splat"}
    assert not changed & vars(interpreter.interpreter_builder).keys()
    assert not hasattr(interpreter.interpreter_semantic, "logical")
    assert and_kernel.fn not in interpreter.InterpretedFunction.rewritten_fn


@triton.jit
def endless_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    for _ in range(0, 100_000_000):
        x = tl.load(x_ptr + offs, mask=offs < n, other=0.0)
        tl.store(y_ptr + offs, tl.sum(x, 0) + x, mask=offs < n)


def test_after_a_kernel_whose_time_was_up_right_answers_pass():
    assert "longer than" in told(judge(replace(DOUBLE, seconds=0.5), endless_kernel))
    assert tl.core.is_builtin(tl.load)
    assert judge(DOUBLE, and_kernel).status is Status.PASS


def test_a_kernel_without_a_grid_is_told():
    with pytest.raises(TypeError, match="launched with a grid"):
        Watched(double_kernel)(1, 2)


@triton.jit
def greedy_if_odd_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """With an odd n it also changes its input."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < n, other=0.0)
    tl.store(y_ptr + offs, 2 * x, mask=offs < n)
    if n % 2 == 1:
        tl.store(x_ptr + offs, 2 * x, mask=offs < n)


def test_a_misdeed_is_told_of_the_launch_that_did_it():
    def two_lengths(answer, rng):
        return [odd_length(answer, rng, n) for n in (20, 21)]

    exercise = replace(DOUBLE, properties=(Property("two", "lengths", two_lengths),))
    text = told(judge(exercise, greedy_if_odd_kernel))
    assert "with n = 21, BLOCK = 16 It changes its input `x_ptr`" in text
