"""kernels.compile_report.contraction: a rounding error that is added twice shows in PTX alone."""

import re

import pytest

from kernels import compile_report
from kernels.compile_report.contraction import compensated_twice

TWICE = """
    mul.f32 %r3, %r1, %r2;
    neg.f32 %r4, %r3;
    fma.rn.f32 %r5, %r1, %r2, %r4;
    neg.f32 %r6, %r9;
    fma.rn.f32 	%r7, %r2, %r1, %r6; // scores · factor - ruler
    add.f32 %r8, %r7, %r5;
"""


def test_a_product_that_is_compensated_must_not_be_fused():
    assert compensated_twice(TWICE) == ["fma.rn.f32 %r7, %r2, %r1, %r6;"]


def test_the_negated_product_may_be_written_as_an_fma_with_zero():
    """So Triton writes it up to 3.7: -t = fma(-x, y, 0)."""
    before = "neg.f32 %r20, %r1;\n    fma.rn.f32 %r4, %r20, %r2, 0f00000000;"
    text = TWICE.replace("neg.f32 %r4, %r3;", before)
    assert compensated_twice(text) == ["fma.rn.f32 %r7, %r2, %r1, %r6;"]
    assert compensated_twice(text.replace("fma.rn.f32 \t%r7, %r2, %r1, %r6;", "")) == []


def test_a_difference_the_other_way_round_is_found_too():
    """m - x · y, as fma(-x, y, m)."""
    text = TWICE.replace("neg.f32 %r6, %r9;", "neg.f32 %r6, %r1;")
    text = text.replace("%r7, %r2, %r1, %r6;", "%r7, %r6, %r2, %r9;")
    assert compensated_twice(text) == ["fma.rn.f32 %r7, %r6, %r2, %r9;"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fma.rn.f32 	%r7, %r2, %r1, %r6;", "sub.f32 %r7, %r3, %r9;"),  # subtracted from t
        ("fma.rn.f32 %r5, %r1, %r2, %r4;", "mov.f32 %r5, 0f00000000;"),  # nothing is compensated
        (
            "fma.rn.f32 	%r7, %r2, %r1, %r6;",
            "fma.rn.f32 %r7, %r2, %r10, %r6;",
        ),  # another product
    ],
)
def test_one_of_the_two_is_fine(old, new):
    assert old in TWICE and compensated_twice(TWICE.replace(old, new)) == []


SOURCE = """
import triton
import triton.language as tl
from kernels.compile_report import CompileCase

@triton.jit
def product(a, b):
    rounded = a * b
    return rounded, tl.fma(a, b, -rounded)

@triton.jit
def weights_kernel(x_ptr, p_ptr, scale, ruler, n, HOW: tl.constexpr):
    offs = tl.arange(0, 128)
    total = tl.zeros((128,), tl.float32)
    for start in range(0, n, 128):
        x = tl.load(x_ptr + start + offs)
        if HOW == "twice":
            rounded, lost = product(x, scale)
            total += tl.exp2(rounded - ruler + lost)
        elif HOW == "once":
            rounded, lost = product(x, scale)
            rounded = tl.where(offs + start < n - 1, rounded, float("-inf"))  # keeps it apart
            total += tl.exp2(rounded - ruler + lost)
        else:
            total += tl.exp2((x - ruler) * scale)
    tl.store(p_ptr + offs, total)

def compile_cases():
    types = {"x_ptr": "*fp32:16", "p_ptr": "*fp32:16", "scale": "fp32", "ruler": "fp32", "n": "i32"}
    ways = ("twice", "once", "never")
    return [CompileCase(how, weights_kernel, types, {"HOW": how}) for how in ways]
"""


def test_in_kernels_that_are_compiled():
    """The same arithmetic on paper; only one of them compiles to what it says."""
    found = {row.name: compensated_twice(row.ptx) for row in compile_report.run(SOURCE, arch=90)}
    assert found["once"] == found["never"] == []
    assert found["twice"] and all("fma.rn.f32" in line for line in found["twice"])


# ---- The decode kernel ----------------------------------------------------------------------


def fed_to_exp2(ptx):
    """For each exp2 of a kernel, how its argument was made: "mul(sub)", "fma", …"""
    pattern = r"^\s*(?:@\S+\s+)?([a-z0-9_.]+)\s+(%\w+),\s*([^;]+);"
    made = {out: (op.split(".")[0], args) for op, out, args in re.findall(pattern, ptx, re.M)}
    found = []
    for name in re.findall(r"\bex2\.approx\S*\s+%\w+, (%\w+)", ptx):
        op, args = made[name]
        inner = {made.get(arg.strip(), ("",))[0] for arg in args.split(",")}
        found.append(f"{op}(sub)" if "sub" in inner else op)
    return found


def test_weights_are_of_differences_taken_before_the_scale():
    """(s - m) · scale cannot be contracted: near |s| = 200 a weight is as exact as near 0."""
    names = (
        "split bf16 D=128 G=8 Lq=1",
        "split bf16 D=128 G=8 Lq=1 pages of 16",
        "split bf16 int8 D=128 G=8 Lq=1 scale a head",
        "split bf16 D=128 G=8 Lq=1 window",
    )
    rows = compile_report.run(f": ({'|'.join(names)})$", arch=(80, 90))
    assert len(rows) == 2 * len(names)
    for row in rows:
        assert compensated_twice(row.ptx) == []
        made = fed_to_exp2(row.ptx)
        assert len(made) >= 20 and set(made) == {"mul(sub)"}, row.name


def test_a_contracted_difference_is_seen():
    """So the test above says something."""
    fused = "mul.f32 %t, %x, %c;\n fma.rn.f32 %d, %x, %c, %n;\n ex2.approx.ftz.f32 %p, %d;"
    apart = "sub.f32 %t, %x, %m;\n mul.f32 %d, %t, %c;\n ex2.approx.ftz.f32 %p, %d;"
    assert fed_to_exp2(fused) == ["fma"] and fed_to_exp2(apart) == ["mul(sub)"]
