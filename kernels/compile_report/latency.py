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

Which way a program goes at a branch, `kernels.compile_report.sass_path` finds out.

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
from collections.abc import Iterable
from dataclasses import dataclass

from kernels.compile_report.case import LaunchCase, source_of, specialise
from kernels.compile_report.sass import disassemble, measure, width
from kernels.compile_report.sass_path import NONE, Instruction, parse, path
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
_OPERANDS_READ = 12


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
        if step.write != NONE:
            raised[step.write].append(start + latency)
        if step.read != NONE:
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
