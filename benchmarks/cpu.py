"""Decoding on this CPU: Flash-Decoding on threads against PyTorch's own attention.

python -m benchmarks cpu [--quick] [--out FILE]
"""

import statistics
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from tqdm import tqdm

from benchmarks.protocol import RESULTS, median_ratio, save
from benchmarks.timing import HostClock, take_turns
from reference.attention import attention, oracle
from reference.closeness import assert_close_to_oracle
from reference.flash_decoding_cpu import flash_decode_threads

HEADS = [(32, 8), (32, 32), (8, 1), (1, 1)]
LENGTHS = [4096, 32768]
D = 128
COLD_BYTES = 256 * 2**20  # more than a last-level cache holds
READ_BYTES = 512 * 2**20

PROTOCOL = (
    "B=1, Lq=1, D=128; fresh random data, correctness against fp64 first; caches rotate through at "
    "least 256 MiB so that none is found warm; ours and SDPA(enable_gqa=True) take turns in one "
    "process, one warm-up round; median seconds; ratio = median over rounds of SDPA/ours; read "
    "bandwidth = bytes/s of summing a 512 MiB fp32 tensor, after each cell's rounds; transparent "
    "huge pages asked for by THP_MEM_ALLOC_ENABLE=1, for all alike."
)


def fresh(Hq: int, Hkv: int, Lk: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Random q (1, 1, Hq, D), k and v (1, Lk, Hkv, D)."""
    q = torch.randn(1, 1, Hq, D, dtype=dtype)
    return q, *(torch.randn(1, Lk, Hkv, D, dtype=dtype) for _ in "kv")


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's attention in its own layout (views, no copies); one query, so no mask."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2)


def verify(Hq: int, Hkv: int, Lk: int, dtype: torch.dtype) -> None:
    """Check both contestants against the fp64 oracle; raises AssertionError if one is off.

    Ours has to meet the course's rule. The peer only has to compute the same function, so it is
    allowed 16 times the baseline's error: it sums in another order.
    """
    q, k, v = fresh(Hq, Hkv, Lk, dtype)
    truth, baseline = oracle(q, k, v)[0], attention(q, k, v)
    assert_close_to_oracle(flash_decode_threads(q, k, v), baseline, truth, name="ours")
    peer = {"name": "SDPA", "max_ratio": 16, "mean_ratio": 16}
    assert_close_to_oracle(sdpa(q, k, v), baseline, truth, **peer)


def measure_cell(Hq: int, Hkv: int, Lk: int, dtype: torch.dtype, rounds: int, read: Tensor) -> dict:
    """One line of the table. Times in ms, bandwidths in GB/s (10⁹ bytes per second)."""
    verify(Hq, Hkv, min(Lk, 4096), dtype)
    kv_bytes = 2 * Lk * Hkv * D * dtype.itemsize
    sets = [fresh(Hq, Hkv, Lk, dtype) for _ in range(max(2, -(-COLD_BYTES // kv_bytes)))]
    steps: dict[str, Callable[[int], object]] = {
        "sdpa": lambda turn: sdpa(*sets[turn % len(sets)]),
        "ours": lambda turn: flash_decode_threads(*sets[turn % len(sets)]),
    }
    times = take_turns(steps, HostClock(), rounds, warm_up=1, warm_up_ms=0.0)
    # On its own: run between the others, it would push their code out of the caches.
    alone = take_turns({"read": lambda _: read.sum()}, HostClock(), 9, warm_up=1, warm_up_ms=0.0)
    ms = {name: statistics.median(t) for name, t in {**times, **alone}.items()}
    read_gbs = read.numel() * read.element_size() / ms["read"] / 1e6
    ours_gbs = kv_bytes / ms["ours"] / 1e6
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "Hq": Hq,
        "Hkv": Hkv,
        "Lk": Lk,
        "kv_bytes": kv_bytes,
        "rounds": len(times["ours"]),
        "ours_ms": round(ms["ours"], 4),
        "ours_ms_quartiles": [round(x, 4) for x in statistics.quantiles(times["ours"])],
        "sdpa_ms": round(ms["sdpa"], 4),
        "ratio": round(median_ratio(times["sdpa"], times["ours"]), 3),
        "ours_GBps": round(ours_gbs, 2),
        "read_GBps": round(read_gbs, 2),
        "share_of_read": round(ours_gbs / read_gbs, 3),
    }


def table(rows: list[dict]) -> str:
    """The rows as text."""
    head = "dtype     heads  length   ours ms   SDPA ms   ratio   GB/s   read GB/s   share of read"
    lines = [
        f"{r['dtype']:<9} {r['Hq']:>2}/{r['Hkv']:<2} {r['Lk']:>7,} {r['ours_ms']:>9.3f} "
        f"{r['sdpa_ms']:>9.3f} {r['ratio']:>6.2f}× {r['ours_GBps']:>6.1f} {r['read_GBps']:>11.1f} "
        f"{r['share_of_read']:>15.0%}"
        for r in rows
    ]
    return "\n".join([head, *lines])


def main(options: Namespace) -> None:
    """Measure the grid, print the table, write the record."""
    lengths = [512] if options.quick else LENGTHS
    dtypes = [torch.float32, torch.bfloat16]
    grid = [(d, *h, n) for d in dtypes for h in HEADS for n in lengths]
    read = torch.randn((2**20 if options.quick else READ_BYTES) // 4)
    rows = []
    for dtype, Hq, Hkv, Lk in tqdm(grid, unit="cell", desc="cpu"):
        rounds = 3 if options.quick else max(9, min(101, 4_000_000 // (Hkv * Lk)))
        rows.append(measure_cell(Hq, Hkv, Lk, dtype, rounds, read))
    print(table(rows))
    path = save(Path(options.out) if options.out else RESULTS / "cpu.json", PROTOCOL, rows)
    print(f"written: {path}")
