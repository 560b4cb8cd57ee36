"""kernels.compile_report: what the shipped kernels become on an A100 and an H100. Needs no GPU."""

import re

import pytest
import triton
import triton.language as tl

from kernels import compile_report
from kernels.flash_attention import compile_cases, flash_attention_kernel
from kernels.runtime import INTERPRETED
from kernels.sass import measure, width

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}  # bytes a program; CUDA C++ programming guide
CHECKED = "flash_attention .*(fp|bf)16 D=(64|128) Lq=4096|matmul|softmax fp16 16384"
TYPES = {"x_ptr": "*fp32:16", "out_ptr": "*fp32:16", "n": "i32:16"}


@triton.jit
def double_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < n)
    tl.store(out_ptr + offs, 2 * to_fp32(x), mask=offs < n)  # noqa: F821 — from kernels.primitives


@pytest.fixture(scope="module")
def reports():
    found = compile_report.run(CHECKED, arch=(80, 90))
    assert len(found) == 2 * 7
    return {(row.name, row.arch): row for row in found}


def test_no_shipped_kernel_spills(reports):
    for row in reports.values():
        assert row.spill_bytes == row.stack_bytes == 0, f"\n{row}"
        assert 0 < row.registers <= 255, f"\n{row}"


def test_shared_memory_fits(reports):
    for row in reports.values():
        assert row.shared_bytes <= SHARED_LIMIT[row.arch], f"\n{row}"
        if "D=" in row.name and row.arch == 80:
            assert row.shared_bytes <= 99 * 1024, f"too much for sm_86 and sm_89\n{row}"


def test_16_bit_tiles_are_multiplied_by_tensor_cores(reports):
    for (name, _), row in reports.items():
        multiplies = "16 D=" in name or name == "matmul fp16"  # fp32 is not cut to TF32
        assert (row.tensor_core > 0) == multiplies, f"\n{row}"


def test_k_and_v_are_copied_128_bits_at_a_time(reports):
    for (name, _), row in reports.items():
        if "flash_attention" in name:
            copies = re.findall(
                r"cp\.async\.c[ag]\.shared\.global \[.*?\], \[.*?\], (\w+)", row.ptx
            )
            assert copies and {int(bytes_, 0) for bytes_ in copies} == {16}, f"\n{row}"
            assert row.async_copies and row.load_bits == 128, f"\n{row}"


def test_tiles_that_are_too_large_are_seen_to_spill():
    case = next(case for case in compile_cases() if "fp16 D=128 Lq=4096" in case.name)
    few_warps = {"num_warps": 4, "num_stages": 3, "arch": 80}
    row = compile_report.compile_for(
        flash_attention_kernel, case.signature, case.constexprs, **few_warps
    )
    assert row.spill_bytes > 0 and row.stack_bytes > 0 and row.registers == 255


@pytest.mark.skipif(not INTERPRETED, reason="compiled in this process, which lacks to_fp32")
def test_a_kernel_of_ones_own_and_what_alignment_is_worth():
    aligned = compile_report.compile_for(double_kernel, TYPES, {"BLOCK": 1024})
    assert (aligned.load_bits, aligned.tensor_core, aligned.spill_bytes) == (128, 0, 0)
    assert ".entry double_kernel" in aligned.ptx and aligned.name == "double_kernel"
    unaligned = {name: kind.removesuffix(":16") for name, kind in TYPES.items()}
    assert compile_report.compile_for(double_kernel, unaligned, {"BLOCK": 1024}).load_bits == 32


def test_a_report_prints_as_a_row_of_a_table(reports, monkeypatch, capsys):
    rows = compile_report.Reports(reports.values())
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
