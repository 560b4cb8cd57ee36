"""Promises a compiled kernel must keep, so that no change slows it down silently.

A kernel that spills, or loads K in 16-bit pieces, still computes the right answer and passes every
numerical test. Here it fails: `python -m kernels.compile_report` exits with 1 and names the case.
"""

from typing import TYPE_CHECKING

from kernels.compile_report.case import LaunchCase
from kernels.compile_report.targets import Target

if TYPE_CHECKING:
    from kernels.compile_report.rows import Report

WIDE = 128
"""Bits: the widest load on sm_80 to sm_90, which uses the memory bandwidth best."""

COUNTED_WITH = (3, 9)
"""The Triton that the limits of `LaunchCase.at_most` and `at_least` were counted with."""


def violations(case: LaunchCase, report: "Report", on: Target) -> list[str]:
    """Return the promises of a case that its report breaks, one sentence each; [] if all hold.

    - It compiles and fits, except where the case says that it does not; there it must not.
      To fit: shared memory within the target's limit per program, registers within an SM's.
    - No register is spilled, and no local memory is used.
    - From sm_80 on, each load of its streams is at least 128 bits wide. AMD: at least 64, since
      a tile divided among twice as many lanes may leave each of them half as much.
    - It uses matrix instructions if it has dots and the target has tensor cores; without dots
      it has none (on NVIDIA, fp32 must not be cut to TF32; AMD multiplies full fp32 with them).
    - A warp issues at most as many instructions per tile as the case allows on this target, and at
      least as many bytes of K and V are in flight. Checked from `COUNTED_WITH` on: the numbers are
      that compiler's, and an older one is not at fault for making others.
    """
    hindered = _hindered(report, on)
    if why := case.unsupported.get(on.name):
        return [] if hindered else [f"is marked unsupported ({why}), but works"]
    if report.failure:
        return hindered
    found = hindered
    if report.spill_bytes or report.stack_bytes:
        found.append(f"spills {report.spill_bytes} bytes, stack {report.stack_bytes} bytes")
    if on.tensor_cores:
        wide = WIDE // 2 if on.is_amd else WIDE
        narrow = {name: bits for name, bits in report.stream_bits.items() if bits < wide}
        found += [f"loads {name} {bits or 'no'} bits at a time" for name, bits in narrow.items()]
    if case.dots and on.tensor_cores and not report.tensor_core:
        found.append("has no tensor-core instruction")
    if not case.dots and not on.is_amd and report.tensor_core:
        found.append(f"has {report.tensor_core} tensor-core instructions where none belong")
    return found + _spends(case, report, on)


def _spends(case: LaunchCase, report: "Report", on: Target) -> list[str]:
    """Return which limits of a tile's cost are broken."""
    most, least = case.at_most.get(on.name), case.at_least.get(on.name, 0)
    if (most is None and not least) or _triton() < COUNTED_WITH:
        return []
    if not report.tile_instructions:
        return ["has no loop that loads tiles"]
    found = []
    if most is not None and report.tile_instructions > most:
        found.append(f"issues {report.tile_instructions} instructions a tile, of at most {most}")
    if report.bytes_in_flight < least:
        found.append(f"has {report.bytes_in_flight} bytes in flight, of at least {least}")
    return found


def _triton() -> tuple[int, ...]:
    """Return the first two numbers of Triton's version."""
    import triton  # in here: what fits on an SM is also read where there is no Triton

    return tuple(int(number) for number in triton.__version__.split(".")[:2])


def _hindered(report: "Report", on: Target) -> list[str]:
    """Return what prevents a kernel from running at all."""
    if report.failure:
        return [f"does not compile: {report.failure}"]
    if report.shared_bytes > on.shared_per_block:
        return [f"takes {report.shared_bytes} bytes of shared memory, of {on.shared_per_block}"]
    if not report.resident_blocks:
        return [f"finds no room on an SM: {report.registers} registers per thread"]
    return []
