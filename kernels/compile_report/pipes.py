"""How long the parts of an SM are busy with a run of instructions: a model of its pipes.

Each of an SM's four partitions issues one warp instruction per clock, to one of these:

                      ┌───────── partition, one of four ─────────┐
    issue slot ──▶    │  alu      integer, logic, comparisons     │   64 lanes per clock and SM
    1 per clock       │  fma      fp32 sums, products; IMAD       │   64 or 128
                      │  xu       exp2, 1/x; int ↔ float, F2F     │   16
                      │  tensor   matrix instructions             │   multiply-adds, see `TENSOR`
                      └───────────────────────────────────────────┘
         shared by all four:  shared memory, L1, shuffles             128 bytes per clock and SM

A warp has 32 lanes. With 64 lanes per SM, 16 per partition, an instruction keeps its pipe busy for
2 clocks; an exp2 keeps the xu busy for 8. Moving data costs what its bytes cost: a 128-bit load of
a warp is 512 bytes, which take 4 clocks of the whole SM, or 16 of one partition's quarter of it.

This is a bound, not a simulation: no latency, no bank conflicts, no dependence of one instruction
on another; all of these can only make a kernel slower. Not counted: what wgmma reads from shared
memory by itself, and the uniform datapath.

Sources: NVIDIA, "CUDA C++ Programming Guide", throughput of native arithmetic instructions; the
pipes are those of "Nsight Compute", metrics decoder; tensor cores: the white papers named in
`kernels.devices`. Assumed for sm_100: mma.sync at the rate of sm_90.
"""

import re
from collections import Counter
from collections.abc import Iterable
from math import prod

from kernels.compile_report.loops import Instruction
from kernels.compile_report.sass import width

FP32_CLOCKS = {"sm_80": 2, "sm_86": 1, "sm_89": 1, "sm_90": 1, "sm_100": 1}
"""Clocks of a partition per fp32 instruction: 16 lanes on sm_80, 32 later."""

TENSOR = {"sm_80": 256, "sm_86": 128, "sm_89": 128, "sm_90": 512, "sm_100": 512}
"""Multiply-adds of 16-bit numbers per clock and partition."""

_CONVERT = ("F2F", "F2I", "I2F", "FRND")
_LOADS = ("LDG", "LDGSTS", "LD", "LDS", "LDSM", "STS", "STSM", "STG", "ST")
_NEITHER = ("BAR", "BRA", "BSSY", "BSYNC", "CALL", "CCTL", "DEPBAR", "ELECT", "ERRBAR", "EXIT")
_NEITHER += ("FENCE", "LDGDEPBAR", "MEMBAR", "NANOSLEEP", "NOP", "RET", "SYNCS", "WARPGROUP")
_NEITHER += ("WARPSYNC", "YIELD", "LDC", "LDCU", "S2R", "S2UR", "R2UR", "UTMALDG", "UBLKCP")


def busy(code: Iterable[Instruction], target: str) -> dict[str, float]:
    """Return for each pipe how many clocks of its partition a warp takes to issue `code`.

    target: a name in `TENSOR`.
    """
    clocks: Counter[str] = Counter()
    for instruction in code:
        pipe, taken = _cost(instruction, target)
        if pipe:
            clocks[pipe] += taken
    return dict(clocks)


def _cost(instruction: Instruction, target: str) -> tuple[str, float]:
    """Return the pipe of an instruction ("" for none) and the clocks that it is busy."""
    base = instruction.base
    if base.endswith("MMA"):
        return "tensor", multiply_adds(instruction.name) / TENSOR[target]
    if base == "MUFU" or base in _CONVERT:
        return "xu", 8
    if base == "SHFL":  # 32 lanes per clock and SM
        return "shared", 4
    if base in _LOADS:
        return "shared", moved(instruction.name) / 32
    if re.match(r"F(FMA|ADD|MUL)", base):
        return "fma", FP32_CLOCKS[target]
    if re.match(r"H(FMA|ADD|MUL)2", base):
        return "fma", 1
    if base == "IMAD":
        return "fma", 2
    if base in _NEITHER or base.startswith("U"):
        return "", 0
    return "alu", 2


def moved(name: str) -> int:
    """Return how many bytes a warp's load or store moves.

    >>> moved("LDS.128"), moved("LDGSTS.E.BYPASS.64"), moved("LDSM.16.MT88.4"), moved("STSM.16.M88")
    (512, 256, 512, 128)
    """
    if name.startswith(("LDSM", "STSM")):  # 8 × 8 matrices of 16 bits: 1, 2 or 4
        return 128 * int((re.findall(r"\.([24])$", name) or [1])[0])
    return width(name) // 8 * 32


def multiply_adds(name: str) -> float:
    """Return the multiply-adds of a warp's share of a matrix instruction, as of 16-bit numbers.

    >>> multiply_adds("HMMA.16816.F32.BF16"), multiply_adds("QMMA.16832.F32.E4M3.E4M3")
    (2048, 2048.0)
    >>> multiply_adds("HGMMA.64x128x16.F32.BF16")  # four warps share it
    32768.0

    Eight-bit numbers go through at twice the rate, TF32 at half of it. 0 if the name has no shape.
    """
    rate = 2 if name.startswith(("I", "Q")) else 0.5 if ".TF32" in name else 1
    if shape := re.search(r"\.(\d+)x(\d+)x(\d+)", name):
        return prod(map(int, shape.groups())) / 4 / rate
    if shape := re.search(r"\.(16|8)(8|16)(4|8|16|32|64)(?=\.|$)", name):
        count = prod(map(int, shape.groups()))
        return count if rate == 1 else count / rate
    return 0
