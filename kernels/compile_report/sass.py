"""Reading SASS, the machine code of NVIDIA GPUs: what the compiler really made of a kernel.

PTX, which Triton writes, is an intermediate language: it has unlimited registers and no
spills. `ptxas` turns it into a cubin for one architecture; `cuobjdump` prints its contents.

    /*0210*/   @!P0 LDGSTS.E.BYPASS.LTC128B.128 [R5], [R2.64] ;
     address   │    │       └ options, including the width in bits (32 if none is given)
               │    └ instruction: global memory → shared memory, in the background
               └ only if predicate P0 is false: this is what a masked load looks like

    LDG                   load from global memory        LDGSTS, UBLKCP, UTMALDG   copy to shared
    LDL, STL              load from, store to local memory: a spilled register
    HMMA, HGMMA, …MMA     matrix instructions of the tensor cores

Source: NVIDIA, "CUDA Binary Utilities", the instruction set reference.
"""

import re
import subprocess
import tempfile
from pathlib import Path

_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)


def disassemble(cubin: bytes) -> str:
    """Return what cuobjdump (part of triton) says about a cubin: its resources and its SASS."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", "--dump-sass", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def measure(text: str) -> dict[str, int]:
    """Return the machine-code fields of a `kernels.compile_report.Report` from a disassembly.

    Counts are static: an instruction in a loop counts once.
    """
    names = _INSTRUCTION.findall(text)
    loads = [name for name in names if re.match(r"LDG(STS)?\b", name)]
    spills = [name for name in names if re.match(r"(STL|LDL)\b", name)]
    return {
        "registers": int(re.search(r"REG:(\d+)", text).group(1)),
        "stack_bytes": int(re.search(r"STACK:(\d+)", text).group(1)),
        "spill_bytes": sum(width(name) // 8 for name in spills),
        "load_bits": max(map(width, loads), default=0),
        "async_copies": sum(name.startswith(("LDGSTS", "UBLKCP", "UTMALDG")) for name in names),
        "tensor_core": sum(bool(re.match(r"[A-Z]*MMA\b", name)) for name in names),
    }


def width(name: str) -> int:
    """Return how many bits a load or store moves per thread.

    >>> width("LDGSTS.E.BYPASS.LTC128B.128"), width("LDG.E.U16"), width("STL")
    (128, 16, 32)
    """
    widths = re.findall(r"\.[US]?(8|16|64|128|256)(?=\.|$)", name)
    return int(widths[-1]) if widths else 32
