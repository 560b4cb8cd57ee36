"""Collectives: what every rank has, gathered or reduced, so that every rank ends with the result.

`ScheduledCollectives` carries out the schedules of `reference.distributed.schedules` message by
message, over any `Links`: every byte is counted. `reference.distributed.group` has a twin,
`BackendCollectives`, that leaves the same three operations to torch.distributed, which is what one
would use on GPUs.

    all_gather   R tensors, one from each rank          → all of them, stacked, everywhere
    all_reduce   R tensors of one shape                 → their sum or maximum, everywhere
    all_to_all   on each rank one tensor for each rank  → on each rank one tensor from each rank

The result has the same bits on every rank: a sum is added up once, in one place, then passed on.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from reference.distributed.links import Links, nothing_like
from reference.distributed.schedules import (
    ALL_GATHER,
    REDUCE_SCATTER,
    Round,
    best_schedule,
    ring_all_gather,
    shifted_all_to_all,
)

OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "max": torch.maximum,
}


class Collectives(Protocol):
    """What `context_parallel_decode` needs of the ranks."""

    rank: int
    ranks: int

    def all_gather(self, x: Tensor) -> Tensor:
        """Every rank's x, (R, *x.shape), in order of the ranks. x has the same shape everywhere."""

    def all_reduce(self, x: Tensor, op: str) -> Tensor:
        """Element by element the "sum" or "max" of every rank's x, in x's shape and dtype."""

    def all_to_all(self, parts: Sequence[Tensor], likes: Sequence[Tensor]) -> list[Tensor]:
        """parts[j] goes to rank j; returned is what rank j sent this one, shaped like likes[j]."""


class ScheduledCollectives:
    """Collectives made of counted messages.

    links: to the other ranks. schedule: "ring" or "doubling" (for 2ⁿ ranks); None: the one with
    the fewest rounds. Raises ValueError for an unknown schedule, or one that this number of ranks
    does not allow.
    """

    def __init__(self, links: Links, schedule: str | None = None) -> None:
        self.links, self.rank, self.ranks = links, links.rank, links.ranks
        self.schedule = best_schedule(links.ranks) if schedule is None else schedule
        if self.schedule not in ALL_GATHER:
            raise ValueError(f"schedule must be one of {', '.join(ALL_GATHER)}; got {schedule!r}")
        list(ALL_GATHER[self.schedule](self.rank, self.ranks))  # raises if it can't be

    def all_gather(self, x: Tensor) -> Tensor:
        """Every rank's x, (R, *x.shape). Each rank sends (R − 1) times the bytes of x."""
        self.links.begin()
        chunks: dict[int, Tensor] = {self.rank: x}
        for step in ALL_GATHER[self.schedule](self.rank, self.ranks):
            message = torch.stack([chunks[i] for i in step.send])
            like = nothing_like((len(step.receive), *x.shape), x)
            received = self.links.exchange(step.to, message, step.sender, like)
            chunks |= dict(zip(step.receive, received, strict=True))
        return torch.stack([chunks[i] for i in range(self.ranks)])

    def all_reduce(self, x: Tensor, op: str) -> Tensor:
        """The "sum" or "max" of all x: reduce-scatter, then all-gather, of R chunks of x.

        Each rank sends 2 · (R − 1) / R times the bytes of x, where R divides its size.
        """
        self.links.begin()
        combine = OPERATIONS[op]
        chunks = list(x.flatten().tensor_split(self.ranks))
        for step in REDUCE_SCATTER[self.schedule](self.rank, self.ranks):
            for i, received in zip(step.receive, self._swap(step, chunks), strict=True):
                chunks[i] = combine(received, chunks[i])
        for step in self._spread():
            for i, received in zip(step.receive, self._swap(step, chunks), strict=True):
                chunks[i] = received
        return torch.cat(chunks).view(x.shape)

    def all_to_all(self, parts: Sequence[Tensor], likes: Sequence[Tensor]) -> list[Tensor]:
        """parts[j] goes to rank j: each rank sends all of its parts but its own."""
        self.links.begin()
        received = {self.rank: parts[self.rank]}
        for step in shifted_all_to_all(self.rank, self.ranks):
            message, like = parts[step.to], likes[step.sender]
            received[step.sender] = self.links.exchange(step.to, message, step.sender, like)
        return [received[i] for i in range(self.ranks)]

    def _spread(self) -> list[Round]:
        """The all-gather that follows a reduce-scatter: the ring ends one chunk further on."""
        if self.schedule == "ring":
            return list(ring_all_gather(self.rank, self.ranks, shift=1))
        return list(ALL_GATHER[self.schedule](self.rank, self.ranks))

    def _swap(self, step: Round, chunks: list[Tensor]) -> Sequence[Tensor]:
        """Carry out one round for chunks that may differ in size by one element."""
        message = torch.cat([chunks[i] for i in step.send])
        sizes = [chunks[i].numel() for i in step.receive]
        like = nothing_like((sum(sizes),), message)
        return self.links.exchange(step.to, message, step.sender, like).split(sizes)


def all_reduce_sent(rank: int, ranks: int, size: int, schedule: str) -> int:
    """How many of the `size` elements one rank sends in an all-reduce, exactly.

    Where ranks divides size this is 2 · (R − 1) / R · size.

    >>> [all_reduce_sent(rank, 4, size=8, schedule="ring") for rank in range(4)]
    [12, 12, 12, 12]
    >>> [all_reduce_sent(rank, 4, size=9, schedule="ring") for rank in range(4)]
    [14, 14, 13, 13]

    Nine elements are chunks of 3, 2, 2 and 2.
    """
    sizes = [len(x) for x in torch.empty(size).tensor_split(ranks)]
    shift = {"shift": 1} if schedule == "ring" else {}
    rounds = [
        *REDUCE_SCATTER[schedule](rank, ranks),
        *ALL_GATHER[schedule](rank, ranks, **shift),
    ]
    return sum(sizes[i] for step in rounds for i in step.send)
