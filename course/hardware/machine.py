"""This machine's processor as a `Device`: not looked up but measured, in about a second.

Its bandwidth is measured by summing a tensor that is larger than any cache, its arithmetic with an
fp32 matrix product, both in PyTorch with the threads it has. It has no tensor cores, so all rates
of arithmetic are the fp32 one. A "launch" is the time that PyTorch takes for the smallest
operation. Measured figures are reachable as they are, so `reachable` is 1.
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


@lru_cache(maxsize=1)  # once per process: the figures in a lesson should agree with each other
def this_cpu() -> Device:
    """Measure this machine's processor.

    Returns:
        A `Device`: sms is the number of threads that PyTorch uses, bandwidth is in GB/s of reading,
        l2_mb is 0 (not known), memory_gb is the machine's. Later calls in the same process return
        the first result.
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
    """Return the shortest of `rounds` times, in seconds, after one that is not counted.

    The shortest, not the median: the question is what the machine can do, and anything else
    running on it only adds time.
    """
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def cpu_model() -> str:
    """Return the processor's name as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    """Return the machine's memory, GB (10⁹ bytes); None if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, OSError, ValueError):
        return None
