"""kernels.compile_report.loops: loops in machine code that is short enough to check by hand."""

import pytest

from kernels.compile_report.loops import loops, parse

CODE = """
        Function : first_kernel
        /*0000*/                   MOV R1, c[0x0][0x28] ;                 /* 0x00000a0000017a02 */
                                                                          /* 0x000fe40000000f00 */
        /*0010*/              @!P0 LDG.E.64 R2, desc[UR4][R2.64] ;
        /*0020*/                   EXIT ;
        Function : second_kernel
        /*0000*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0010*/               @UP1 BRA 0x0 ;
        /*0020*/                   EXIT ;
"""


def sass(*lines):
    """Number the lines as cuobjdump does; a label in front, as "outer:", is what "@outer" names."""
    labels, code = {}, []
    for i, line in enumerate(lines):
        label, _, rest = line.rpartition(": ")
        labels |= {label: 16 * i} if label else {}
        code.append(f"/*{16 * i:04x}*/ {rest} ;")
    text = "\n".join(code)
    for label, address in labels.items():
        text = text.replace(f"@{label}", hex(address))
    return text


def shape(text):
    """The header, number of instructions, and whether it is innermost, of each loop."""
    return [(loop.header // 16, len(loop.body), loop.innermost) for loop in loops(parse(text))]


def test_an_instruction_has_four_parts():
    first, load, _ = parse(CODE, "first")
    assert (load.address, load.predicate, load.name) == (0x10, "@!P0", "LDG.E.64")
    assert load.base == "LDG" and load.operands == "R2, desc[UR4][R2.64] "
    assert first.predicate == "" and first.operands == "R1, c[0x0][0x28] "


def test_one_function_of_several_is_read():
    assert [x.base for x in parse(CODE, "second")] == ["BAR", "BRA", "EXIT"]
    assert len(parse(CODE)) == 6
    with pytest.raises(ValueError, match="no function called 'third'"):
        parse(CODE, "third")


def test_straight_code_has_no_loop():
    assert shape(sass("MOV R1, R2", "@P0 BRA @end", "FADD R1, R1, R2", "end: EXIT")) == []
    assert shape(sass("MOV R1, R2", "EXIT", "self: BRA @self")) == []  # never reached


def test_a_loop_and_what_comes_before_and_after():
    text = sass(
        "MOV R1, RZ", "top: FADD R1, R1, R2", "IADD3 R3, R3, 0x1, RZ", "@P0 BRA @top", "EXIT"
    )
    assert shape(text) == [(1, 3, True)]


def test_a_nest_of_loops():
    text = sass(
        "MOV R1, RZ",
        "outer: MOV R2, RZ",
        "inner: FADD R1, R1, R2",
        "@P0 BRA @inner",
        "IADD3 R4, R4, 0x1, RZ",
        "@P1 BRA @outer",
        "EXIT",
    )
    assert shape(text) == [(1, 5, False), (2, 2, True)]


def test_a_predicated_instruction_counts_and_so_does_a_branch_within():
    """Both sides of a branch belong to the loop: the count is of what is there, not of one path."""
    text = sass(
        "top: @!P0 LDG.E R1, [R2.64]",
        "@P1 BRA @skip",
        "FADD R1, R1, R2",
        "skip: ISETP.GE.AND P0, PT, R1, R3, PT",
        "@P0 BRA @top",
        "EXIT",
    )
    assert shape(text) == [(0, 5, True)]


def test_two_ways_back_are_one_loop():
    text = sass("top: FADD R1, R1, R2", "@P0 BRA @top", "FMUL R1, R1, R2", "@P1 BRA @top", "EXIT")
    assert shape(text) == [(0, 4, True)]


def test_a_loop_that_is_left_by_a_call_that_never_returns():
    """So ptxas writes it for sm_80: the call is a branch out, the branch below it goes back."""
    text = sass(
        "top: HMMA.16816.F32 R4, R8, R12, R4",
        "@P1 CALL.REL.NOINC @out",
        "BRA @top",
        "out: STG.E [R2.64], R4",
        "EXIT",
    )
    assert shape(text) == [(0, 3, True)]


@pytest.mark.parametrize("leaves", ["BRA.U UP0, @out", "BRA.DIV UR4, @out", "BRA !P0, @out"])
def test_branches_that_depend_on_an_operand_also_fall_through(leaves):
    text = sass("top: FADD R1, R1, R2", leaves, "BRA @top", "out: EXIT")
    assert shape(text) == [(0, 3, True)]


def test_code_after_an_end_is_reached_only_by_a_branch():
    text = sass(
        "BRA @top", "dead: FADD R1, R1, R2", "BRA @dead", "top: NOP", "@P0 BRA @top", "EXIT"
    )
    assert shape(text) == [(3, 2, True)]
