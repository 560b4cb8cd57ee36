"""Counting what moves to and from slow memory (a GPU's HBM), tile by tile.

On a GPU a kernel's speed is often decided by how many bytes it moves between the large slow
memory and the small fast one. Here the tile loops of `reference.flash_attention` report each tile
that they would load or store, and three formulas say what the count should be.

Source of the counts: Dao et al. 2022, "FlashAttention", theorem 2 and appendix; Dao 2023.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor

from reference.attention import safe_softmax


@dataclass
class Traffic:
    """Elements and bytes loaded from and stored to slow memory, by tensor name.

    >>> import torch
    >>> t = Traffic()
    >>> _ = t.load("k", torch.zeros(4, 2, dtype=torch.float16))
    >>> t.loads["k"], t.elements, t.bytes_total
    (8, 8, 16)

    A tile of 4 × 2 numbers is 8 elements; fp16 takes 2 bytes each.
    """

    loads: Counter[str] = field(default_factory=Counter)
    stores: Counter[str] = field(default_factory=Counter)
    bytes_total: int = 0

    def load(self, name: str, tile: Tensor) -> Tensor:
        """Count one read of `tile` and hand it back."""
        self.loads[name] += tile.numel()
        self.bytes_total += tile.numel() * tile.element_size()
        return tile

    def store(self, name: str, tile: Tensor) -> Tensor:
        """Count one write of `tile` and hand it back."""
        self.stores[name] += tile.numel()
        self.bytes_total += tile.numel() * tile.element_size()
        return tile

    @property
    def elements(self) -> int:
        """All elements moved, loads and stores together."""
        return self.loads.total() + self.stores.total()

    def __str__(self) -> str:
        """One line per tensor: what was loaded and stored, in elements."""
        names = dict.fromkeys([*self.loads, *self.stores])
        rows = [f"{n:>6}  loaded {self.loads[n]:>9,}  stored {self.stores[n]:>9,}" for n in names]
        return "\n".join([*rows, f" total  {self.elements:>16,} elements"])


def naive_attention_with_traffic(
    q: Tensor, k: Tensor, v: Tensor, traffic: Traffic, *, scale: float | None = None
) -> Tensor:
    """One head of naive attention as three kernels, each reading and writing slow memory.

    q: (Lq, D); k: (Lk, D); v: (Lk, Dv). Returns o (Lq, Dv). Scores and p go out to memory and come
    back: 4 · Lq · Lk elements on top of the inputs and the output.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = traffic.store("scores", scale * traffic.load("q", q) @ traffic.load("k", k).T)
    p = traffic.store("p", safe_softmax(traffic.load("scores", scores))[0])
    return traffic.store("o", traffic.load("p", p) @ traffic.load("v", v))


def naive_elements(Lq: int, Lk: int, D: int, *, Dv: int | None = None) -> int:
    """Elements naive attention moves for one head: q, k, v, o once; scores and p out and in.

    Dv: columns of v and o, default D.
    """
    return (Lq + Lk) * (D + (Dv or D)) + 4 * Lq * Lk


def flash_attention_1_elements(
    Lq: int, Lk: int, D: int, block_m: int, block_n: int, *, Dv: int | None = None
) -> int:
    """Elements FlashAttention-1 moves for one head, without a mask.

    K and V once. For each of the ⌈Lk / block_n⌉ key tiles: all of q in, all of o, m, l in and
    out. `block_m` changes nothing here: every query tile is visited for every key tile.
    Initialising o, m, l is not counted. Dv: columns of v and o, default D.
    """
    Dv, key_tiles = Dv or D, math.ceil(Lk / block_n)
    return Lk * (D + Dv) + key_tiles * (Lq * D + 2 * (Lq * Dv + 2 * Lq))


def flash_attention_2_elements(
    Lq: int, Lk: int, D: int, block_m: int, block_n: int, *, Dv: int | None = None
) -> int:
    """Elements FlashAttention-2 moves for one head, without a mask.

    q in, o and lse out, once. For each of the ⌈Lq / block_m⌉ query tiles: all of K and V.
    `block_n` changes nothing here. Dv: columns of v and o, default D.
    """
    columns = D + (Dv or D)
    return Lq * columns + Lq + math.ceil(Lq / block_m) * Lk * columns
