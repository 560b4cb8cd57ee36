"""The best this GPU can do at reading, copying and bf16 products: measured, not looked up.

Decoding reads K and V once and writes almost nothing, so its ceiling is the *read* bandwidth. A
copy has to turn the memory bus around, and is slower. The ceiling is the fastest of several
readers: two PyTorch reductions, and a loop that does nothing but load, in three sizes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.timing import (
    Call,
    GpuEvents,
    HostClock,
    capture,
    median_and_quartiles,
    replay_in_turns,
    take_turns,
)
from kernels.runtime import INTERPRETED, device, num_sms

# isort: split
import triton
import triton.language as tl

READ_BYTES = 4 * 2**30
SMALLER = (64 * 2**20, 256 * 2**20, 2**30)
MATMUL = 8192
READERS = {"8 × 8 warps": (4096, 8, 8), "16 × 4 warps": (2048, 4, 16), "4 × 8 warps": (8192, 8, 4)}


@triton.jit
def read_kernel(x_ptr, most_ptr, n, BLOCK: tl.constexpr) -> None:
    """Read all of x (n int32, a multiple of BLOCK); programs take blocks in turn."""
    offsets = tl.arange(0, BLOCK)
    most = tl.full((BLOCK,), -(2**31), tl.int32)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    for block in range(start, n, tl.num_programs(0) * BLOCK):
        x = tl.load(x_ptr + block + offsets, eviction_policy="evict_first")
        most = tl.maximum(most, x)
    tl.store(most_ptr + tl.program_id(0), tl.max(most, 0))


def read(x: Tensor, block: int, num_warps: int, programs_per_sm: int) -> Tensor:
    """Launch `read_kernel` over x (int32, 1-D); returns the maximum that each program saw."""
    if x.numel() % block:
        raise ValueError(f"the length of x must be a multiple of {block}; got {x.numel()}")
    programs = min(x.numel() // block, num_sms(x.device) * programs_per_sm)
    most = torch.empty(programs, dtype=torch.int32, device=x.device)
    read_kernel[(programs,)](x, most, x.numel(), BLOCK=block, num_warps=num_warps)
    return most


def seconds_of(calls: dict[str, list[Call]]) -> dict[str, float]:
    """Median seconds per call: replayed from a CUDA graph or, interpreted, by the host's clock."""
    if INTERPRETED:
        steps = {name: lambda _, c=c: c[0]() for name, c in calls.items()}
        times = take_turns(steps, HostClock(), rounds=2, warm_up=1, warm_up_ms=0.0)
    else:
        graphs = {name: capture(c) for name, c in calls.items()}
        times = replay_in_turns(graphs, GpuEvents())
    return {name: median_and_quartiles("ms", ms)["ms"] / 1e3 for name, ms in times.items()}


def random_ints(nbytes: int) -> Tensor:
    """nbytes of random int32, on the device that the kernels run on."""
    return torch.randint(-(2**31), 2**31, (nbytes // 4,), dtype=torch.int32, device=device())


def reading(x: Tensor, size: int) -> dict[str, float]:
    """GB/s (10⁹ bytes per second) at which each reader reads `size` bytes.

    Each call reads the next slice of x (int32, 1-D), so it is not in the L2.
    """
    slices = x.split(size // 4)
    calls = {
        name: [lambda s=s, c=config: read(s, *c) for s in slices]
        for name, config in READERS.items()
    }
    calls["torch max"] = [lambda s=s: s.view(torch.bfloat16).max() for s in slices]
    calls["torch amax"] = [lambda s=s: s.amax() for s in slices]
    return {name: round(size / t / 1e9, 1) for name, t in seconds_of(calls).items()}


def ceiling_of_reading(nbytes: int, smaller: Sequence[int]) -> dict:
    """The best of all readers on nbytes, how each did, and the best on smaller sizes."""
    x = random_ints(nbytes)
    for config in READERS.values():
        if read(x, *config).max() != x.max():
            raise AssertionError(f"the read kernel misses part of its input ({config})")
    gbs = reading(x, nbytes)
    best = max(gbs, key=gbs.__getitem__)
    row: dict = {"read_GBps": gbs[best], "read_by": best, "all_read_GBps": gbs}
    row["read_GBps_of_MiB"] = {str(s // 2**20): max(reading(x, s).values()) for s in smaller}
    return row


def copying(nbytes: int) -> dict:
    """GB/s of copying a tensor; bytes read and bytes written both count."""
    x = random_ints(nbytes)
    y = torch.empty_like(x)
    seconds = seconds_of({"copy": [lambda: y.copy_(x)]})["copy"]
    return {"copy_GBps": round(2 * nbytes / seconds / 1e9, 1)}


def multiplying(n: int) -> dict:
    """TFLOP/s (10¹² operations per second) of an n × n × n bf16 product of random matrices."""
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device=device()) for _ in "ab")
    seconds = seconds_of({"matmul": [lambda: a @ b]})["matmul"]
    return {"matmul_TFLOPs": round(2 * n**3 / seconds / 1e12, 2)}


def measure(quick: bool) -> dict:
    """All three, in one row."""
    nbytes, smaller, n = (2**16, (), 64) if quick else (READ_BYTES, SMALLER, MATMUL)
    return ceiling_of_reading(nbytes, smaller) | copying(nbytes) | multiplying(n)


def table(row: dict) -> str:
    """The row as text."""
    return (
        f"ceilings: read {row['read_GBps']:,.0f} GB/s ({row['read_by']}), copy "
        f"{row['copy_GBps']:,.0f} GB/s (read + written), bf16 matmul "
        f"{row['matmul_TFLOPs']:,.0f} TFLOP/s"
    )
