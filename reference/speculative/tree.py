"""A draft as a tree of tokens, and the mask with which one pass checks all its branches.

    the text ends in "the"                slot   token   parent   depth   sees (besides the cache)
                                            0     the       –       0     0
    the ─┬─ cat ─┬─ sat                     1     cat       0       1     0 1
         │       └─ ran                     2     sat       1       2     0 1 2
         └─ dog ── sat                      3     ran       1       2     0 1   3
                                            4     dog       0       1     0       4
                                            5     sat       4       2     0       4 5

Slot 0 is the root: the newest token of the text, whose keys are not in the cache yet. A node sees
itself and its ancestors. Slots say where keys are stored; the position that rotary embedding needs
is the depth: both "sat" follow at distance two, whichever slot they are in. A plain draft is a
tree with a single branch, and its mask is the causal one.

Sources: Miao et al. 2024, "SpecInfer" (arXiv:2305.09781), section 4 (token trees, one mask for
all branches); Cai et al. 2024, "Medusa" (arXiv:2401.10774), tree attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

ROOT = -1
"""The parent of a node that follows the text directly."""


@dataclass(frozen=True)
class Tree:
    """Drafted tokens: node i is `tokens[i]`, and follows node `parents[i]` (−1: the text).

    tokens: token ids; parents: each less than its node's own number. q: fp64 (n, vocabulary), the
    distribution that each token was drawn from, given the older siblings of that node; None: no
    token was drawn, each is what the draft is sure of. Node i is in slot i + 1 of the pass.
    Raises ValueError for parts that don't fit together.

    >>> tree = Tree.of_paths([["cat", "sat"], ["cat", "ran"], ["dog", "sat"]])
    >>> tree.tokens, tree.parents, tree.depths
    (('cat', 'sat', 'ran', 'dog', 'sat'), (-1, 0, 0, -1, 3), (1, 2, 2, 1, 2))
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    q: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.parents):
            raise ValueError(
                f"every token must have a parent; got {len(self.tokens)} tokens and "
                f"{len(self.parents)} parents"
            )
        for node, parent in enumerate(self.parents):
            if not ROOT <= parent < node:
                raise ValueError(
                    f"the parent of node {node} must lie in −1…{node - 1}; got {parent}"
                )
        if self.q is not None and (self.q.ndim != 2 or len(self.q) != len(self)):
            raise ValueError(
                f"q must be ({len(self)}, vocabulary), a row per token; got {tuple(self.q.shape)}"
            )

    @classmethod
    def chain(cls, tokens: Sequence[int], q: Tensor | None = None) -> Tree:
        """One branch: each token follows the one before it."""
        return cls(tuple(tokens), tuple(range(-1, len(tokens) - 1)), q)

    @classmethod
    def of_paths(cls, paths: Iterable[Sequence[int]]) -> Tree:
        """The tree of these continuations; where two begin alike, they share nodes. q is None.

        The first path gets the first slots, one after the other.
        """
        tokens, parents, found = [], [], {}
        for path in paths:
            parent = ROOT
            for token in path:
                if (parent, token) not in found:
                    found[parent, token] = len(tokens)
                    tokens.append(token)
                    parents.append(parent)
                parent = found[parent, token]
        return cls(tuple(tokens), tuple(parents))

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """How many tokens after the root each node is: 1 for those that follow it directly."""
        depths = []
        for parent in self.parents:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        return tuple(depths)

    @property
    def depth(self) -> int:
        """The length of the longest branch."""
        return max(self.depths, default=0)

    @property
    def is_chain(self) -> bool:
        """Whether there is a single branch: then the causal mask is the tree's mask."""
        return self.parents == tuple(range(-1, len(self) - 1))

    @cached_property
    def mask(self) -> Tensor:
        """Which slot sees which, bool (n + 1, n + 1): itself and its ancestors; slot 0 is the root.

        >>> Tree((7, 8, 9), (-1, 0, -1)).mask.int()
        tensor([[1, 0, 0, 0],
                [1, 1, 0, 0],
                [1, 1, 1, 0],
                [1, 0, 0, 1]], dtype=torch.int32)
        """
        mask = torch.eye(len(self) + 1, dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            mask[node + 1] |= mask[parent + 1]
        return mask

    def children(self, node: int) -> tuple[int, ...]:
        """The nodes that follow this one (−1: the text), the oldest first."""
        return tuple(child for child, parent in enumerate(self.parents) if parent == node)

    def path(self, node: int) -> tuple[int, ...]:
        """The nodes from the root, which is not in it, to this one."""
        path = []
        while node != ROOT:
            path.append(node)
            node = self.parents[node]
        return tuple(reversed(path))

    def cut(self, *, nodes: int, depth: int) -> Tree:
        """The tree without what is deeper than `depth`, and then its first `nodes` nodes.

        Raises ValueError for a negative number.
        """
        if nodes < 0 or depth < 0:
            raise ValueError(f"nodes and depth must be at least 0; got {nodes} and {depth}")
        if len(self) <= nodes and self.depth <= depth:
            return self
        kept = [node for node in range(len(self)) if self.depths[node] <= depth][:nodes]
        number = {ROOT: ROOT} | {node: i for i, node in enumerate(kept)}
        return Tree(
            tuple(self.tokens[node] for node in kept),
            tuple(number[self.parents[node]] for node in kept),
            None if self.q is None else self.q[kept],
        )
