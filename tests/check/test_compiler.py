"""course.check.compiler: a kernel that passes is compiled for GPUs, in another process."""

import pytest
import torch

from course.check import compiler
from course.check.rewritten import rewritten
from kernels.compile_report.portable import text_of

from kernels.primitives import finalize  # isort: skip - decides the mode before triton is imported
import triton
import triton.language as tl

WIDTH = tl.constexpr(16)
PLAIN = 16
NEG_INF = tl.constexpr(float("-inf"))


@triton.jit
def helper(x):
    return tl.where(x == NEG_INF, 0.0, x) * WIDTH


@triton.jit
def kernel(x_ptr, y_ptr, n, step, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, step):
        total += helper(tl.load(x_ptr + start + offs, mask=offs < n, other=NEG_INF))
    o, lse = finalize(total, total + 1.0, total[:, None])
    tl.store(y_ptr + offs, tl.sum(o, 1) + lse, mask=offs < n)


ARGS = {"x_ptr": torch.ones(20), "y_ptr": torch.ones(20), "n": 20, "step": 7, "BLOCK": 16}


def test_a_kernel_is_sent_with_all_that_it_uses():
    text = text_of(kernel)
    assert "def helper(x):" in text and "WIDTH = tl.constexpr(16)" in text
    assert "NEG_INF = tl.constexpr(float('-inf'))" in text
    assert "from kernels.primitives import finalize as finalize" in text
    assert text.index("def helper") < text.index("def kernel")


def test_a_kernel_that_compiles_has_no_trouble():
    assert compiler.trouble(kernel, ARGS, {"num_warps": 2, "grid": 3}) == ""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("(0, n, step):\n", "(0, n, step):\n        if start > n:\n            break\n", "Break"),
        ("total = tl.zeros((BLOCK,), tl.float32)", "total = 0", "Loop-carried variable total"),
        ("tl.arange(0, BLOCK)", "tl.arange(0, BLOCK - 1)", "power of 2"),
        ("helper(", "no_such_helper(", "no_such_helper is not defined"),
        ("helper(", "PLAIN * helper(", "Cannot access global variable PLAIN"),
    ],
)
def test_what_no_compiler_takes_is_told_in_short(old, new, says):
    trouble = compiler.trouble(rewritten(kernel, [(old, new)], "test"), ARGS, {})
    assert says in trouble and "\n" not in trouble and len(trouble) < 400
    assert trouble.startswith("It does not compile for a GPU (H100): ")


def test_after_trouble_the_next_kernel_is_compiled():
    compiler.trouble(rewritten(kernel, [("helper(", "nothing(")], "test"), ARGS, {})
    assert compiler.trouble(kernel, ARGS, {}) == ""


def test_a_process_that_died_is_told_and_started_anew():
    compiler.start()
    compiler._process().kill()
    with pytest.raises(compiler.NoCompiler, match="did not answer"):
        compiler.trouble(kernel, ARGS, {})
    assert compiler.trouble(kernel, ARGS, {}) == ""


def test_an_argument_that_cannot_be_described_is_told():
    with pytest.raises(compiler.NoCompiler, match="its argument n is a tuple"):
        compiler.trouble(kernel, ARGS | {"n": (1, 2)}, {})
