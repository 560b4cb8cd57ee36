"""compile_report.latency and sass_path: the way through a program and its time, by hand."""

import json
import os
import subprocess
import sys

import pytest

from kernels.compile_report.latency import cycles
from kernels.compile_report.sass_path import Registers, parse, path

SPLITS = 0x184  # where constant memory holds the number that the programs below loop to


def line(at, text, stall=1, write=7, read=7, wait=0):
    """One instruction as cuobjdump prints it, with its control bits in the second word."""
    bits = stall | write << 5 | read << 8 | wait << 11
    return f"        /*{at:04x}*/  {text} ;  /* 0x{0:016x} */\n  /* 0x{bits << 41:016x} */\n"


def program(*lines):
    """Instructions at 0x00, 0x10, …: each a text, or a text and its control bits."""
    pairs = [(x, {}) if isinstance(x, str) else x for x in lines]
    return parse("".join(line(16 * i, text, **bits) for i, (text, bits) in enumerate(pairs)))


def names(steps):
    return [step.name for step in steps]


def test_the_control_bits():
    (step,) = parse(line(0x120, "@!P0 LDG.E.128 R4, desc[UR6][R2.64]", 4, 2, 1, 0b100001))
    assert (step.at, step.guard, step.name) == (0x120, "!P0", "LDG.E.128")
    assert step.operands == ("R4", "desc[UR6][R2.64]")
    assert (step.stall, step.write, step.read, step.wait) == (4, 2, 1, 0b100001)


def test_what_a_real_compiler_wrote():
    """An instruction of ptxas for sm_90: the next waits 8 cycles, none of the scoreboards is up."""
    (step,) = parse(
        "/*0190*/  ISETP.GE.AND P0, PT, R2.reuse, 0x1, PT ;  /* 0x000000010200780c */\n"
        "                                                   /* 0x000fd00003f06270 */"
    )
    assert step.operands == ("P0", "PT", "R2", "0x1", "PT")
    assert (step.stall, step.write, step.read, step.wait) == (8, 7, 7, 0)


LOAD_4 = ("LDG.E R4, [R2.64]", {"stall": 2, "write": 0})
LOAD_5 = ("LDG.E R5, [R2.64+0x4]", {"stall": 2, "write": 0})
SUM = ("FADD R6, R4, R5", {"wait": 1})
EXIT = ("EXIT", {"stall": 5})


def test_loads_on_one_scoreboard_are_one_wait():
    """The first finds its page after 650 cycles; 128 bytes at 64 a cycle pass before that."""
    assert cycles(program(LOAD_4, LOAD_5, SUM)) == 2 + 2 + 650 - 0 + 1 - 2
    one_by_one = program(LOAD_4, SUM, LOAD_5, SUM)
    assert cycles(one_by_one) == (2 + 650 + 1) + (2 + 260 + 1)


def test_warps_share_what_comes_from_l2():
    """Two loads of 512 bytes: 16 cycles for one warp, 64 for four."""
    wide = [("LDG.E.128 R4, [R2.64]", {"write": 0}), ("LDG.E.128 R8, [R2.64]", {"write": 1})]
    both = program(*wide, ("FADD R6, R4, R8", {"wait": 3}))
    assert cycles(both, 1) == max(8 + 650, 16 + 260) + 1
    many = program(*wide * 60, ("FADD R6, R4, R8", {"wait": 3}))
    assert cycles(many, 4) == 120 * 32 + 260 + 1


def test_a_partial_wait_leaves_the_last_ones_up():
    loads = program(LOAD_4, ("SHFL.BFLY PT, R5, R4, 0x1, 0x1f", {"write": 1}),
                    ("DEPBAR.LE SB1, 0x1", {}), ("DEPBAR.LE SB0, 0x0", {}))  # fmt: skip
    assert cycles(loads) == 2 + 650 + 1
    assert cycles(loads[:3]) == 2 + 1 + 1


def test_a_barrier_and_stalls_count():
    steps = program(("FADD R1, R1, R1", {"stall": 4}), ("BAR.SYNC.DEFER_BLOCKING 0x0", {}))
    assert cycles(steps) == 4 + 30 + 1


LOOP = (
    "MOV R0, RZ",
    "FADD R1, R1, R1",
    "IADD3 R0, R0, 0x10, RZ",
    f"ISETP.GE.AND P0, PT, R0, c[0x0][0x{SPLITS:x}], PT",
    "@!P0 BRA 0x10",
    EXIT,
)


@pytest.mark.parametrize(("splits", "turns"), [(1, 1), (16, 1), (17, 2), (100, 7)])
def test_a_loop_turns_as_often_as_its_argument_says(splits, turns):
    assert names(path(program(*LOOP), {SPLITS: splits})).count("FADD") == turns


def test_a_false_guard_takes_the_time_of_its_issue_and_no_more():
    steps = list(path(program("ISETP.GT.AND P1, PT, RZ, 0x1, PT",
                              ("@P1 LDG.E R4, [R2.64]", {"stall": 3, "write": 0}),
                              ("@!P1 FADD R4, R4, R4", {"wait": 1}), EXIT), {}))  # fmt: skip
    assert names(steps) == ["ISETP.GT.AND", "NOP", "FADD", "EXIT"]
    assert cycles(steps) == 1 + 3 + 1 + 5


def test_what_is_loaded_decides_nothing():
    loaded = program("LDG.E R0, [R2.64]", "ISETP.NE.AND P0, PT, R0, RZ, PT", "@P0 BRA 0x0", EXIT)
    with pytest.raises(ValueError, match="BRA at 0x20 depends on data"):
        list(path(loaded, {}))


def test_a_program_has_to_end():
    with pytest.raises(ValueError, match="does not end"):
        list(path(program("BRA 0x0"), {}))


def test_a_call_may_be_a_jump():
    """So ptxas leaves a loop on sm_80."""
    assert names(path(program("CALL.REL.NOINC 0x20", "FADD R1, R1, R1", EXIT), {})) == [
        "CALL.REL.NOINC",
        "EXIT",
    ]


@pytest.mark.parametrize(
    ("instruction", "register", "value"),
    [
        ("MOV R0, 0xff800000", "R0", 0xFF800000),
        ("LDC.64 R0, c[0x0][0x10]", "R1", 9),
        ("ULDC UR4, c[0x0][0x14]", "UR4", 9),
        ("CS2R R0, SRZ", "R1", 0),
        ("S2R R0, SR_TID.X", "R0", 0),
        ("IADD3 R0, R7, -0x30, RZ", "R0", 0x100000000 - 0x29),
        ("IADD3 R0, P1, R7, R8, RZ", "R0", 10),
        ("VIADD R0, R7, 0x10", "R0", 23),
        ("IMAD R0, R7, R8, R7", "R0", 28),
        ("IMAD.MOV.U32 R0, RZ, RZ, R7", "R0", 7),
        ("IMAD.SHL.U32 R0, R7, 0x4, RZ", "R0", 28),
        ("SHF.L.U32 R0, R7, 0x2, RZ", "R0", 28),
        ("HFMA2.MMA R0, -RZ, RZ, 0, 5.9604644775390625e-08", "R0", 1),
        ("LOP3.LUT R0, R7, 0x6, RZ, 0xc0, !PT", "R0", 6),  # and
        ("LOP3.LUT R0, R7, R8, RZ, 0x3c, !PT", "R0", 4),  # exclusive or
        ("LOP3.LUT P0, RZ, R7, 0x8, RZ, 0xc0, !PT", "P0", 0),
        ("SEL R0, R7, R8, !PT", "R0", 3),
        ("ISETP.GT.U32.AND P0, PT, R9, 0x1, PT", "P0", 1),
        ("ISETP.GT.AND P0, PT, R9, 0x1, PT", "P0", 0),  # R9 is -1
        ("ISETP.LT.OR P0, PT, R7, R8, PT", "P0", 1),
        ("ISETP.LT.AND P0, PT, R7, R8, PT", "P0", 0),
        ("PLOP3.LUT P0, PT, PT, PT, PT, 0x80, 0x0", "P0", 1),
        ("PLOP3.LUT P0, PT, PT, PT, PT, 0x8, 0x0", "P0", 0),
        ("FADD R7, R7, R7", "R7", None),
        ("LDG.E.128 R4, [R2.64]", "R7", None),
        ("LDG.E.64 R4, [R2.64]", "R7", 7),
        ("IMAD.WIDE.U32 R6, R8, R8, RZ", "R7", None),
        ("SHFL.BFLY PT, R7, R8, 0x1, 0x1f", "R7", None),
        ("STG.E [R8.64], R7", "R8", 3),
    ],
)
def test_integers_and_flags_are_computed(instruction, register, value):
    registers = Registers({0x10: 8, 0x14: 9})
    registers.values |= {"R7": 7, "R8": 3, "R9": 0xFFFFFFFF}
    registers.execute(program(instruction)[0])
    assert registers[register] == value


COUNT = """
import json
from kernels.compile_report.latency import timing
from kernels.compile_report.launches.flash_decoding import combine_case
print(json.dumps([
    [arch, splits, row.microseconds, row.narrow_loads, row.loads]
    for arch in (80, 90) for splits in (32, 128)
    for row in [timing(combine_case("bf16", 128, splits=splits), arch)]
]))
"""


def test_the_merge_waits_for_memory_once():
    """One load of lse per lane and tile; with two passes and one warp it was 2.5 and 8.4 µs."""
    env = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", COUNT], env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    for _, splits, microseconds, of_lse, loads in json.loads(done.stdout):
        assert (of_lse, loads) == (1, 33)
        assert microseconds <= {32: 1.1, 128: 2.8}[splits]
