"""kernels.compile_report: what the shipped kernels become on an A100 and an H100. Needs no GPU."""

import re
from itertools import product
from pathlib import Path

import pytest
import triton
import triton.language as tl

import kernels
from kernels import compile_report
from kernels.compile_report.launches.flash_attention import compile_cases
from kernels.compile_report.sass import measure, width
from kernels.compile_report.targets import TARGETS, target
from kernels.flash_attention import flash_attention_kernel
from kernels.primitives import to_fp32

# Every kernel, and the features that change its code most; `python -m kernels.compile_report`
# compiles all cases for all targets, which takes minutes.
CORE = (
    "vector_add|matmul (fp16|fp32)|softmax fp16 (16384|131072)"
    "|flash_attention (bf16 D=(128|192 Dv=128) Lq=4096$|fp16 D=128 Lq=1$)"
    "|(dq|dkdv) bf16 D=(128|192 Dv=128)$|backward rows"
    "|split bf16 D=128 G=(1|8) Lq=1$|split bf16 D=128 .*(tree mask|G=8 Lq=1 (pages of 16|plan))"
    "|split bf16 D=128 G=8 Lq=1 pages of 64|split bf16 (int8|e4m3|e5m2) D=128 G=8 .*a head"
    "|split bf16 (D=576 G=16|int8 .*token)|combine bf16 D=128|append bf16 D=128 Ln=1$|plan int64"
)
ELSEWHERE = "matmul fp16|flash_attention bf16 D=128 Lq=4096$|split bf16 D=128 G=8 Lq=1$"
TYPES = {"x_ptr": "*fp32:16", "out_ptr": "*fp32:16", "n": "i32:16"}


TWO = tl.constexpr(2.0)


@triton.jit
def double(x):
    return TWO * to_fp32(x)


@triton.jit
def double_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < n)
    tl.store(out_ptr + offs, double(x), mask=offs < n)


@pytest.fixture(scope="module")
def reports():
    """The core of the shipped cases, for an A100 and an H100."""
    found = compile_report.run(CORE, arch=(80, 90))
    names = [case.name for case in compile_report.cases(CORE)]
    assert sorted((row.name, row.arch) for row in found) == sorted(product(names, (80, 90)))
    return found


def test_every_shipped_kernel_keeps_its_promises(reports):
    assert [f"{row.name} on {row.target} {x}" for row in reports for x in row.violations] == []


def test_the_promises_are_worth_something(reports):
    """Loads of K and V, and tensor cores, are promised wherever the kernels depend on them."""
    for row in reports:
        if row.failure or not row.name.startswith(("flash_attention", "split")):
            continue
        args = compile_report.cases(f": {re.escape(row.name)}$")[0].make(target(row.arch)).args
        several_rows = "fp32" not in row.name and args["BLOCK_M"] > 1  # a single one needs no dot
        streams = {"k"} if "MLA" in row.name else {"k", "v"}  # MLA has one cache for both
        assert set(row.stream_bits) == streams, row.name
        assert (row.tensor_core > 0) == several_rows, row.name
        assert row.async_copies > 0 or not several_rows, row.name


def test_stages_are_those_of_the_kernels_own_loop(reports):
    """The launch's option does not pipeline a loop that says its own number."""
    loops = 0
    for row in reports:
        call = compile_report.cases(f": {re.escape(row.name)}$")[0].make(target(row.arch))
        asked = call.args.get("NUM_STAGES", call.num_stages)
        assert row.failure or row.num_stages == asked, row.name
        loops += asked != call.num_stages
    assert loops > 2, "a split over pages, or one over eight bits, asks for more than 3"


def test_other_gpus_too():
    rest = [known.name for known in TARGETS if known.arch not in (80, 90)]
    found = compile_report.run(ELSEWHERE, arch=rest)
    assert {row.target for row in found} == set(rest)
    assert [f"{row.name} on {row.target} {x}" for row in found for x in row.violations] == []


def test_what_is_called_unsupported_does_not_work():
    """Otherwise the claim is stale: `unsupported` must not hide anything that works."""
    claims = {case.name: case.unsupported for case in compile_report.cases() if case.unsupported}
    assert claims, "fp8 and old GPUs: something must be unsupported"
    for targets in {tuple(claim) for claim in claims.values()}:  # compile what is claimed, no more
        names = [name for name, claim in claims.items() if tuple(claim) == targets]
        pattern = "|".join(f": {re.escape(name)}$" for name in names)
        rows = compile_report.run(pattern, arch=targets)
        assert {(row.name, row.target) for row in rows} == {*product(names, targets)}
        for row in rows:
            assert row.unsupported
            assert not row.violations, f"{row.name} on {row.target}: {row.violations}"


def test_every_kernel_is_in_a_case():
    """A kernel that is never compiled is never checked."""
    compiled = {case.make(target(80)).kernel.__name__ for case in compile_report.cases(CORE)}
    written = set()
    for file in Path(kernels.__file__).parent.rglob("*.py"):
        written |= set(re.findall(r"^@triton\.jit\ndef (\w+_kernel)\(", file.read_text(), re.M))
    assert "softmax_kernel" in written and written - compiled == set()


def test_tiles_that_are_too_large_are_seen_to_spill():
    case = next(case for case in compile_cases() if "fp16 D=128 Lq=4096" in case.name).on(80)
    few_warps = {"num_warps": 4, "num_stages": 3, "arch": 80}
    row = compile_report.compile_for(
        flash_attention_kernel, case.signature, case.constexprs, **few_warps
    )
    assert row.spill_bytes > 0 and row.stack_bytes > 0 and row.registers == 255


def test_a_kernel_of_ones_own_with_its_helpers_and_what_alignment_is_worth():
    aligned = compile_report.compile_for(double_kernel, TYPES, {"BLOCK": 1024})
    assert (aligned.load_bits, aligned.tensor_core, aligned.spill_bytes) == (128, 0, 0)
    assert ".entry double_kernel" in aligned.ptx and aligned.name == "double_kernel"
    unaligned = {name: kind.removesuffix(":16") for name, kind in TYPES.items()}
    assert compile_report.compile_for(double_kernel, unaligned, {"BLOCK": 1024}).load_bits == 32


def test_a_report_prints_as_a_row_of_a_table(reports, monkeypatch, capsys):
    rows = compile_report.Reports(row for row in reports if len(row.name) < 38)
    monkeypatch.setattr(compile_report, "run", lambda *_: rows)
    compile_report.report("anything")
    head, *lines = capsys.readouterr().out.splitlines()
    assert " ".join(head.split()) == "kernel sm regs spills shared load async tensor PTX"
    assert len(lines) == len(rows) and {len(line) for line in lines} == {len(head)}
    first = rows[0]
    assert f"{first.arch:>4}{first.registers:>6}" in lines[0] and "128 bit" in lines[0]


def test_every_module_lists_its_cases_under_names_of_their_own():
    names = [case.name for case in compile_report.cases()]
    assert len(set(names)) == len(names)
    for module in compile_report.MODULES:
        assert compile_report.cases(f"^{module}:")


def test_a_full_name_means_that_case_alone():
    """And not those whose names continue with the kernel's features."""
    (case,) = compile_report.cases("split bf16 D=128 G=8 Lq=1")
    assert case.name == "split bf16 D=128 G=8 Lq=1"
    assert len(compile_report.cases("split bf16 D=128 G=8")) > 1


def test_misuse_is_told():
    with pytest.raises(ValueError, match="no compile case is called 'nobody'"):
        compile_report.cases("nobody")
    with pytest.raises(RuntimeError, match="no compile case is called 'nobody'"):
        compile_report.run("nobody")
    with pytest.raises(ValueError, match=r"each once; got \['x_ptr', 'out_ptr', 'n'\]"):
        compile_report.compile_for(double_kernel, TYPES, {})


def test_machine_code_is_read_rightly():
    text = """
     Function kernel:
      REG:40 STACK:16 SHARED:0 LOCAL:0
        /*0000*/                   LDG.E.U16 R1, [R2.64] ;           /* 0x1 */
        /*0010*/              @!P0 LDGSTS.E.BYPASS.LTC128B.128 [R5], [R2.64] ;
        /*0020*/              @UP1 STL.64 [R1], R4 ;
        /*0030*/                   LDL.LU R4, [R1] ;
        /*0040*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0050*/                   HGMMA.64x64x16.F32 R24, gdesc[UR4], R24 ;
        /*0060*/                   LDC R1, c[0x0][0x28] ;
    """
    assert measure(text) == {
        "registers": 40,
        "stack_bytes": 16,
        "spill_bytes": 8 + 4,
        "load_bits": 128,
        "async_copies": 1,
        "tensor_core": 2,
    }
    assert [width(name) for name in ("LDG.E", "LDG.E.64.CONSTANT", "LDG.E.U8")] == [32, 64, 8]


def test_every_stream_of_tiles_is_counted(reports):
    """And the budgets of all cases that have one are checked here, for both targets."""
    counted = {(row.name, row.arch) for row in reports if row.tile_instructions}
    streams = {
        (row.name, row.arch)
        for row in reports
        if row.name.startswith(("split", "flash_attention")) and not row.failure
    }
    assert counted == streams
    limited = {case.name for case in compile_report.cases() if case.at_most or case.at_least}
    assert len(limited) >= 7 and limited <= {row.name for row in reports}
    for row in reports:
        if row.tile_instructions:
            assert row.issue_share > 0 and row.pipe_share > 0 and row.bytes_in_flight > 0
