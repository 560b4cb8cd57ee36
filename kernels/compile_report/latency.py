"""How long one program takes, by a model that reads its machine code; no GPU is needed.

A kernel that moves little, such as the merge of a few splits, is bound by neither memory nor
arithmetic: nearly all of its time is waiting for what it has just asked for. What counts is how
many such waits follow one another, and the compiler has written that down. Since Volta, an NVIDIA
GPU does not look for dependences itself: 21 of an instruction's 128 bits say what to wait for.

    stall   4 bits   cycles until this warp's next instruction may issue; this covers arithmetic
    write   3 bits   which of six scoreboards is up until the result is there (7: none): for what
                     takes an unknown time, such as a load
    read    3 bits   which one is up until the operands have been read
    wait    6 bits   the scoreboards that must be down before this instruction issues

So one clock and six scoreboards, walked along the program, say when each instruction issues. Ten
loads on one scoreboard cost one wait; ten loads, each waited for, cost ten:

    LDG R4           write 0     issues at   0
    LDG R5           write 0     issues at   2
    FADD R6, R4, R5  wait 0      issues at 652, not at 1300

Which way a program goes at a branch depends on its arguments. `Registers` computes what follows
from the integers among them, for the first thread of the first program.

Not in the model: the launch, fetching instructions (long code costs more than it says), other
programs on the SM, bank conflicts, addresses. The first load of global memory has to find its page;
the others find their numbers in L2, where the kernel before has just put them. So this compares two
versions of a kernel, or shows where one waits. It measures nothing, and no measurement has
confirmed it.

    python -m kernels.compile_report.latency     the merge, by number of splits

Sources: Jia et al. 2018, "Dissecting the NVIDIA Volta GPU architecture via microbenchmarking",
section 2.1 (the bits); Huerta et al. 2025, "Dissecting and modeling the architecture of modern GPU
cores" (issue and scoreboards); Luo et al. 2024, "Benchmarking and dissecting the Nvidia Hopper GPU
architecture" (a chain of loads: about 30 cycles each in shared memory, 260 in L2, 480 in DRAM).
"""

import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from kernels.compile_report.case import LaunchCase, source_of, specialise
from kernels.compile_report.sass import disassemble, measure, width
from kernels.compile_report.targets import target

CLOCK_GHZ = 1.75
"""Of an H200 under load; for other GPUs, too, so that figures compare."""

BYTES_PER_CYCLE = 64
"""What an SM gets from L2."""

PARAMETERS = {75: 0x160, 80: 0x160, 86: 0x160, 89: 0x160, 90: 0x210}
"""Where a kernel's arguments begin in constant memory."""

_CYCLES = {  # from issue until the scoreboard is down; rounded from the sources
    "LDG": 260, "LDS": 30, "LDSM": 33, "SHFL": 25, "MUFU": 25, "BAR": 30, "LDC": 30, "ULDC": 30,
    "S2R": 25, "S2UR": 25, "STG": 15, "STS": 15, "ATOMG": 650, "RED": 15, "R2UR": 12, "F2F": 15,
    "I2F": 15, "F2I": 15, "POPC": 15, "DADD": 40, "DMUL": 40, "DFMA": 40, "REDUX": 25, "VOTEU": 12,
}  # fmt: skip
_OTHER = 15
_FIRST_LOAD = 650
_NONE = 7
_OPERANDS_READ = 12
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
            yield replace(step, name="NOP", write=_NONE, read=_NONE)
            continue
        yield step
        if step.base == "EXIT" and taken:
            return
        registers.execute(step)
    raise ValueError(f"the program does not end within {_STEPS} instructions")


def cycles(steps: Iterable[Instruction], num_warps: int = 1) -> int:
    """Return when the last of these instructions issues, for a warp among `num_warps` alike.

    The warps share what an SM gets from L2, and nothing else.
    """
    now, memory, page_known = 0, 0.0, 0.0
    raised: list[list[float]] = [[] for _ in range(6)]  # when each result on a scoreboard is there
    for step in steps:
        for board in range(6):
            if step.wait >> board & 1:
                now = max([now, *raised[board]])
                raised[board] = []
        if step.base == "DEPBAR":  # all but the last n on one scoreboard
            board, left = (int(re.search(r"\d+$", x)[0], 0) for x in step.operands[:2])
            now = max([now, *raised[board][: len(raised[board]) - left]])
        latency = _CYCLES.get(step.base, _OTHER)
        start = float(now)
        if step.base == "LDG":
            memory = max(memory, now) + num_warps * 32 * width(step.name) / 8 / BYTES_PER_CYCLE
            page_known = page_known or memory + _FIRST_LOAD
            start = max(memory, page_known - latency)
        if step.base == "BAR":
            now += latency
        if step.write != _NONE:
            raised[step.write].append(start + latency)
        if step.read != _NONE:
            raised[step.read].append(now + _OPERANDS_READ)
        now += max(step.stall, 1)
    return int(now)


def constants_of(case: LaunchCase, arch: int) -> dict[int, int]:
    """Return the words of constant memory that hold the integers of a launch."""
    call = case.make(target(arch))
    types, constexprs, _ = specialise(call)
    at, found = PARAMETERS[arch], {}
    for i, (name, kind) in enumerate(types.items()):
        if (i,) in constexprs:
            continue
        if isinstance(kind, tuple):
            raise ValueError(f"{case.name} takes tuples, whose place is not known here")
        size = 8 if kind.startswith("*") or kind.endswith("64") else 4
        at = -(-at // size) * size
        if kind in ("i32", "i64"):
            words = int(call.args[name]) & 0xFFFFFFFFFFFFFFFF
            found |= {at + 4 * word: words >> 32 * word & 0xFFFFFFFF for word in range(size // 4)}
        at += size
    return found


@dataclass(frozen=True)
class Timing:
    """What the model says of one program.

    microseconds: until its last instruction has issued. instructions, loads, narrow_loads: of its
    first warp; the last two from global memory, all of them and those of at most 32 bits a lane.
    registers: per lane.
    """

    microseconds: float
    instructions: int
    loads: int
    narrow_loads: int
    registers: int
    num_warps: int


def timing(case: LaunchCase, arch: int = 90) -> Timing:
    """Return what the model says of the first program of a launch.

    Needs a process whose kernels are not interpreted. Raises ValueError where the program's way
    depends on data.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    source, options = source_of(case, target(arch))
    kernel = triton.compile(source, GPUTarget("cuda", arch, 32), options)
    text = disassemble(kernel.asm["cubin"])
    steps = list(path(parse(text), constants_of(case, arch)))
    loads = [width(step.name) for step in steps if step.base == "LDG"]
    return Timing(
        cycles(steps, options["num_warps"]) / CLOCK_GHZ / 1e3,
        len(steps),
        len(loads),
        sum(bits <= 32 for bits in loads),
        measure(text)["registers"],
        options["num_warps"],
    )


def main() -> None:
    """Print what the model says of the merge."""
    os.environ["TRITON_INTERPRET"] = "0"  # before the first kernel is imported
    from kernels.compile_report.launches.flash_decoding import combine_case

    print("merge, bf16, D = 128    splits   warps   regs   instructions   loads of lse, o      µs")
    for arch in (90, 80):
        for splits in (2, 8, 16, 32, 64, 128, 256, 1024):
            row = timing(combine_case("bf16", 128, splits=splits), arch)
            wide = row.loads - row.narrow_loads
            print(
                f"sm_{arch}{splits:25d}{row.num_warps:8d}{row.registers:7d}{row.instructions:15d}"
                f"{row.narrow_loads:14d}, {wide:<3d}{row.microseconds:10.2f}"
            )


if __name__ == "__main__":
    main()
