"""Reading AMDGCN, the assembly of AMD's GPUs; `compile_report.sass` does the same for NVIDIA's.

The assembly ends with a description of the kernel:

    .vgpr_count: 246                vector registers per lane, of 512 (accumulators included)
    .vgpr_spill_count: 0            of these, how many were moved to memory for lack of room
    .private_segment_fixed_size: 0  bytes of slow memory per lane

    global_load_dwordx4             load 4 · 32 = 128 bits per lane; buffer_load_… the same
    … lds                           a load that goes straight to the LDS (shared memory)
    v_mfma_f32_32x32x8_bf16         matrix instruction

Source: LLVM, "User Guide for AMDGPU Backend", code object metadata; AMD, "Instinct MI300
instruction set architecture".
"""

import re

from kernels.compile_report.load_widths import load_bits


def measure(text: str) -> dict[str, int]:
    """Return the machine-code fields of a `kernels.compile_report.Report` from AMDGCN."""

    def described(name: str) -> int:
        return int(re.search(rf"^\s*\.{name}:\s+(\d+)", text, re.MULTILINE)[1])

    lines = [line.split("//")[0].split(";")[0].strip() for line in text.splitlines()]
    loads = [line for line in lines if re.match(r"(global|buffer)_load_", line)]
    return {
        "registers": described("vgpr_count"),
        "stack_bytes": described("private_segment_fixed_size"),
        "spill_bytes": 4 * described("vgpr_spill_count"),
        "load_bits": max(map(load_bits, loads), default=0),
        "async_copies": sum("_lds_" in line or line.endswith(" lds") for line in loads),
        "tensor_core": sum(line.startswith(("v_mfma_", "v_smfmac_")) for line in lines),
    }
