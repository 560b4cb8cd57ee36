"""Tensor parallelism over heads, and what to do when there are more ranks than KV heads.

    Hkv = 4, two ranks          Hkv = 2, four ranks: two ways over heads, two over the context

    rank 0   KV heads 0 1       rank 0   KV head 0, shard 0 ┐ merge
    rank 1   KV heads 2 3       rank 1   KV head 0, shard 1 ┘
                                rank 2   KV head 1, shard 0 ┐ merge
             no merge           rank 3   KV head 1, shard 1 ┘

Heads never meet inside attention, so ranks that have different heads need not talk. That is the
cheapest way to split, as long as there are heads. Beyond Hkv ranks the usual way out is to store
copies: with Hkv = 8, sixteen ranks keep each key twice. A `Grid` uses these ranks for the context
instead: each key is stored once, and ranks with the same heads merge among themselves.

Sources: Shoeybi et al. 2019, "Megatron-LM" (heads over ranks); Bhatia et al. 2025, "Helix
Parallelism" (no copies: KV parallelism beyond Hkv).
"""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from reference.distributed.placement import Placement


@dataclass(frozen=True)
class Grid:
    """`ranks` as heads × context: rank = head_group · context + shard.

    head_groups: into how many parts the KV heads are cut, each over ranks // head_groups shards of
    the context. Ranks of one head group are neighbours, so that they tend to be in one machine.
    block: as in `Placement`. Raises ValueError unless head_groups divides ranks and Hkv.
    """

    ranks: int
    Hkv: int
    head_groups: int
    block: int = 1

    def __post_init__(self) -> None:
        ranks, Hkv, groups = self.ranks, self.Hkv, self.head_groups
        if min(ranks, Hkv, groups) < 1 or ranks % groups or Hkv % groups:
            raise ValueError(
                f"head_groups must divide ranks and Hkv; got head_groups={groups}, "
                f"ranks={ranks}, Hkv={Hkv}"
            )

    @classmethod
    def widest(cls, ranks: int, Hkv: int, block: int = 1) -> "Grid":
        """The grid with as many head groups as there can be: heads first, then the context.

        >>> [Grid.widest(ranks, Hkv=8).head_groups for ranks in (2, 8, 16, 12)]
        [2, 8, 8, 4]
        """
        return cls(ranks, Hkv, math.gcd(ranks, Hkv), block)

    @property
    def context(self) -> int:
        """Over how many ranks the keys of one head are spread."""
        return self.ranks // self.head_groups

    @cached_property
    def placement(self) -> Placement:
        """Which of a head group's ranks holds which key."""
        return Placement(self.context, self.block)

    def head_group_of(self, rank: int) -> int:
        """The head group of a rank."""
        return rank // self.context

    def shard_of(self, rank: int) -> int:
        """The shard of a rank: its number within its head group."""
        return rank % self.context

    def members(self, rank: int) -> list[int]:
        """The ranks that have the same heads, with which this one merges, itself among them.

        >>> Grid(ranks=8, Hkv=4, head_groups=4).members(5)
        [4, 5]
        """
        first = self.head_group_of(rank) * self.context
        return list(range(first, first + self.context))

    def heads_of(self, x: Tensor, rank: int) -> Tensor:
        """The heads of x (B, L, H, D) that a rank has: of q as of K and V, a view.

        Query heads that share a KV head stay with it. Raises ValueError unless Hkv divides H.
        """
        H = x.shape[2]
        if H % self.Hkv:
            raise ValueError(f"the heads must be a multiple of Hkv = {self.Hkv}; got {H}")
        count = H // self.head_groups
        return x.narrow(2, self.head_group_of(rank) * count, count)


def cache_copies(ranks: int, Hkv: int, context: int = 1) -> float:
    """How many times every key is stored when `ranks` ranks share Hkv heads and `context` shards.

    >>> [cache_copies(ranks, Hkv=8) for ranks in (4, 8, 32)], cache_copies(32, Hkv=8, context=4)
    ([1.0, 1.0, 4.0], 1.0)

    Pure tensor parallelism on 32 ranks stores a model with 8 KV heads four times over.
    """
    return max(1.0, ranks / context / Hkv)
