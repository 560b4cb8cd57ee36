"""The GPUs that kernels are compiled for, and what fits on one of their multiprocessors.

An SM (AMD: compute unit) keeps as many programs resident as all of its resources allow:

    registers       4 partitions with 512 registers per lane, allocated to warps in units of 8
    shared memory   allocated in granules; from sm_80 on the driver adds 1 KiB per program
    warp slots      32, 48 or 64                        program slots    16, 24 or 32
    tensor memory   sm_100 only: 512 columns, the accumulators of its matrix instructions

The same holds for AMD's gfx942: its "wavefront" is a warp of 64 lanes, its "LDS" is shared memory.

Sources: NVIDIA, "CUDA C++ Programming Guide", technical specifications per compute capability, and
the allocation rules of `cuda_occupancy.h` in the CUDA toolkit; for sm_100 the PTX ISA, section on
tensor memory; AMD, "Instinct MI300 instruction set architecture", and LLVM, "User Guide for AMDGPU
Backend", for gfx942.
"""

import re
from dataclasses import dataclass

from kernels.devices import DEVICES, Device

REGISTERS_PER_LANE = 512
"""Registers per lane of a warp in each of an SM's four partitions."""

PARTITIONS = 4
REGISTER_GRANULE = 8


@dataclass(frozen=True)
class Target:
    """One GPU architecture.

    name: "sm_80", "gfx942". example: a product. tensor_cores: whether Triton multiplies 16-bit
    tiles with matrix instructions there. Per program: shared_per_block (bytes),
    registers_per_thread. Per SM: shared_per_sm (bytes), warps, blocks (programs). shared_granule,
    shared_reserved: bytes of each program's shared memory.
    """

    name: str
    example: str
    shared_per_block: int
    shared_per_sm: int
    warps: int
    blocks: int
    shared_granule: int = 128
    shared_reserved: int = 1024
    registers_per_thread: int = 255
    tensor_cores: bool = True
    warp_size: int = 32

    @property
    def is_amd(self) -> bool:
        """Whether the assembly is AMDGCN (otherwise PTX and SASS)."""
        return self.name.startswith("gfx")

    @property
    def arch(self) -> int | str:
        """What Triton calls it: 80 for sm_80, "gfx942" for gfx942."""
        return self.name if self.is_amd else int(self.name.removeprefix("sm_"))

    @property
    def dependent_launch(self) -> bool:
        """As in `kernels.runtime.has_dependent_launch`."""
        return not self.is_amd and self.arch >= 90

    @property
    def device(self) -> Device:
        """Of the GPUs with this architecture, the one whose memory feeds an SM fastest.

        The fewest clocks per byte: a kernel that keeps up here keeps up on the others.

        >>> target("sm_90").device.name
        'H200'
        """
        there = [device for device in DEVICES if device.arch == self.name]
        return max(there, key=lambda device: device.bytes_per_clock)

    def resident_blocks(
        self, *, registers: int, shared_bytes: int, num_warps: int, tensor_columns: int = 0
    ) -> int:
        """Return how many programs of a kernel an SM holds at once; 0: none fits.

        registers: per thread. shared_bytes, tensor_columns (of tensor memory): per program.

        >>> target("sm_80").resident_blocks(registers=128, shared_bytes=0, num_warps=4)
        4

        A warp takes 128 of the 512 registers per lane, so a partition holds 4 warps, and an SM 16.
        """
        if registers > self.registers_per_thread or shared_bytes > self.shared_per_block:
            return 0
        granted = _round_up(max(registers, 1), REGISTER_GRANULE)
        by_registers = REGISTERS_PER_LANE // granted * PARTITIONS // num_warps
        # A launch asks the same of every partition: 5 warps count as 8, but only here.
        if _round_up(num_warps, PARTITIONS) * granted > REGISTERS_PER_LANE * PARTITIONS:
            return 0
        limits = [by_registers, self.warps // num_warps]
        if not (self.is_amd and num_warps == 1):  # gfx942: 16 barriers; a lone wave needs none
            limits.append(self.blocks)
        if shared := _round_up(shared_bytes + self.shared_reserved, self.shared_granule):
            limits.append(self.shared_per_sm // shared)
        if tensor_columns:
            limits.append(512 // tensor_columns)
        return min(limits)


_KIB = 1024
TARGETS = (
    Target(
        "sm_75",
        "T4",
        shared_per_block=64 * _KIB,
        shared_per_sm=64 * _KIB,
        warps=32,
        blocks=16,
        shared_granule=256,
        shared_reserved=0,
        tensor_cores=False,  # the chip has them; Triton's matrix instructions start at sm_80
    ),
    Target("sm_80", "A100", 163 * _KIB, 164 * _KIB, warps=64, blocks=32),
    Target("sm_86", "RTX 3090", 99 * _KIB, 100 * _KIB, warps=48, blocks=16),
    Target("sm_89", "RTX 4090, L4", 99 * _KIB, 100 * _KIB, warps=48, blocks=24),
    Target("sm_90", "H100", 227 * _KIB, 228 * _KIB, warps=64, blocks=32),
    Target("sm_100", "B200", 227 * _KIB, 228 * _KIB, warps=64, blocks=32),
    Target(
        "gfx942",
        "MI300X",
        shared_per_block=64 * _KIB,
        shared_per_sm=64 * _KIB,
        warps=32,
        blocks=16,
        shared_granule=512,
        shared_reserved=0,
        registers_per_thread=512,
        warp_size=64,
    ),
)


def target(arch: int | str) -> Target:
    """Return the target called 80, "80", "sm_80" or "gfx942". Raises ValueError for others."""
    name = re.sub(r"^(sm_?)?(?=\d)", "sm_", str(arch))
    for known in TARGETS:
        if known.name == name:
            return known
    names = ", ".join(known.name for known in TARGETS)
    raise ValueError(f"arch must be one of {names}; got {arch!r}")


def _round_up(n: int, granule: int) -> int:
    return -(-n // granule) * granule
