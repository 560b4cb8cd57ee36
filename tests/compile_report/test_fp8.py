"""e5m2 widened to bf16: Triton's own cast multiplies, which makes finite numbers of inf and NaN."""

import re

import pytest

from kernels import compile_report

SOURCE = """
from kernels.compile_report import CompileCase
from kernels.primitives import widen
import triton
import triton.language as tl

@triton.jit
def widen_kernel(x_ptr, y_ptr, OURS: tl.constexpr):
    offs = tl.arange(0, 1024)
    x = tl.load(x_ptr + offs)
    y = widen(x, y_ptr.dtype.element_ty) if OURS else x.to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + offs, y)

def compile_cases():
    types = {"x_ptr": "*fp8e5:16", "y_ptr": "*bf16:16"}
    return [CompileCase(f"widen {ours}", widen_kernel, types, {"OURS": ours}) for ours in (0, 1)]
"""


@pytest.fixture(scope="module")
def reports():
    return compile_report.run(SOURCE, arch=(80, 90, "gfx942"))


def test_nothing_is_multiplied(reports):
    multiplies = {
        (row.name, row.arch): bool(
            re.search(r"\b(mul\.(rn\.)?(f32|bf16x2)|v_(pk_)?mul_f32)", row.ptx)
        )
        for row in reports
    }
    assert len(multiplies) == 6
    for (name, arch), found in multiplies.items():
        assert found == (name == "widen 0"), (name, arch)
