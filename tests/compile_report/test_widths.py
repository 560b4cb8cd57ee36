"""compile_report.load_widths and amdgcn: what they read from assembly, here written by hand."""

import pytest

from kernels.compile_report import amdgcn
from kernels.compile_report.load_widths import load_bits, stream_bits

SOURCE = """\
k = tl.load(k_ptrs, mask=mask)
v = tl.load(
    cache.v_ptr + offs,
)
page = load_page(cache.table_ptr)
w = load_rows(cache.k_ptr, offs)
def load_rows(ptrs):
    return tl.load(ptrs)
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "some_kernel.py"
    path.write_text(SOURCE)
    return path


def ptx(source, *lines):
    return "\n".join([*lines, f'\t.file\t1 "{source}"'])


@pytest.mark.parametrize(
    ("instruction", "bits"),
    [
        ("@%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];", 128),
        ("ld.global.L1::evict_first.L2::cache_hint.v2.b32 { %r1, %r2 }, [ %rd1 + 0 ], %rd9;", 64),
        ("ld.global.b32 { %r49 }, [ %rd43 + 0 ];", 32),
        ("ld.global.b16 { %rs1 }, [ %rd2 + 0 ];", 16),
        ("ld.global.v8.b32 {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8}, [%rd1];", 256),
        ("cp.async.cg.shared.global [ %r1 + 0 ], [ %rd2 + 0 ], 0x10, %r3;", 128),
        ("cp.async.ca.shared.global [%r1], [%rd2], 4;", 32),
        (
            "cp.async.cg.shared.global.L2::cache_hint [ %r1 + 0 ], [ %rd2 + 0 ], 0x10, %r3, %rd1;",
            128,
        ),
        ("global_load_dwordx4 v[6:9], v[4:5], off", 128),
        ("buffer_load_dwordx2 v[6:7], v4, s[0:3], 0 offen", 64),
        ("global_load_ushort v6, v[4:5], off", 16),
        ("st.global.v4.b32 [ %rd1 + 0 ], { %r1, %r2, %r3, %r4 };", 0),
        ("ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r9];", 0),
        ("cp.async.commit_group;", 0),
    ],
)
def test_the_width_of_one_load(instruction, bits):
    assert load_bits(f"\t{instruction}") == bits


def test_the_narrowest_load_of_each_name_counts(source):
    text = ptx(
        source,
        "\t.loc\t1 1 5",
        "\tcp.async.cg.shared.global [ %r1 + 0 ], [ %rd2 + 0 ], 0x10, %r3;",
        "\tld.global.v2.b32 { %r1, %r2 }, [ %rd1 + 0 ];",
        "\t.loc\t1 2 5",  # a call over several lines, by its first line
        "\tld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];",
        "\t.loc\t1 3 4",  # and, in older versions of Triton, by its first argument
        "\tld.global.v8.b32 {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8}, [%rd1];",
        "\t.loc\t1 5 8",  # a page's number may be narrow
        "\tld.global.b32 { %r1 }, [ %rd1 + 0 ];",
    )
    assert stream_bits(text, ("k", "v", "q")) == {"k": 64, "v": 128, "q": 0}
    assert stream_bits(text, ("table",)) == {"table": 32}


def test_a_load_inside_a_helper_belongs_to_the_call_of_the_helper(source):
    text = ptx(
        source,
        "\t.loc\t1 8 12, function_name $L__info_string0, inlined_at 1 6 5",
        "\tld.global.b16 { %rs1 }, [ %rd2 + 0 ];",
        "\t.loc\t1 8 12, function_name $L__info_string0, inlined_at 1 5 8",
        "\tld.global.b32 { %r1 }, [ %rd2 + 0 ];",
    )
    assert stream_bits(text, ("k", "table")) == {"k": 16, "table": 32}


def test_callers_are_climbed_to_the_first_that_says_a_name(source):
    text = ptx(
        source,
        "\t.loc\t1 7 1, function_name $L__info_string0, inlined_at 1 6 5",
        "\t.loc\t1 8 12, function_name $L__info_string0, inlined_at 1 7 1",
        "\tld.global.b16 { %rs1 }, [ %rd2 + 0 ];",
    )
    assert stream_bits(text, ("k",)) == {"k": 16}


def test_inside_inline_assembly_only_the_first_place_is_true(source):
    text = ptx(
        source,
        "\t// begin inline asm",
        "\t.loc\t1 1 5",
        "\tmov.u32 %r1, 0x0;",
        "\t.loc\t1 2 5",  # LLVM kept counting lines: this is not v
        "\tld.global.b32 { %r1 }, [ %rd1 + 0 ];",
        "\t// end inline asm",
        "\t.loc\t1 2 5",
        "\tld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];",
    )
    assert stream_bits(text, ("k", "v")) == {"k": 32, "v": 128}


def test_amd_says_in_a_comment_who_called(source, monkeypatch):
    monkeypatch.chdir(source.parent)  # the comment names no folder
    inlined = "@[ some_kernel.py:6:5 @[ some_kernel.py:9:1 ] ]"
    text = ptx(
        source,
        f"\t.loc\t1 8 12 is_stmt 0 ; some_kernel.py:8:12 {inlined}",
        "\tbuffer_load_dwordx4 v[6:9], v4, s[0:3], 0 offen",
    )
    assert stream_bits(text, ("k",)) == {"k": 128}


def test_amdgcn_is_read_rightly():
    text = """
        global_load_dwordx2 v[6:7], v[4:5], off
        buffer_load_dword v4, s[0:3], 0 offen lds
        v_mfma_f32_32x32x8_bf16 v[0:15], v[2:3], v[4:5], 0 ; global_load_dwordx4
    .private_segment_fixed_size: 8
    .sgpr_spill_count: 0
    .vgpr_count:     246
    .vgpr_spill_count: 2
    """
    assert amdgcn.measure(text) == {
        "registers": 246,
        "stack_bytes": 8,
        "spill_bytes": 8,
        "load_bits": 64,
        "async_copies": 1,
        "tensor_core": 1,
    }
