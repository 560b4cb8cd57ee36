"""Which instructions a program executes, as far as its arguments decide that.

SASS lists every instruction once. A loop executes some of them many times, and how often depends
on arguments such as the number of splits. `path` follows the first thread of the first program: it
computes what follows from the integers among the arguments, so that it knows each branch's
condition. What is loaded, or computed in floating point, stays unknown, and nothing but a branch
needs it.

    ISETP.GE.AND P0, PT, R0, c[0x0][0x184], PT     P0 = R0 ≥ the word at 0x184 of constant bank 0
    @!P0 BRA 0x110                                 unless P0, go on at 0x110

Each instruction has 21 bits that say when it may issue; `Instruction` has them, and
`kernels.compile_report.latency` says what they mean.

Source: NVIDIA, "CUDA Binary Utilities", the instruction set reference; the rest was found by
reading what ptxas writes.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from kernels.compile_report.sass import width

NONE = 7
"""Of six scoreboards: none."""

_STEPS = 200_000  # a program this long does not end
_LINE = re.compile(
    r"/\*(?P<at>[0-9a-f]{4,})\*/\s+(?:@(?P<guard>!?U?P\w+)\s+)?(?P<name>[A-Z][\w.]*)\s*"
    r"(?P<operands>[^;]*);\s*/\* 0x[0-9a-f]{16} \*/\s*/\* 0x(?P<bits>[0-9a-f]{16}) \*/"
)
_CONSTANT = re.compile(r"c\[0x0\]\[(0x\w+)\]")


@dataclass(frozen=True)
class Instruction:
    """One instruction and its 21 bits: guard "!P0", name "LDG.E.128", operands ("R4", "[R2]")."""

    at: int
    guard: str
    name: str
    operands: tuple[str, ...]
    stall: int
    write: int
    read: int
    wait: int

    @property
    def base(self) -> str:
        """The name without its options."""
        return self.name.split(".")[0]


def parse(text: str) -> list[Instruction]:
    """Return the instructions of a disassembly with its machine code, as cuobjdump prints it."""
    found = []
    for line in _LINE.finditer(text):
        control = int(line["bits"], 16) >> 41
        operands = tuple(x.strip().replace(".reuse", "") for x in line["operands"].split(","))
        found.append(
            Instruction(
                int(line["at"], 16),
                line["guard"] or "",
                line["name"],
                operands,
                stall=control & 15,
                write=control >> 5 & 7,
                read=control >> 8 & 7,
                wait=control >> 11 & 63,
            )
        )
    return found


class Registers:
    """What is known of registers and flags: a number, or None.

    Constants and arguments are known, and what integer instructions make of them. What is loaded or
    computed in floating point is not; nothing but a branch needs to know.
    """

    def __init__(self, constants: Mapping[int, int]) -> None:
        """constants: address in bank 0 → 32-bit word."""
        self.constants = constants
        self.values: dict[str, int | None] = {}

    def __getitem__(self, operand: str) -> int | None:
        """Return the unsigned value of an operand: "R4", "-R4", "!P0", "0x10", "c[0x0][0x210]"."""
        sign, name = (operand[0], operand[1:]) if operand[0] in "-!~|" else ("", operand)
        if name in ("RZ", "URZ", "SRZ", "PT", "UPT"):
            value = int(name.endswith("PT"))
        elif address := _CONSTANT.fullmatch(name):
            value = self.constants.get(int(address[1], 16))
        elif re.fullmatch(r"0x[0-9a-f]+|\d+", name):
            value = int(name, 0)
        else:
            value = self.values.get(name)
        if value is None or sign == "|":
            return None
        changed = {"-": -value, "!": 1 - value, "~": ~value, "": value}[sign]
        return changed if sign == "!" else changed & 0xFFFFFFFF

    def execute(self, step: Instruction) -> None:
        """Take in one instruction."""
        if step.base in ("STG", "STS", "BRA", "EXIT", "BAR"):
            return
        if step.base.removeprefix("U") in ("ISETP", "PLOP3"):
            self.values[step.operands[0]] = self._flag(step)
            return
        flags, register, inputs = _roles(step)
        value = self._integer(step, inputs)
        for flag in flags:  # of LOP3: whether any bit is set; else a carry and the like
            known = step.base == "LOP3" and value is not None
            self.values[flag] = int(value != 0) if known else None
        if number := re.fullmatch(r"(U?R)(\d+)", register):
            for i in range(1, _registers_of(step)):
                self.values[f"{number[1]}{int(number[2]) + i}"] = self._upper(step, inputs, i)
            self.values[register] = value

    def _upper(self, step: Instruction, inputs: tuple[str, ...], i: int) -> int | None:
        """Word i of what an instruction puts into several registers."""
        if step.base == "CS2R":
            return self[inputs[0]]
        if address := _CONSTANT.fullmatch(inputs[0]):
            return self.constants.get(int(address[1], 16) + 4 * i)
        return None

    def _integer(self, step: Instruction, inputs: tuple[str, ...]) -> int | None:
        """The 32 bits that an integer instruction computes; None for any other."""
        base, options = step.base.removeprefix("U"), set(step.name.split(".")[1:])
        if base in ("S2R", "S2UR"):
            return 0 if re.match(r"SR_(TID|CTAID)", inputs[0]) else None
        if base in ("MOV", "LDC", "R2UR", "CS2R"):
            return self[inputs[0]]
        if base == "HFMA2" and inputs[:2] == ("-RZ", "RZ"):  # two halves: another way to set one
            upper, lower = (struct.pack("<e", float(x)) for x in inputs[2:4])
            return int.from_bytes(lower + upper, "little")
        if base == "SEL":
            chosen = self[inputs[2]]
            return None if chosen is None else self[inputs[0] if chosen else inputs[1]]
        if base not in ("IMAD", "IADD3", "VIADD", "LOP3", "SHF") or options & {"WIDE", "HI", "X"}:
            return None  # SHF.R.U32.HI, too: nothing that decides a branch is shifted
        known = [self[x] for x in inputs[:4]]
        if base == "IMAD" and 0 in known[:2]:
            return known[2]
        if None in known[:3]:
            return None
        if base == "IMAD":
            return (known[0] * known[1] + known[2]) & 0xFFFFFFFF
        if base == "LOP3":
            return _lut(known[:3], known[3])
        if base == "SHF":
            return known[0] << (known[1] & 31) & 0xFFFFFFFF if "L" in options else None
        return sum(known[:3]) & 0xFFFFFFFF

    def _flag(self, step: Instruction) -> int | None:
        """The flag that a comparison or a table of three flags gives."""
        if "PLOP3" in step.name:
            known = [self[x] for x in step.operands[2:6]]
            return None if None in known else _lut(known[:3], known[3]) & 1
        _, compare, *options = step.name.split(".")
        a, b, before = (self[x] for x in step.operands[2:5])
        if None in (a, b) or "EX" in options:
            return None
        if "U32" not in options:
            a, b = _signed(a), _signed(b)
        outcome = {"GE": a >= b, "GT": a > b, "LE": a <= b, "LT": a < b, "EQ": a == b, "NE": a != b}
        if before is None:
            return None
        return int(outcome[compare] and before if "AND" in options else outcome[compare] or before)


def _roles(step: Instruction) -> tuple[list[str], str, tuple[str, ...]]:
    """Flags and register that an instruction writes, and what it reads."""
    flags, register, operands = [], "", list(step.operands)
    while operands and (re.fullmatch(r"U?P(\d+|T)", operands[0]) or not register):
        operand = operands.pop(0)
        if re.fullmatch(r"U?P\d+", operand):
            flags.append(operand)
        elif not operand.endswith("PT"):
            register = operand
    return flags, register, tuple(operands) or ("RZ",)


def _registers_of(step: Instruction) -> int:
    """How many registers an instruction writes."""
    if step.base in ("LDG", "LDS", "LDC", "ULDC"):
        return -(-width(step.name) // 32)
    return 2 if "WIDE" in step.name or step.base == "CS2R" else 1


def _signed(x: int) -> int:
    return x - (1 << 32) if x >> 31 else x


def _lut(inputs: list[int], table: int) -> int:
    """Bit by bit, the entry of `table` that three input bits number."""
    a, b, c = inputs
    terms = [
        (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
        for i in range(8)
        if table >> i & 1
    ]
    result = 0
    for term in terms:
        result |= term
    return result & 0xFFFFFFFF


def path(program: list[Instruction], constants: Mapping[int, int]) -> Iterator[Instruction]:
    """Yield the instructions of the first thread's way through a program, in order.

    One whose guard is known to be false is called "NOP". Raises ValueError at a branch that
    depends on what is not known.
    """
    registers, index = Registers(constants), 0
    places = {step.at: i for i, step in enumerate(program)}
    for _ in range(_STEPS):
        step = program[index]
        index += 1
        taken = registers[step.guard] if step.guard else 1
        if step.base in ("BRA", "CALL"):  # ptxas also calls where it never returns
            flags = [x for x in step.operands[:-1] if re.fullmatch(r"!?U?P\d+", x)]
            known = [taken, *(registers[x] for x in flags)]
            if None in known:
                raise ValueError(f"{step.name} at {step.at:#x} depends on data")
            yield step
            if all(known):
                index = places[int(re.search(r"0x[0-9a-f]+", step.operands[-1])[0], 16)]
            continue
        if taken == 0:  # it issues, and does nothing
            yield replace(step, name="NOP", write=NONE, read=NONE)
            continue
        yield step
        if step.base == "EXIT" and taken:
            return
        registers.execute(step)
    raise ValueError(f"the program does not end within {_STEPS} instructions")
