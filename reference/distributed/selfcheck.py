"""What `python -m reference.distributed` runs on every rank: right answers, and bytes by formula.

Every rank draws the same inputs, keeps its own shard of them, poisons the rest of its cache with
NaN, and compares what it gets with fp64 attention over the whole cache.
"""

import itertools
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reference.attention import attention_with_cache, oracle_with_cache
from reference.closeness import compare
from reference.distributed.collectives import (
    Collectives,
    ScheduledCollectives,
    all_reduce_sent,
)
from reference.distributed.decode import check_agreement, context_parallel_decode
from reference.distributed.group import BackendCollectives, ProcessLinks
from reference.distributed.heads import Grid
from reference.distributed.links import Links, Members
from reference.distributed.merging import MERGES, heads_of_rank
from reference.distributed.placement import Placement, append_to_shard, shard
from reference.distributed.schedules import best_schedule


@dataclass(frozen=True)
class Case:
    """One kind of call. lengths: of the whole rows, the Lq new tokens included."""

    name: str
    lengths: tuple[int, ...]
    Lq: int = 1
    heads: tuple[int, int] = (8, 2)
    D: int = 16
    Dv: int = 16
    dtype: torch.dtype = torch.float32
    block: int = 1
    causal: bool = True


CASES = (
    Case("even shards", (64, 64)),
    Case("uneven shards", (61, 7, 33), block=4),
    Case("empty shards, an empty row", (1, 0, 3)),
    Case("contiguous pieces", (40, 13), block=32),
    Case("4 new tokens", (50, 4, 21), Lq=4, block=2),
    Case("6 new tokens, rows shorter", (5, 0, 30), Lq=6),
    Case("no mask", (50, 3), Lq=3, causal=False),
    Case("one KV head, Dv ≠ D", (45, 2), heads=(4, 1), Dv=24),
    Case("bf16", (64, 31), dtype=torch.bfloat16, block=16),
)


def draw(
    case: Case, device: torch.device | None = None, capacity: int = 80
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and lengths of a case: the same on every rank."""
    rng = torch.Generator().manual_seed(16)
    B, (Hq, Hkv) = len(case.lengths), case.heads
    shapes = [(B, case.Lq, Hq, case.D), (B, capacity, Hkv, case.D), (B, capacity, Hkv, case.Dv)]
    q, k, v = (torch.randn(shape, generator=rng).to(device, case.dtype) for shape in shapes)
    return q, k, v, torch.tensor(case.lengths, device=device)


def own_shard(x: Tensor, placement: Placement, rank: int, lengths: Tensor) -> Tensor:
    """This rank's part of x (B, Lk, ...), with NaN wherever there is no key."""
    mine = shard(x, placement, rank)
    slot = torch.arange(mine.shape[1], device=x.device)
    return mine.masked_fill(
        (slot >= placement.count(rank, lengths)[:, None])[:, :, None, None], torch.nan
    )


def as_close_as_naive(
    got: tuple[Tensor, Tensor], tensors: tuple[Tensor, ...], causal: bool, heads: slice
) -> bool:
    """Whether (o, lse) of some heads is about as close to fp64 as naive attention is."""
    truth = oracle_with_cache(*tensors, causal=causal)
    naive = attention_with_cache(*tensors, causal=causal, return_lse=True)
    return all(
        compare(x, near[:, :, heads], true[:, :, heads]).ok
        for x, near, true in zip(got, naive, truth, strict=True)
    )


def formula(merge: str, rank: int, ranks: int, o: Tensor, schedule: str) -> int:
    """What rank must have sent to merge its o (B, Lq, Hq, Dv), bytes, exactly."""
    B, Lq, Hq, Dv = o.shape
    row = Dv * o.element_size() + 4
    if merge == "gather":
        return (ranks - 1) * B * Lq * Hq * row
    if merge == "heads":
        return B * Lq * (Hq - len(heads_of_rank(Hq, ranks)[rank])) * row
    rows = B * Lq * Hq
    return 4 * sum(all_reduce_sent(rank, ranks, n * rows, schedule) for n in (1, Dv + 1))


def kinds_of_collectives(links: ProcessLinks) -> dict[str, Collectives]:
    """The ring, doubling if there are 2ⁿ ranks, and the backend's own."""
    names = dict.fromkeys(["ring", best_schedule(links.ranks)])
    kinds: dict[str, Collectives] = {name: ScheduledCollectives(links, name) for name in names}
    return kinds | {"backend": BackendCollectives(links)}


def check_merges(links: ProcessLinks) -> Iterator[dict[str, Any]]:
    """One row for each case, merge and kind of collectives: right or not; bytes, by formula."""
    kinds = kinds_of_collectives(links)
    for case in CASES:
        q, k, v, lengths = draw(case, links.device)
        placement = Placement(links.ranks, case.block)
        shards = [own_shard(x, placement, links.rank, lengths) for x in (k, v)]
        check_agreement(q, lengths, kinds["ring"])
        for merge in MERGES:
            for how, collectives in kinds.items():
                before = links.sent
                got = context_parallel_decode(
                    q, *shards, lengths, placement, collectives,
                    causal=case.causal, merge=merge, return_lse=True,
                )  # fmt: skip
                sent = links.sent - before
                mine = heads_of_rank(case.heads[0], links.ranks)[links.rank]
                some = slice(mine.start, mine.stop) if merge == "heads" else slice(None)
                whole = q.new_empty(*q.shape[:3], case.Dv)
                yield {
                    "case": case.name,
                    "merge": merge,
                    "how": how,
                    "right": as_close_as_naive(got, (q, k, v, lengths), case.causal, some),
                    "sent": sent if how != "backend" else None,
                    "formula": formula(merge, links.rank, links.ranks, whole, how)
                    if how != "backend"
                    else None,
                }


def check_appends(links: Links, steps: int = 9) -> dict[str, Any]:
    """Decode token after token, each appended to the shard that it belongs to."""
    case = Case("appended token by token", (11, 0, 4))
    q, k, v, lengths = draw(case, links.device)
    placement = Placement(links.ranks, block=2)
    room = placement.count(0, k.shape[1])
    shards = [x.new_full((3, room, *x.shape[2:]), torch.nan) for x in (k, v)]
    for b, length in enumerate(lengths.tolist()):  # the prompt
        for x, mine in zip((k, v), shards, strict=True):
            part = shard(x[b : b + 1, :length], placement, links.rank)[0]
            mine[b, : len(part)] = part
    right, row = True, torch.arange(3, device=links.device)
    for _ in range(steps):
        new = [x[row, lengths][:, None] for x in (k, v)]
        append_to_shard(*shards, *new, lengths, placement, links.rank)
        lengths = lengths + 1
        got = context_parallel_decode(
            q, *shards, lengths, placement, ScheduledCollectives(links), return_lse=True
        )
        right &= as_close_as_naive(got, (q, k, v, lengths), True, slice(None))
    held = [placement.count(rank, lengths) for rank in range(links.ranks)]
    most = int(torch.stack(held).amax(0).sub(torch.stack(held).amin(0)).max())
    return {"case": case.name, "right": right, "shards differ by at most": most}


def check_grid(links: Links, Hkv: int = 2) -> dict[str, Any]:
    """Heads first, then the context; the ranks of a head group merge, and each keeps some heads."""
    case = Case("heads × context", (37, 5), Lq=2, heads=(4 * Hkv, Hkv))
    q, k, v, lengths = draw(case, links.device)
    grid = Grid.widest(links.ranks, Hkv)
    group = Members(links, grid.members(links.rank))
    mine = [grid.heads_of(x, links.rank) for x in (q, k, v)]
    shards = [own_shard(x, grid.placement, group.rank, lengths) for x in mine[1:]]
    got = context_parallel_decode(
        mine[0], *shards, lengths, grid.placement, ScheduledCollectives(group),
        merge="heads", return_lse=True,
    )  # fmt: skip
    first = grid.head_group_of(links.rank) * mine[0].shape[2]
    some = heads_of_rank(mine[0].shape[2], grid.context)[group.rank]
    heads = slice(first + some.start, first + some.stop)
    right = as_close_as_naive(got, (q, k, v, lengths), True, heads)
    return {
        "case": f"{grid.head_groups} head groups × {grid.context} shards",
        "right": right,
        "sent": group.sent,
        "formula": formula("heads", group.rank, grid.context, mine[0], "ring"),
    }


def everything(links: ProcessLinks) -> list[dict[str, Any]]:
    """All checks of this rank."""
    return [*check_merges(links), check_appends(links), check_grid(links)]


def drill(links: ProcessLinks, how: str, rank: int, seconds: float) -> None:
    """Decode for ever; in the third step, `rank` raises, is killed, or hangs for some seconds."""
    case = CASES[0]
    q, k, v, lengths = draw(case, links.device)
    placement, collectives = Placement(links.ranks), ScheduledCollectives(links)
    shards = [own_shard(x, placement, links.rank, lengths) for x in (k, v)]
    for step in itertools.count():
        if step == 2 and links.rank == rank:
            fail(how, seconds)
        context_parallel_decode(q, *shards, lengths, placement, collectives)


def fail(how: str, seconds: float) -> None:
    """Fail in one of three ways. Raises ValueError for "raise", and for ways that do not exist."""
    if how == "raise":
        raise ValueError("the cache of this rank is full")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how != "hang":
        raise ValueError(f"how must be raise, hang or kill; got {how!r}")
    time.sleep(seconds)
