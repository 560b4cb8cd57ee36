"""A batch of very unequal rows: with a plan of the work, and with a fixed number of splits."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.contest import Entrant, compete
from benchmarks.decode import QUICK_COLD_BYTES
from benchmarks.grid import D, kv_bytes_of
from benchmarks.judge import Judge
from benchmarks.machine import free_bytes
from benchmarks.session import Session
from benchmarks.timing import Call, cold_bytes, number_of_sets
from kernels.flash_decoding import flash_decode, flash_decode_plan
from kernels.runtime import INTERPRETED, device

WAYS = ("planned", "planned_here", "fixed")


def compare_in(row: dict, entrants: Sequence[Entrant]) -> dict:
    """The row, with the entrants' times added."""
    times, cannot = compete(entrants, on_gpu=not INTERPRETED)
    return row | times | {"cannot": cannot}


def sets_for(session: Session, nbytes: int) -> int:
    """The number of sets of inputs, nbytes each; raises MemoryError if they do not fit."""
    sets = number_of_sets(nbytes, QUICK_COLD_BYTES if session.quick else cold_bytes())
    if 1.5 * sets * nbytes > free_bytes():
        raise MemoryError(f"{sets} sets of {nbytes:,} bytes do not fit")
    return sets


def ragged(session: Session, lengths: Sequence[int], Hq: int, Hkv: int, page: int) -> dict:
    """One row: a batch of very unequal rows, with a plan and without."""
    total, B = sum(lengths), len(lengths)
    kv_bytes = kv_bytes_of(1, Hkv, total)
    row = {"kind": "ragged", "B": B, "Hq": Hq, "Hkv": Hkv, "Lk": max(lengths), "total": total}
    row |= {"kv_bytes": kv_bytes, "ideal_ms": kv_bytes / session.read_gbs / 1e6}
    make = {"dtype": torch.bfloat16, "device": device()}
    sets = sets_for(session, kv_bytes)
    count = sum(-(-n // page) for n in lengths)
    k, v = (torch.randn(sets, count, page, Hkv, D, **make) for _ in "kv")
    q = torch.randn(sets, B, 1, Hq, D, **make)
    table = ragged_table(lengths, page, count)
    seqlens = torch.tensor(lengths, dtype=torch.int32, device=device())

    def gathered(b: int, h: int) -> tuple[Tensor, Tensor]:
        used = table[b, : -(-lengths[b] // page)].long()
        return tuple(x[0][used, :, h].flatten(0, 1)[: lengths[b]] for x in (k, v))

    judge = Judge(q[0], gathered, kv_heads=Hkv, longest=max(lengths))
    new_plan = partial(flash_decode_plan, q[0], k[0], v[0], seqlens, block_table=table)
    plan = new_plan()
    inputs = zip(q, k, v, strict=True)
    call = [partial(flash_decode, *s, seqlens, block_table=table) for s in inputs]
    ways: dict[str, list[Call]] = {
        "planned": [partial(c, plan=plan) for c in call],
        "planned_here": [lambda c=c: c(plan=new_plan()) for c in call],
        "fixed": list(call),
    }
    return compare_in(row, [Entrant(name, c, judge(name, True)) for name, c in ways.items()])


def ragged_table(lengths: Sequence[int], page: int, count: int) -> Tensor:
    """A block table of just the pages that the rows need, in random order; -1 past them."""
    pages, start = torch.randperm(count, device=device()).to(torch.int32), 0
    table = torch.full((len(lengths), -(-max(lengths) // page)), -1, dtype=torch.int32)
    table = table.to(device())
    for b, n in enumerate(lengths):
        used = -(-n // page)
        table[b, :used] = pages[start : start + used]
        start += used
    return table
