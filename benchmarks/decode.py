"""Decoding one token on a GPU: FlashAttention-2 with one query, Flash-Decoding, PyTorch's SDPA.

    python -m benchmarks decode [--quick] [--out FILE]

--quick runs tiny shapes, interpreted where there is no GPU: it shows that the harness works, and
writes nothing unless told where.
"""

import itertools
import statistics
import subprocess
import time
from argparse import Namespace
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from tqdm import tqdm

from benchmarks.protocol import RESULTS, save
from kernels.flash_attention import flash_attention
from kernels.flash_decoding import flash_decode
from kernels.runtime import INTERPRETED, device
from reference.attention import attention, oracle
from reference.closeness import assert_close_to_oracle

HEADS = [(16, 2), (32, 8), (64, 8), (8, 1), (32, 32)]
BATCHES = [1, 8, 64]
LENGTHS = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072]
D = 128
COLD_BYTES = 512 * 2**20  # several times the L2 cache of any GPU so far
VERIFIED_LENGTH = 16384  # fp64 scores of longer contexts would not fit beside the caches

PROTOCOL = (
    "Lq=1, D=128, bf16, all lengths full; fresh random data, correctness of every contestant "
    "against fp64 first (at up to 16,384 keys, 4 rows); caches rotate through at least 512 MiB, so "
    "none is found in L2; CUDA events around single eager calls, contestants take turns, 5 warm-up "
    "rounds, median of the rest with quartiles; read bandwidth = bytes/s of a max over 4 GiB."
)


def fresh(B: int, Hq: int, Hkv: int, Lk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random q (B, 1, Hq, D), k and v (B, Lk, Hkv, D) on the device of the kernels."""
    make = {"dtype": torch.bfloat16, "device": device()}
    return torch.randn(B, 1, Hq, D, **make), *(torch.randn(B, Lk, Hkv, D, **make) for _ in "kv")


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's attention, whichever backend it chooses, through views of our layout."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2)


CONTESTANTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "fa2": flash_attention,
    "flash_decoding": flash_decode,
    "sdpa": sdpa,
}


def stopwatch(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call in each counted round; the calls take turns.

    On a GPU by CUDA events around each call, waited for once at the end of a round; interpreted
    by the clock.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + (1 if INTERPRETED else 5)):
        marks = {}
        for name, call in calls.items():
            if INTERPRETED:
                start = time.perf_counter()
                call()
                marks[name] = (time.perf_counter() - start) * 1e3
            else:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
                start.record()
                call()
                end.record()
                marks[name] = (start, end)
        if not INTERPRETED:
            torch.cuda.synchronize()
            marks = {name: a.elapsed_time(b) for name, (a, b) in marks.items()}
        if round_ >= (1 if INTERPRETED else 5):
            for name, ms in marks.items():
                times[name].append(ms)
    return times


def verify(B: int, Hq: int, Hkv: int, Lk: int) -> None:
    """Every contestant against the fp64 oracle; raises AssertionError where one is off."""
    q, k, v = fresh(min(B, 4), Hq, Hkv, min(Lk, VERIFIED_LENGTH))
    truth, baseline = oracle(q, k, v)[0], attention(q, k, v)
    for name, call in CONTESTANTS.items():
        assert_close_to_oracle(call(q, k, v), baseline, truth, name=f"{name} {B} {Hq}/{Hkv} {Lk}")


def measure_cell(B: int, Hq: int, Hkv: int, Lk: int, rounds: int, read_gbs: float) -> dict:
    """One line of the table: medians and quartiles in ms, bandwidth in GB/s (10⁹ bytes/s)."""
    verify(B, Hq, Hkv, Lk)
    kv_bytes = 2 * B * Lk * Hkv * D * 2
    sets = [fresh(B, Hq, Hkv, Lk) for _ in range(min(64, max(2, -(-COLD_BYTES // kv_bytes))))]
    turn = itertools.cycle(sets)
    calls = {name: (lambda f=f: f(*next(turn))) for name, f in CONTESTANTS.items()}
    times = stopwatch(calls, rounds)
    row: dict[str, object] = {"B": B, "Hq": Hq, "Hkv": Hkv, "Lk": Lk, "kv_bytes": kv_bytes}
    for name, t in times.items():
        row[f"{name}_ms"] = round(statistics.median(t), 5)
        row[f"{name}_ms_quartiles"] = [round(x, 5) for x in statistics.quantiles(t)]
    gbs = kv_bytes / statistics.median(times["flash_decoding"]) / 1e6
    return row | {"GBps": round(gbs, 1), "share_of_read": round(gbs / read_gbs, 3)}


def read_bandwidth(gibibytes: float) -> float:
    """GB/s (10⁹ bytes per second) of reading a large tensor once: the ceiling for decoding."""
    x = torch.randn(int(gibibytes * 2**30 / 2), dtype=torch.bfloat16, device=device())
    ms = statistics.median(stopwatch({"read": x.max}, 9)["read"])
    return x.numel() * x.element_size() / ms / 1e6


def table(rows: list[dict]) -> str:
    """The rows as text; × is the gain of Flash-Decoding over FlashAttention-2 with one query."""
    lines = ["  B  heads   length     FA-2 ms       FD ms     SDPA ms      ×   FD GB/s   of read"]
    lines += [
        f"{r['B']:>3}  {r['Hq']:>2}/{r['Hkv']:<2} {r['Lk']:>8,} {r['fa2_ms']:>11.4f} "
        f"{r['flash_decoding_ms']:>11.4f} {r['sdpa_ms']:>11.4f} "
        f"{r['fa2_ms'] / r['flash_decoding_ms']:>6.1f} {r['GBps']:>9.1f} {r['share_of_read']:>9.0%}"
        for r in rows
    ]
    return "\n".join(lines)


def main(options: Namespace) -> None:
    """Run the table, print it, write it. Exits with a sentence where there is no GPU."""
    if INTERPRETED and not options.quick:
        raise SystemExit(
            "benchmarks decode times compiled kernels and needs a GPU; --quick shows it"
        )
    read_gbs = read_bandwidth(0.001 if options.quick else 4)
    grid = list(itertools.product(BATCHES, HEADS, LENGTHS))
    grid = [(1, (4, 2), 130)] if options.quick else grid
    rows = []
    for B, (Hq, Hkv), Lk in tqdm(grid, unit="cell", desc="decode"):
        kv_bytes = 4 * B * Lk * Hkv * D
        if not INTERPRETED and 3 * kv_bytes > torch.cuda.mem_get_info()[0]:
            continue  # two sets of caches, and room to work
        rows.append(measure_cell(B, Hq, Hkv, Lk, 3 if options.quick else 25, read_gbs))
    print(table(rows))
    path = Path(options.out) if options.out else None if options.quick else RESULTS / "decode.json"
    if path:
        more = {"triton": version("triton"), "read_GBps": round(read_gbs, 1), **gpu()}
        print(f"written: {save(path, PROTOCOL, rows, **more)}")


def gpu() -> dict[str, object]:
    """Name, SM count and memory of the GPU, and the CUDA version; or that there was none."""
    if INTERPRETED:
        return {"gpu": "none: interpreted on the CPU, not a measurement"}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "sms": properties.multi_processor_count,
        "gpu_memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "driver": driver_version(),
    }


def driver_version() -> str:
    """The GPU driver's version as nvidia-smi tells it; "" without one."""
    try:
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
