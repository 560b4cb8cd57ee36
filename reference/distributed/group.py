"""Ranks as processes, connected by torch.distributed: gloo between CPUs, NCCL between GPUs.

    with connect(timeout=30) as links:          # started by torchrun, once per rank
        collectives = ScheduledCollectives(links)        # counted messages, or
        collectives = BackendCollectives(links)          # the backend's own collectives
        o = context_parallel_decode(q, k_shard, v_shard, lengths, placement, collectives)

If a rank fails, the others get a `RankFailed` that names it, within the timeout: see `watch`. The
group is dead then, whatever the backend says; leave the `with` and start anew.

The timeout runs from the operation that cannot be completed to the error. Most of it is the
backend's, and how late a rank may be; the rest is for finding out who failed. A rank that is later
than that has failed, as far as the others can tell.

With NCCL, operations return before they are done, so `connect` sets TORCH_NCCL_BLOCKING_WAIT,
without which a failure would end the process in place of raising an error. gloo is what this
project's tests run; NCCL takes the same calls, and no machine with two GPUs has run them yet.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from reference.distributed.links import Links, nothing_like
from reference.distributed.watch import Watch

WAIT, GRACE = 0.7, 0.2  # shares of the timeout: for a message; for finding out who failed


class ProcessLinks(Links):
    """One rank among processes: messages go through torch.distributed's default group."""

    def __init__(self, watch: Watch, device: torch.device) -> None:
        super().__init__(watch.rank, watch.ranks)
        self.watch, self.device = watch, device

    def begin(self) -> None:
        """Note that this rank enters another collective."""
        self.watch.enter()

    def _exchange(self, to: int, message: Tensor, sender: int, like: Tensor) -> Tensor:
        received = nothing_like(like.shape, like)
        ends = []  # nothing is sent or awaited that is empty: a rank without heads, for example
        if message.numel():
            ends.append(dist.P2POp(dist.isend, message, to))
        if received.numel():
            ends.append(dist.P2POp(dist.irecv, received, sender))
        try:
            for work in dist.batch_isend_irecv(ends) if ends else ():
                work.wait()
        except RuntimeError as error:
            raise self.watch.explain(error) from error
        return received


class BackendCollectives:
    """The collectives that torch.distributed has: they do not say what they send, so no counts.

    links: of all ranks. group: of torch.distributed, None: all of them. The order in which an
    all-reduce adds is up to the backend, and so are the last bits of its sum.
    """

    def __init__(self, links: ProcessLinks, group: dist.ProcessGroup | None = None) -> None:
        self.links, self.group = links, group
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)

    def all_gather(self, x: Tensor) -> Tensor:
        """Every rank's x, (R, *x.shape), in order of the ranks."""
        found = [
            torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.ranks)
        ]
        with self._watched():
            dist.all_gather(found, x.contiguous(), group=self.group)
        return torch.stack(found)

    def all_reduce(self, x: Tensor, op: str) -> Tensor:
        """Element by element the "sum" or "max" of every rank's x."""
        reduced = x.clone(memory_format=torch.contiguous_format)
        with self._watched():
            kind = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[op]
            dist.all_reduce(reduced, kind, group=self.group)
        return reduced

    def all_to_all(self, parts: Sequence[Tensor], likes: Sequence[Tensor]) -> list[Tensor]:
        """parts[j] goes to rank j; returned is what rank j sent this one, shaped like likes[j].

        As one flat message with a size for each rank: gloo has no other all-to-all.
        """
        sent, received = [x.numel() for x in parts], [x.numel() for x in likes]
        flat = torch.cat([x.flatten() for x in parts])
        found = nothing_like((sum(received),), flat)
        with self._watched():
            dist.all_to_all_single(found, flat, received, sent, group=self.group)
        pieces = zip(found.split(received), likes, strict=True)
        return [piece.view(like.shape) for piece, like in pieces]

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self.links.begin()
        try:
            yield
        except RuntimeError as error:
            raise self.links.watch.explain(error) from error


@contextmanager
def connect(*, backend: str | None = None, timeout: float = 30.0) -> Iterator[ProcessLinks]:
    """Join the other ranks that torchrun has started; yields the links to them.

    backend: "gloo" or "nccl"; None: NCCL where there is a GPU for every rank of this machine.
    timeout: seconds, see above. The environment says who this rank is, as torchrun sets it (RANK,
    WORLD_SIZE, MASTER_ADDR, MASTER_PORT). An exception that leaves the block is told to the others
    before the group is destroyed. Raises ValueError for a timeout that is not positive, and what
    torch.distributed raises if the others do not come.
    """
    if not timeout > 0:
        raise ValueError(f"timeout must be above 0 seconds; got {timeout}")
    backend = _backend_here() if backend is None else backend
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
        torch.cuda.set_device(device)
    waits = timedelta(seconds=WAIT * timeout)
    store, rank, ranks = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout)))
    dist.init_process_group(
        backend, store=dist.PrefixStore("group", store), rank=rank, world_size=ranks, timeout=waits
    )
    notes = dist.PrefixStore("watch", store.clone())
    watch = Watch(notes, rank, ranks, timeout=waits.total_seconds(), grace=GRACE * timeout)
    try:
        yield ProcessLinks(watch, device)
    except BaseException as error:
        watch.last_words(error)
        raise
    finally:
        dist.destroy_process_group()


def _backend_here() -> str:
    """NCCL if each of this machine's ranks can have a GPU of its own; gloo otherwise."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    enough = torch.cuda.is_available() and torch.cuda.device_count() >= here
    return "nccl" if enough and dist.is_nccl_available() else "gloo"
