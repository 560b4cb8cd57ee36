"""The figures of `kernels.devices` as a lesson shows them, and what one SM has room for.

Sources: those that every `Device` names; limits of an SM: `kernels.compile_report.targets`; for
sm_70: NVIDIA, "CUDA C++ Programming Guide", technical specifications per compute capability.
"""

from collections.abc import Iterable

from kernels.compile_report.targets import Target, target
from kernels.devices import DEVICES, Device

VOLTA = Target(  # Triton no longer compiles for it, so it is not among `targets.TARGETS`
    "sm_70",
    "V100",
    shared_per_block=96 * 1024,
    shared_per_sm=96 * 1024,
    warps=64,
    blocks=32,
    shared_granule=256,
    shared_reserved=0,
    tensor_cores=False,
)


def resolve(device: Device | str) -> Device:
    """Return a device itself, or the one of that name. Raises ValueError for unknown names."""
    return Device.named(device) if isinstance(device, str) else device


def limits(device: Device | str) -> Target:
    """Return what an SM of a device has room for: shared memory (bytes), warps, programs.

    >>> limits("A100 80GB SXM").shared_per_sm // 1024, limits("A10").shared_per_sm // 1024
    (164, 100)

    Raises ValueError for a device without an architecture, such as a CPU.
    """
    device = resolve(device)
    if device.arch is None:
        raise ValueError(f"{device.name} has no GPU architecture, so its SMs are unknown")
    return VOLTA if device.arch == VOLTA.name else target(device.arch)


def table(devices: Iterable[Device] = DEVICES) -> str:
    """Return the figures as aligned text: one line per device, units in the header.

    >>> print(table(device for device in DEVICES if device.name in ("A10", "H200")))
    device  SMs   GB/s     GB  16-bit TFLOP/s  fp32 TFLOP/s  L2 MB  shared KiB/SM
    A10      72    600     24           125.0          31.2      6            100
    H200    132  4,800    141           989.4          67.0     50            228
    """
    devices = list(devices)
    wide = max([6, *(len(device.name) for device in devices)])
    head = (
        f"{'device':<{wide}}{'SMs':>5}{'GB/s':>7}{'GB':>7}{'16-bit TFLOP/s':>16}"
        f"{'fp32 TFLOP/s':>14}{'L2 MB':>7}{'shared KiB/SM':>15}"
    )
    lines = [head]
    for d in devices:
        memory = "?" if d.memory_gb is None else f"{d.memory_gb:,.0f}"
        shared = "–" if d.arch is None else f"{limits(d).shared_per_sm // 1024}"
        lines.append(
            f"{d.name:<{wide}}{d.sms:>5}{d.bandwidth:>7,.0f}{memory:>7}{_rate(d.tensor_tflops):>16}"
            f"{_rate(d.fp32_tflops):>14}{d.l2_mb:>7,.0f}{shared:>15}"
        )
    return "\n".join(lines)


def _rate(tflops: float) -> str:
    """One decimal; three below 1, as a CPU would otherwise show as almost nothing."""
    return f"{tflops:,.1f}" if tflops >= 1 else f"{tflops:.3f}"
