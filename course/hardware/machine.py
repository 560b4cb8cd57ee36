"""This machine's processor as a `Device`: not looked up, measured, in about a second.

Its memory is read by summing a tensor that is larger than any cache, its arithmetic is that of an
fp32 matrix product; both as PyTorch does them with the threads it has. It has no tensor cores, so
all rates of arithmetic are the fp32 one, and a "launch" is what PyTorch needs for the smallest
operation. Measured figures are what can be reached: `reachable` is 1.
"""

import os
import platform
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from kernels.devices import Device

READ_BYTES = 256 * 2**20
MATMUL = 1024
LAUNCHES = 1000


@lru_cache(maxsize=1)  # once a process: figures of a lesson should agree with each other
def this_cpu() -> Device:
    """Measure this machine's processor.

    Returns:
        A `Device`: sms are threads that PyTorch uses, bandwidth is in GB/s read, l2_mb is 0 (not
        known), memory_gb is the machine's. The second call in a process returns the first result.
    """
    x = torch.ones(READ_BYTES // 4)
    a, b = (torch.rand(MATMUL, MATMUL) for _ in "ab")
    read = best_seconds(lambda: x.sum(), 5)
    multiply = best_seconds(lambda: a @ b, 5)
    one = torch.zeros(1)
    launches = best_seconds(lambda: [one + one for _ in range(LAUNCHES)], 3)
    tflops = 2 * MATMUL**3 / multiply / 1e12
    threads = torch.get_num_threads()
    return Device(
        name=f"this CPU ({cpu_model()}, {threads} thread{'s' * (threads != 1)})",
        sms=threads,
        bandwidth=READ_BYTES / read / 1e9,
        tensor_tflops=tflops,
        fp32_tflops=tflops,
        l2_mb=0.0,
        tensor_cores=False,
        launch_us=launches / LAUNCHES * 1e6,
        reachable=1.0,
        memory_gb=_memory_gb(),
        source="measured: sum of 256 MiB, fp32 matrix product of 1,024 × 1,024",
    )


def best_seconds(call: Callable[[], object], rounds: int) -> float:
    """Return the shortest of `rounds` times, after one that is not counted; seconds.

    The shortest, not the median: what is asked is what the machine can do, and whatever else runs
    on it only adds.
    """
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def cpu_model() -> str:
    """Return the processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    """Return the machine's memory, GB (10⁹ bytes); None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, OSError, ValueError):
        return None
