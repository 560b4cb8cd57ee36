"""The pass that checks a draft, and the cache before and after it.

    cache        k0 k1 k2 k3                                 4 tokens are in
    the pass     k0 k1 k2 k3 | the cat sat ran dog sat       the root and 5 drafted nodes, 6 slots
    accepted     the → cat → ran                             slots 0, 1 and 3
    afterwards   k0 k1 k2 k3   the cat ran                   7 tokens; the rest is overwritten later

For a plain draft nothing is new: Lq = n + 1 queries, the causal mask at the bottom right, and lower
`lengths` afterwards. A tree needs three things more, and none of them concerns the model: a mask
for the attention function, the angles of each slot's depth, and accepted keys moved together.

Source: Miao et al. 2024, "SpecInfer" (arXiv:2305.09781), section 4.2.
"""

from functools import partial

import torch
from torch import Tensor

from reference.kv_cache import cells_of
from reference.paging.cache import Batch
from reference.speculative.tree import Tree
from reference.transformer import Attend, KVCache, Transformer


class TreeView:
    """A cache as the model sees it while it checks a tree: for one pass over root and nodes.

    cache: a `KVCache`, or `Batch` of a paged one, of one sequence. The attention function gets the
    tree's mask as `mask=`; the cache's `append` looks up angles by slot, and is handed a table in
    which each new slot's row is that of its depth. Raises ValueError for more than one sequence.
    """

    def __init__(self, cache: KVCache | Batch, tree: Tree) -> None:
        if len(cache.lengths) != 1:
            raise ValueError(f"a tree belongs to one sequence; got {len(cache.lengths)}")
        self.cache, self.tree = cache, tree
        self._table: tuple[Tensor, Tensor] | None = None

    @property
    def lengths(self) -> Tensor:
        """How many tokens are in, int32 (1,), each slot of the tree counted as one."""
        return self.cache.lengths

    @lengths.setter
    def lengths(self, lengths: Tensor) -> None:
        self.cache.lengths = lengths

    @property
    def room(self) -> int:
        """How many more slots there are."""
        return self.cache.room

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, angles: tuple[Tensor, Tensor], f: Attend
    ) -> Tensor:
        """As `KVCache.attend`, for q, k, v (1, n + 1, …) of the root and the nodes."""
        if self._table is None:  # the same in all layers
            self._table = angles_by_depth(*angles, int(self.lengths[0]), self.tree)
        masked = partial(f, mask=self.tree.mask.to(q.device))
        return self.cache.attend(layer, q, k, v, self._table, masked)


def angles_by_depth(cos: Tensor, sin: Tensor, start: int, tree: Tree) -> tuple[Tensor, Tensor]:
    """Rotary tables in which row start + slot is the row of position start + depth of that slot.

    cos, sin: (max_pos, R/2). start: how many tokens come before the root.
    """
    place = torch.tensor([0, *tree.depths], device=cos.device) + start
    before = slice(0, start)
    return torch.cat((cos[before], cos[place])), torch.cat((sin[before], sin[place]))


@torch.no_grad()
def run_tree(
    model: Transformer, root: int, tree: Tree, cache: KVCache | Batch, attend: Attend
) -> Tensor:
    """Logits (n + 1, vocabulary) after the root and after each node, in one pass.

    root: the newest token of the text; the cache holds those before it, and n + 1 more afterwards,
    all of them slots of the tree: `keep` says which of them stay. A single branch goes through as
    any Lq tokens do; for others attend must take `mask`.
    """
    tokens = torch.tensor([[root, *tree.tokens]], device=model.embedding.weight.device)
    return model(tokens, cache if tree.is_chain else TreeView(cache, tree), attend)[0]


def keep(cache: KVCache | Batch, start: int, slots: list[int]) -> None:
    """Let the cache have its first `start` tokens and these slots of the pass, and no others.

    slots: in ascending order, 0 being the one at place `start`. Keys and values that have to move
    are copied, in every layer; pages that are then empty are released. A page that another
    sequence holds is never written: the pass has copied it already. Raises ValueError for slots
    that are not in ascending order or not in the cache, TypeError for a cache whose cells can't be
    moved where they must be.
    """
    count = int(cache.lengths[0]) - start
    if len(cache.lengths) != 1 or start < 0:
        raise ValueError(
            f"there must be one sequence, and start ≥ 0; got {len(cache.lengths)} and {start}"
        )
    if slots != sorted(set(slots)) or not all(0 <= slot < count for slot in slots):
        raise ValueError(f"slots must be ascending, within 0…{count - 1}; got {slots}")
    moved = [(slot, i) for i, slot in enumerate(slots) if slot != i]
    if moved:
        _move(cache, [start + a for a, _ in moved], [start + b for _, b in moved])
    cache.lengths = torch.full_like(cache.lengths, start + len(slots))


def _move(cache: KVCache | Batch, source: list[int], target: list[int]) -> None:
    """Copy the cells at places `source` of the only row to places `target`, in every layer."""
    row, table = cache, None
    if isinstance(cache, Batch):
        row, table = cache.cache, cache.block_table
    if not isinstance(row.k, Tensor):
        raise TypeError(f"tokens of a {type(row).__name__} can be taken back, but not moved")
    places = cells_of(0, 0, int(cache.lengths[0]), row.k[0], block_table=table)
    (from_row, from_slot), (to_row, to_slot) = ([x[at] for x in places] for at in (source, target))
    for part in (row.k, row.v):  # (layers, rows or pages, slots, Hkv, D)
        part[:, to_row, to_slot] = part[:, from_row, from_slot]
