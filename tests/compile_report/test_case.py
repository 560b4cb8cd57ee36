"""kernels.compile_report.case: the report compiles exactly what a launch would compile."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import triton
import triton.language as tl

from kernels.call import KernelCall
from kernels.compile_report import cases
from kernels.compile_report.case import LaunchCase, source_of, specialise
from kernels.compile_report.targets import target


class Cache(NamedTuple):
    k_ptr: torch.Tensor
    stride: int
    table_ptr: torch.Tensor | None
    PAGE: tl.constexpr


@triton.jit
def sum_kernel(cache, more, out_ptr, n, one, scale, flag, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    x = tl.load(cache.k_ptr + offs * cache.stride, mask=offs < n)
    if cache.table_ptr is not None:
        x += tl.load(cache.table_ptr + offs, mask=offs < n)
    tl.store(out_ptr + offs, x * scale * one + cache.PAGE, mask=offs < n)


def call(*, start=0, stride=16, table=False, n=48, one=1):
    """A launch on tensors without memory; start: number of elements cut off at the front."""
    x = torch.empty(128, dtype=torch.float16, device="meta")[start:]
    cache = Cache(x, stride, x if table else None, tl.constexpr(8))
    args = {"cache": cache, "more": (3, None), "out_ptr": torch.empty(64, device="meta"), "n": n}
    args |= {"one": one, "scale": 0.5, "flag": True, "BLOCK": 64}
    return KernelCall(sum_kernel, (1,), args, num_warps=2, num_stages=1)


def test_each_kind_of_argument_is_seen():
    types, constants, hints = specialise(call())
    assert types == {
        "cache": Cache("*fp16", "i32", "constexpr", "constexpr"),
        "more": ("i32", "constexpr"),
        "out_ptr": "*fp32",
        "n": "i32",
        "one": "constexpr",
        "scale": "fp32",
        "flag": "u1",
        "BLOCK": "constexpr",
    }
    assert constants == {(0, 2): None, (0, 3): 8, (1, 1): None, (4,): 1, (7,): 64}
    assert set(hints) == {(0, 0), (0, 1), (2,), (3,)}


@pytest.mark.parametrize("start", [0, 1, 4, 8, 16])
def test_alignment_is_that_of_the_first_element(start):
    _, _, hints = specialise(call(start=start))
    assert ((0, 0) in hints) == (start * 2 % 16 == 0)


@pytest.mark.parametrize(
    ("n", "kind", "hinted"), [(47, "i32", False), (48, "i32", True), (2**31, "i64", True)]
)
def test_numbers_are_seen_by_size_and_divisor(n, kind, hinted):
    types, _, hints = specialise(call(n=n))
    assert types["n"] == kind and ((3,) in hints) == hinted


def test_arguments_out_of_order_are_refused():
    wrong = call()
    reordered = dict(reversed(wrong.args.items()))
    with pytest.raises(
        ValueError, match=r"args must be \['cache', .* in this order; got \['BLOCK'"
    ):
        specialise(KernelCall(wrong.kernel, wrong.grid, reordered))


def test_options_of_the_launch_come_along():
    assert source_of(LaunchCase("sum", lambda _: call()), target(80))[1] == {
        "num_warps": 2,
        "num_stages": 1,
    }


def test_a_case_can_be_spelled_out_in_words():
    launch = next(case for case in cases("primer: matmul fp16"))
    case = launch.on(80)
    assert case.signature["a_ptr"] == "*fp16:16" and case.signature["stride_am"] == "i32:16"
    assert case.constexprs["stride_ak"] == 1 and case.constexprs["BLOCK_M"] == 64
    assert [*launch.on("sm_75").constexprs] == [*case.constexprs]
    assert launch.on(75).constexprs["BLOCK_K"] < case.constexprs["BLOCK_K"]  # no tensor cores
    with pytest.raises(ValueError, match="sum takes tuples"):
        LaunchCase("sum", lambda _: call()).on(80)


LAUNCHER = """
import os
os.environ["TRITON_INTERPRET"] = "0"
import kernels.runtime
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from kernels.compile_report.case import specialise
from kernels.compile_report import cases
from kernels.compile_report.targets import target
from tests.compile_report.test_case import call

gpus = [("cuda", target(80)), ("hip", target("gfx942"))]
odd = [call(), call(start=1, stride=1, table=True, n=47), call(n=2**31, one=7)]
for kind, gpu in gpus:
    backend = make_backend(GPUTarget(kind, gpu.arch, gpu.warp_size))
    for launch in [*odd, *(case.make(gpu) for case in cases() if hasattr(case, "make"))]:
        kernel = launch.kernel
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, found, options = bind(*launch.args.values(), debug=False)
        _, *expected = kernel._pack_args(backend, {"debug": False}, bound, found, options)
        got = specialise(launch, gpu.is_amd)
        assert got[0] == expected[0], (kernel, got[0], expected[0])
        assert got[1] == expected[1], (kernel, got[1], expected[1])
        hints = {path: hint for path, hint in expected[2].items() if hint}
        assert got[2] == hints, (kernel, got[2], hints)
print("the same, for all")
"""


def test_a_launch_of_triton_sees_the_same():
    """Triton's own launcher, asked what it would compile, which needs no GPU."""
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "0"},
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "the same, for all\n", done.stderr
