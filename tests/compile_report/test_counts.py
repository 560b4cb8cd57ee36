"""kernels.compile_report.counts and pipes: by hand, and against a kernel that is compiled here."""

import doctest
import re

import pytest

from kernels import compile_report
from kernels.compile_report import contraction, counts, loops, pipes
from kernels.compile_report.counts import count, hot_loop, loaded_bytes, tiles_in_flight
from kernels.compile_report.pipes import busy
from kernels.compile_report.rows import Report, Reports
from kernels.compile_report.targets import target
from tests.compile_report.test_loops import sass

H200 = 4800e9 / 132 / 1.983e9  # bytes per clock and SM: 18.3

COPY = "LDGSTS.E.BYPASS.128 [R1], [R2.64]"
MAIN = ["DEPBAR.LE SB0, 0x2", "HMMA.16816.F32.BF16 R4, R8, R12, R4", *[COPY] * 2, "LDGDEPBAR"]
MAIN += ["SHFL.BFLY PT, R1, R1, 0x1, 0x1f", *[COPY] * 2, "LDGDEPBAR", "@P0 BRA @main"]
EDGE = ["DEPBAR.LE SB0, 0x0", *[COPY] * 2, "LDGDEPBAR", *[COPY] * 2, "LDGDEPBAR", "@P1 BRA @edge"]
SEARCH = ["LDG.E R1, [R2.64]", "@P2 BRA @search"]
KERNEL = sass(
    "MOV R1, R2",
    *[f"search: {SEARCH[0]}", *SEARCH[1:]],
    *[f"main: {MAIN[0]}", *MAIN[1:]],
    *[f"edge: {EDGE[0]}", *EDGE[1:]],
    "EXIT",
)


@pytest.mark.parametrize("module", [contraction, counts, loops, pipes], ids=lambda m: m.__name__)
def test_docstrings_tell_the_truth(module):
    assert doctest.testmod(module).failed == 0


def body(*lines):
    return loops.parse(sass(*lines))


def test_the_loop_that_moves_tiles_is_the_one_with_most_in_flight():
    """Not the search, which loads a page number, nor the shorter edge, which waits for all."""
    found = loops.loops(loops.parse(KERNEL))
    assert [len(loop.body) for loop in found] == [len(SEARCH), len(MAIN), len(EDGE)]
    assert len(EDGE) < len(MAIN) and hot_loop(found).header == 16 * 3
    assert hot_loop(found[:1]) is None


def test_a_wait_within_the_loop_does_not_hide_it_and_a_loop_around_it_does_not_count():
    text = sass(
        "outer: MOV R1, RZ",
        f"tiles: {COPY}",
        "wait: SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [UR4], R2",
        "@!P1 BRA @wait",
        "@P0 BRA @tiles",
        "@P2 BRA @outer",
        "EXIT",
    )
    found = loops.loops(loops.parse(text))
    assert [len(loop.body) for loop in found] == [6, 4, 2]
    assert hot_loop(found) is found[1]


def test_a_tile_by_hand():
    """Four warps, each with four copies of 512 bytes: 8 KiB, as K and V of 16 keys, D = 128."""
    found = count(KERNEL, target(90), warps=4)
    assert found == count(KERNEL, target(90), warps=4, tile_bytes=8192)
    assert (found.instructions, found.tile_bytes, found.tiles_in_flight) == (10, 8192, 2)
    assert found.clocks == {"tensor": 2048 / 512, "shared": 4 * 512 / 32 + 4}
    fields = found.fields(warps=4, programs=3, on=target(90))
    lasts = 8192 / H200  # clocks
    assert fields["issue_share"] == pytest.approx(10 / lasts, rel=1e-2)
    assert fields["pipe"] == "shared" and fields["pipe_share"] == pytest.approx(
        68 / lasts, rel=1e-2
    )
    assert fields["bytes_in_flight"] == 3 * 2 * 8192


def test_eight_warps_take_twice_the_slots_of_four():
    few, many = (count(KERNEL, target(90), warps=n, tile_bytes=8192) for n in (2, 4))
    few, many = few.fields(2, 1, target(90)), many.fields(4, 1, target(90))
    assert many["issue_share"] == pytest.approx(2 * few["issue_share"], abs=1e-3)


def test_a_loop_unrolled_twice_counts_once():
    once, twice = sass("top: FADD R1, R1, R2", COPY, "@P0 BRA @top", "EXIT"), sass(
        "top: FADD R1, R1, R2", COPY, "FADD R1, R1, R2", COPY, "@P0 BRA @top", "EXIT"
    )  # fmt: skip
    one, two = (count(text, target(80), warps=4, tile_bytes=2048) for text in (once, twice))
    assert (one.instructions, two.instructions) == (3, 2)  # five in two tiles: 2.5
    assert two.clocks == one.clocks and two.tile_bytes == one.tile_bytes


def test_columns_that_are_padding_are_not_bytes():
    """D = 80 in a block of 128 columns: the copies of the rest are masked and move nothing."""
    padded = count(KERNEL, target(90), warps=4, tile_bytes=8192 * 80 // 128)
    assert padded.instructions == 10 and padded.tile_bytes == 5120


@pytest.mark.parametrize(
    ("lines", "tiles"),
    [
        ([COPY, "LDGDEPBAR", "DEPBAR.LE SB0, 0x0"], 1),
        (["DEPBAR.LE SB0, 0x0", COPY, "LDGDEPBAR"], 1),
        (["DEPBAR.LE SB0, 0x1", COPY, "LDGDEPBAR"], 2),
        (["DEPBAR.LE SB0, 0x4", COPY, "LDGDEPBAR", COPY, "LDGDEPBAR"], 3),
        (["DEPBAR.LE SB0, 0x1", COPY, "LDGDEPBAR", "DEPBAR.LE SB0, 0x1", COPY, "LDGDEPBAR"], 1),
        (["LDG.E.128 R4, [R2.64]", "FADD R1, R4, R5"], 1),  # to registers
        (["UTMALDG.2D [UR8], [UR4]", "SYNCS.PHASECHK R1"], 0),  # not known
    ],
)
def test_tiles_in_flight_by_hand(lines, tiles):
    assert tiles_in_flight(body(*lines)) == tiles


def test_narrow_loads_are_no_tiles():
    mixed = body("LDG.E R1, [R2.64]", "LDGSTS.E [R1], [R2.64]", "LDG.E.64 R2, [R4.64]", COPY)
    assert loaded_bytes(mixed) == 32 * (8 + 16)
    assert count(sass("top: LDG.E R1, [R2.64]", "@P0 BRA @top", "EXIT"), target(90), 4) is None


@pytest.mark.parametrize(
    ("line", "on_80", "on_90"),
    [
        ("FFMA R1, R2, R3, R1", {"fma": 2}, {"fma": 1}),
        ("IMAD.WIDE.U32 R2, R4, R5, R2", {"fma": 2}, {"fma": 2}),
        ("HADD2.BF16_V2 R2, R4, R5", {"fma": 1}, {"fma": 1}),
        ("FMNMX R1, R2, R3, !PT", {"alu": 2}, {"alu": 2}),
        ("F2FP.BF16.F32.PACK_AB R1, R2, R3", {"alu": 2}, {"alu": 2}),
        ("MUFU.EX2 R1, R2", {"xu": 8}, {"xu": 8}),
        ("I2F.S8 R1, R2", {"xu": 8}, {"xu": 8}),
        ("SHFL.BFLY PT, R1, R1, 0x1, 0x1f", {"shared": 4}, {"shared": 4}),
        ("LDSM.16.M88.4 R4, [R2]", {"shared": 16}, {"shared": 16}),
        ("STS.64 [R2], R4", {"shared": 8}, {"shared": 8}),
        ("HMMA.16816.F32.BF16 R4, R8, R12, R4", {"tensor": 8}, {"tensor": 4}),
        ("HGMMA.64x64x16.F32.BF16 R4, gdesc[UR4], R4", {"tensor": 64}, {"tensor": 32}),
        ("UIADD3 UR4, UR4, 0x1, URZ", {}, {}),
        ("BAR.SYNC.DEFER_BLOCKING 0x0", {}, {}),
    ],
)
def test_which_pipe_and_for_how_long(line, on_80, on_90):
    assert busy(body(line), "sm_80") == on_80 and busy(body(line), "sm_90") == on_90


def test_the_table_of_counts_leaves_out_what_streams_nothing():
    row = Report("split", 90, num_warps=4, tile_bytes=32768, tile_instructions=364)
    assert row.instructions_per_line == pytest.approx(4 * 364 / 256)
    assert Report("combine", 90).instructions_per_line == 0.0
    rows = Reports([row, Report("combine", 90)])
    head, line = rows.counts().splitlines()
    assert " ".join(head.split()).startswith("kernel target warps per SM tile instr a line issue")
    assert " 5.7 " in line and len(line) == len(head)


SOURCE = """
import triton
import triton.language as tl
from kernels.compile_report import LaunchCase
from kernels.call import KernelCall
import torch

@triton.jit
def sums_kernel(k_ptr, out_ptr, n, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in tl.range(0, n, BLOCK, num_stages=STAGES):
        total += tl.load(k_ptr + start + offs)
    tl.store(out_ptr + offs, total)

def make(stages):
    k, out = torch.empty(2**20, device="meta"), torch.empty(2048, device="meta")
    args = {"k_ptr": k, "out_ptr": out, "n": 2**20, "BLOCK": 2048, "STAGES": stages}
    return lambda target: KernelCall(sums_kernel, (1,), args, num_warps=4)

def compile_cases():
    return [LaunchCase(f"sums {n}", make(n), tile=lambda call: 4 * 2048) for n in (1, 3)]
"""


@pytest.fixture(scope="module")
def sums():
    """2,048 fp32 numbers a tile: per warp four loads of 128 bits and sixteen additions."""
    return compile_report.run(SOURCE, arch=(80, 90, "gfx942"))


def test_a_compiled_kernel_counted_by_hand(sums):
    """Unrolled four times by ptxas without stages: 64 additions, 16 loads, some 20 for addresses.

    With stages each tile goes by way of shared memory: four copies, four loads, 16 additions, two
    barriers, two waits, and which of the buffers is next.
    """
    for row in sums:
        if row.arch == "gfx942":
            assert row.tile_instructions == row.bytes_in_flight == 0 and row.issue_share == 0.0
            continue
        least, most, tiles = (4 + 16, 28, 1) if row.name == "sums 1" else (8 + 16 + 4, 64, 2)
        assert least <= row.tile_instructions <= most, row
        assert row.tile_bytes == 8192
        assert row.bytes_in_flight == row.resident_blocks * tiles * 8192, row
        lasts = 8192 / target(row.arch).device.bytes_per_clock
        assert row.issue_share == pytest.approx(row.tile_instructions / lasts, abs=1e-4)


def test_counts_of_the_decode_kernel_are_those_of_its_tile():
    """What the loop loads is the tile that the case names, and no page numbers or scales."""
    for name in ("pages of 16", "int8 scale a token"):
        kind, feature = ("bf16 int8", name[5:]) if "int8" in name else ("bf16", name)
        full = f"split {kind} D=128 G=8 Lq=1 {feature}"
        (row,), (case,) = compile_report.run(full, arch=90), compile_report.cases(full)
        size = 1 if "int8" in name else 2
        assert row.tile_bytes == case.make(target(90)).args["BLOCK_N"] * 2 * 128 * size
        assert row.bytes_in_flight % row.tile_bytes == 0 and row.bytes_in_flight > 0
        assert re.fullmatch("alu|fma|xu|shared|tensor", row.pipe)
