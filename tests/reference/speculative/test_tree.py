"""reference.speculative.tree: who follows whom, and so who sees whom."""

import doctest

import pytest
import torch
from trees import random_tree

from reference.attention import causal_mask
from reference.speculative import Tree
from reference.speculative import tree as module


def test_examples():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_node_sees_its_path_and_nothing_else(seed):
    tree = random_tree(12, seed)
    for node in range(-1, 12):
        path = tree.path(node)
        seen = {0, *(other + 1 for other in path)}
        assert {slot for slot in range(13) if tree.mask[node + 1, slot]} == seen
        assert len(path) == (0 if node < 0 else tree.depths[node])
        assert all(tree.parents[b] == a for a, b in zip((-1, *path), path, strict=False))
        assert all(tree.parents[child] == node for child in tree.children(node))
    assert sorted(c for node in range(-1, 12) for c in tree.children(node)) == list(range(12))
    assert tree.depth == max(tree.depths)


def test_a_chain_is_causal():
    for n in (0, 1, 5):
        chain = Tree.chain(range(n))
        assert chain.is_chain and chain.depth == n
        assert torch.equal(chain.mask, causal_mask(n + 1, n + 1))
    assert not Tree((1, 2), (-1, -1)).is_chain


def test_paths_share_what_they_have_in_common():
    tree = Tree.of_paths([[1, 2, 3], [1, 2, 4], [5], [1, 2, 3]])
    assert tree.tokens == (1, 2, 3, 4, 5) and tree.parents == (-1, 0, 1, 1, -1)
    leaves = [node for node in range(5) if not tree.children(node)]
    paths = [[tree.tokens[i] for i in tree.path(leaf)] for leaf in leaves]
    assert paths == [[1, 2, 3], [1, 2, 4], [5]]
    assert Tree.of_paths([[], []]) == Tree()
    assert Tree.of_paths([[7, 8]]).is_chain


@pytest.mark.parametrize("seed", range(4))
def test_cut_leaves_a_tree_with_the_same_paths(seed):
    tree = random_tree(10, seed)
    q = torch.rand(10, 4, dtype=torch.float64)
    tree = Tree(tree.tokens, tree.parents, q)
    texts = {tuple(tree.tokens[i] for i in tree.path(node)) for node in range(10)}
    for nodes in range(12):
        for depth in range(5):
            small = tree.cut(nodes=nodes, depth=depth)
            assert len(small) <= nodes and small.depth <= depth
            assert len(small) == min(nodes, sum(d <= depth for d in tree.depths))
            assert {tuple(small.tokens[i] for i in small.path(n)) for n in range(len(small))} <= (
                texts
            )
            for row, token in zip(small.q, small.tokens, strict=True):
                at = [i for i in range(10) if torch.equal(q[i], row)]
                assert [tree.tokens[i] for i in at] == [token]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (((1, 2), (-1,)), "every token must have a parent; got 2 tokens and 1 parents"),
        (((1, 2), (-1, 1)), r"the parent of node 1 must lie in −1…0; got 1"),
        (((1, 2), (-1, -2)), r"the parent of node 1 must lie in −1…0; got -2"),
        (((1, 2), (-1, 0), torch.ones(1, 5)), r"q must be \(2, vocabulary\).*got \(1, 5\)"),
        (((1, 2), (-1, 0), torch.ones(2)), r"q must be \(2, vocabulary\).*got \(2,\)"),
    ],
)
def test_parts_that_do_not_fit(parts, message):
    with pytest.raises(ValueError, match=message):
        Tree(*parts)


def test_cut_refuses_negative_numbers():
    with pytest.raises(ValueError, match="nodes and depth must be at least 0; got -1 and 2"):
        Tree().cut(nodes=-1, depth=2)
