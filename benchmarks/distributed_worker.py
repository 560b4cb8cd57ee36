"""One rank of `benchmarks.distributed`: times merges and decode steps when torchrun starts it.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m benchmarks.distributed_worker

Rank 0 prints what all of them measured, as a line of JSON. Before each sample all ranks meet at a
barrier; a sample is the slowest rank's, since that is when the result is there.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from reference.distributed import (
    MERGES,
    Placement,
    ScheduledCollectives,
    context_parallel_decode,
    local_attention,
)
from reference.distributed.collectives import Collectives
from reference.distributed.group import BackendCollectives, ProcessLinks, connect
from reference.distributed.schedules import best_schedule
from reference.flash_decoding_cpu import flash_decode_threads

D, HEADS = 128, (32, 8)
ROWS = (32, 128, 512, 2048, 8192, 32768)  # query rows to merge: 16.5 KB to 16.9 MB of (o, lse)
LENGTHS = (4096, 16384, 65536)
COUNTED_ROWS, COUNTED_TIMES = 8192, 8


def samples(work: Callable[[], Any], rounds: int) -> list[float]:
    """How long each of `rounds` calls takes on the slowest rank, ms; two calls warm up."""
    found = []
    for turn in range(rounds + 2):
        dist.barrier()
        begin = time.perf_counter()
        work()
        took = torch.tensor((time.perf_counter() - begin) * 1e3)
        dist.all_reduce(took, dist.ReduceOp.MAX)
        if turn >= 2:
            found.append(took.item())
    return found


def in_ms(found: list[float]) -> dict[str, Any]:
    """Median and quartiles, ms."""
    quartiles = statistics.quantiles(found)
    return {
        "ms": round(statistics.median(found), 4),
        "ms_quartiles": [round(x, 4) for x in quartiles],
    }


def partial(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A partial of `rows` rows, (rows / Hq, 1, Hq, D) fp32: what a rank has before a merge."""
    shape = (rows // HEADS[0], 1, HEADS[0])
    return torch.randn(*shape, D), torch.randn(shape)


def time_merges(links: ProcessLinks, quick: bool) -> list[dict[str, Any]]:
    """One row for each merge, kind of collectives and size: time, and bytes where counted."""
    kinds: dict[str, Collectives] = {
        name: ScheduledCollectives(links, name) for name in {"ring", best_schedule(links.ranks)}
    } | {"backend": BackendCollectives(links)}
    rows = []
    for size in ROWS[:2] if quick else ROWS:
        o, lse = partial(size)
        for merge, (how, collectives) in ((m, k) for m in MERGES for k in sorted(kinds.items())):
            before, messages = links.sent, links.messages
            MERGES[merge](o, lse, collectives)
            sent, count = links.sent - before, links.messages - messages
            rounds = 3 if quick else max(9, min(51, 200_000 // size))
            found = samples(lambda m=merge, x=(o, lse), c=collectives: MERGES[m](*x, c), rounds)
            row = {"kind": "merge", "merge": merge, "how": how, "rows": size, "rounds": rounds}
            counted = {} if how == "backend" else {"sent": sent, "messages": count}
            rows.append(row | counted | in_ms(found))
    return rows


def time_steps(links: ProcessLinks, quick: bool) -> list[dict[str, Any]]:
    """One row per context: a shard's attention alone, and with its merge, on one thread a rank."""
    rows, placement = [], Placement(links.ranks, block=64)
    collectives = ScheduledCollectives(links)
    q = torch.randn(1, 1, HEADS[0], D)
    for length in (1024,) if quick else LENGTHS:
        lengths = torch.tensor([length])
        room = placement.count(links.rank, length)
        k, v = (torch.randn(1, room, HEADS[1], D) for _ in "kv")

        def attend(*args: Any, scale: float | None = None, **options: Any) -> Any:
            del options["causal"]  # one query: nothing is hidden from it
            return flash_decode_threads(*args, scale=scale, causal=False, return_lse=True)

        call = (q, k, v, lengths, placement)
        rounds = 3 if quick else 15
        alone = samples(lambda c=call: local_attention(*c, links.rank, attend=attend), rounds)
        whole = samples(
            lambda c=call: context_parallel_decode(*c, collectives, attend=attend), rounds
        )
        row = {"kind": "step", "length": length, "rounds": rounds}
        both = {f"attend_{name}": value for name, value in in_ms(alone).items()}
        rows.append(row | both | in_ms(whole))
    return rows


def count_on_the_wire(links: ProcessLinks, quick: bool) -> list[dict[str, Any]]:
    """What the backend's own collectives put on the loopback interface, beside the formula, bytes.

    All ranks' bytes together, headers of TCP and IP among them, and whatever else the machine
    sends to itself in the meantime. Nothing on systems without Linux's counters.
    """
    counter = Path("/sys/class/net/lo/statistics/tx_bytes")
    if not counter.exists():
        return []
    backend, rows = BackendCollectives(links), []
    o, lse = partial(256 if quick else COUNTED_ROWS)
    for merge in MERGES:
        MERGES[merge](o, lse, backend)
        dist.barrier()
        before = int(counter.read_text())
        dist.barrier()
        for _ in range(COUNTED_TIMES):
            MERGES[merge](o, lse, backend)
        dist.barrier()
        seen = int(counter.read_text()) - before
        rows.append(
            {"kind": "wire", "merge": merge, "rows": lse.numel(), "times": COUNTED_TIMES,
             "bytes": seen}
        )  # fmt: skip
    return rows


def main() -> None:
    """Measure, and let rank 0 print."""
    quick = "--quick" in sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with connect(backend="gloo", timeout=120) as links:
        rows = [*time_merges(links, quick), *time_steps(links, quick)]
        rows += count_on_the_wire(links, quick)
        if links.rank == 0:
            sys.stdout.write(json.dumps([{"ranks": links.ranks, **row} for row in rows]) + "\n")


if __name__ == "__main__":
    main()
