"""Which rank holds which key: round robin by blocks, as plain arithmetic.

    place        0  1 │ 2  3 │ 4  5 │ 6  7 │ 8  9 │ 10          block = 2, three ranks
    rank         0  0 │ 1  1 │ 2  2 │ 0  0 │ 1  1 │ 2
    slot         0  1 │ 0  1 │ 0  1 │ 2  3 │ 2  3 │ 2           where it lies in that rank's shard

A sequence grows at its end, so consecutive blocks go to consecutive ranks: shards never differ by
more than one block, whatever the length. (Contiguous pieces would send every new token to the last
rank. They are the special case of one block per rank: `block = ⌈length / ranks⌉`.)

A shard keeps its keys in the order of their places. So whatever a causal query sees of it is a
prefix: as many keys as the shard has places up to the query's own. `seen` counts them.

Sources: SGLang documentation, "Decode context parallelism": rank r owns position p where
p mod c = r; TensorRT-LLM, Helix: page b lies on rank b mod cp, so blocks of a page's size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Length = int | Tensor


@dataclass(frozen=True)
class Placement:
    """Round robin: place j lies on rank ⌊j / block⌋ mod ranks.

    Raises ValueError unless both counts are at least 1.

    >>> Placement(ranks=3, block=2).rank_of(torch.arange(11)).tolist()
    [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2]
    """

    ranks: int
    block: int = 1

    def __post_init__(self) -> None:
        if self.ranks < 1 or self.block < 1:
            raise ValueError(
                f"ranks and block must be at least 1; got ranks={self.ranks}, block={self.block}"
            )

    def rank_of(self, place: Length) -> Length:
        """The rank that holds a place; ints or integer tensors of any shape."""
        return place // self.block % self.ranks

    def slot_of(self, place: Length) -> Length:
        """Where a place lies in its rank's shard; ints or integer tensors of any shape."""
        return place // (self.block * self.ranks) * self.block + place % self.block

    def count(self, rank: int, length: Length) -> Length:
        """How many of the places `[0, length)` lie on `rank`; below 0 counts as 0.

        >>> [Placement(ranks=3, block=2).count(rank, 9) for rank in range(3)]
        [4, 3, 2]

        Nine keys: rank 0 has places 0 1 6 7, rank 1 has 2 3 8, rank 2 has 4 5.
        """
        self._check(rank)
        cycle = self.block * self.ranks
        if isinstance(length, Tensor):
            length = length.clamp(min=0)
            rest = (length % cycle - rank * self.block).clamp(0, self.block)
        else:
            length = max(0, length)
            rest = min(max(length % cycle - rank * self.block, 0), self.block)
        return length // cycle * self.block + rest

    def places(self, rank: int, length: int) -> Tensor:
        """The places of `[0, length)` that lie on `rank`, ascending: int64 (count,).

        Slot s of the shard holds place `places[s]`.
        """
        slot = torch.arange(self.count(rank, length))
        return slot // self.block * self.block * self.ranks + rank * self.block + slot % self.block

    def seen(self, rank: int, lengths: Tensor, Lq: int) -> Tensor:
        """How many keys of a rank's shard each new token may see: int (B, Lq).

        lengths: int (B,), of the whole rows, the Lq new tokens included. Query i is at place
        `length − Lq + i` and sees the places up to there.

        >>> Placement(ranks=2).seen(0, torch.tensor([5]), Lq=3)
        tensor([[2, 2, 3]])

        Rank 0 holds places 0, 2 and 4. The queries are at 2, 3 and 4.
        """
        new = torch.arange(1 - Lq, 1, device=lengths.device)
        return self.count(rank, lengths[:, None] + new)

    def _check(self, rank: int) -> None:
        if not 0 <= rank < self.ranks:
            raise ValueError(f"rank must lie in 0…{self.ranks - 1}; got {rank}")


def shard(x: Tensor, placement: Placement, rank: int) -> Tensor:
    """The part of a cache x (B, Lk, ...) that lies on one rank: a copy (B, count, ...)."""
    return x[:, placement.places(rank, x.shape[1]).to(x.device)]


def append_to_shard(
    k_shard: Tensor,
    v_shard: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    placement: Placement,
    rank: int,
) -> None:
    """Write those of the new tokens into a shard, in place, whose places lie on this rank.

    k_shard, v_shard: (B, capacity, Hkv, D or Dv); k, v: (B, Ln, Hkv, D or Dv), the same on all
    ranks and already rotated; lengths: int (B,), of the whole rows before. Nothing is sent: every
    rank keeps what is its own. Raises ValueError, before anything is written, for shapes that do
    not fit and for a shard that is full.
    """
    B, Ln = k.shape[:2]
    for name, new, held in (("k", k, k_shard), ("v", v, v_shard)):
        if new.shape[:2] != (B, Ln) or held.shape[0] != B or new.shape[2:] != held.shape[2:]:
            raise ValueError(
                f"{name} must be (B, Ln, Hkv, D) to fit a shard {tuple(held.shape)}; "
                f"got {tuple(new.shape)}"
            )
    if lengths.shape != (B,):
        raise ValueError(f"lengths must be (B,) = ({B},); got {tuple(lengths.shape)}")
    place = lengths[:, None].long() + torch.arange(Ln, device=lengths.device)  # (B, Ln)
    row, token = (placement.rank_of(place) == rank).nonzero(as_tuple=True)
    slot = placement.slot_of(place[row, token])
    room = min(k_shard.shape[1], v_shard.shape[1])
    if slot.numel() and int(slot.max()) >= room:
        raise ValueError(
            f"rank {rank} has room for {room} keys per row; got slot {int(slot.max())}"
        )
    k_shard[row, slot] = k[row, token]
    v_shard[row, slot] = v[row, token]
