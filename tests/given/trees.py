"""Trees of drafted tokens that nobody would draft."""

import torch

from reference.speculative import Tree


def random_tree(n: int, seed: int, vocabulary: int = 256) -> Tree:
    """n nodes, each with a random older node (or the text) as its parent, and a random token."""
    rng = torch.Generator().manual_seed(seed)
    parents = [int(torch.randint(-1, i, (), generator=rng)) for i in range(n)]
    tokens = torch.randint(0, vocabulary, (n,), generator=rng).tolist()
    return Tree(tuple(tokens), tuple(parents))
