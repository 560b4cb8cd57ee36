"""Accept or resample: how a draft is used without changing what the model says.

The model would draw the next token from p; the draft has drawn x from q. Keep x with probability
min(1, p(x) / q(x)); otherwise draw from what p has and q lacked:

                   q too low: some is missing          kept        min(p, q)
    p  ▁▃▇▅▁       ┌──┐                                resampled   max(p − q, 0), normalised
    q  ▃▅▅▃▁       what the residual gives back        together    p

x arrives with probability q(x) · min(1, p(x) / q(x)) = min(p(x), q(x)). That leaves
1 − Σ min(p, q) of the probability, which is exactly Σ max(p − q, 0). So the token's distribution is
p, whatever q was; a bad q costs passes, never quality. The chance to keep x, Σ min(p, q), is one
minus the total variation distance of p and q.

Several candidates for one place are tried in turn, each against what the ones before have left of
p. And at temperature 0, p is 1 at the likeliest token: the same rule keeps that one and no other.

Sources: Leviathan et al. 2023 (arXiv:2211.17192), section 2.3 and appendix A.1; Chen et al. 2023
(arXiv:2302.01318), theorem 1; candidates in turn: Miao et al. 2024, "SpecInfer"
(arXiv:2305.09781), section 4.3.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from reference.speculative.tree import ROOT, Tree


class Accepted(NamedTuple):
    """What a pass gives: the nodes that stay, from the root down, and the token that follows."""

    path: tuple[int, ...]
    token: int


def probabilities(logits: Tensor, temperature: float = 0.0) -> Tensor:
    """softmax(logits / temperature) in fp64 on the CPU; at temperature 0, 1 at the likeliest.

    logits: (..., vocabulary). Raises ValueError for a negative temperature.

    >>> probabilities(torch.tensor([1.0, 3.0, 2.0]))
    tensor([0., 1., 0.], dtype=torch.float64)
    """
    if temperature < 0:
        raise ValueError(f"temperature must be at least 0; got {temperature}")
    logits = logits.double().cpu()
    if temperature > 0:
        return torch.softmax(logits / temperature, dim=-1)
    likeliest = logits.argmax(-1, keepdim=True)
    return torch.zeros_like(logits).scatter_(-1, likeliest, 1.0)


def residual(p: Tensor, q: Tensor) -> Tensor:
    """What is drawn from if the draft's token is refused: max(p − q, 0), normalised.

    p, q: fp64 (vocabulary,). Where nothing is left p is returned: then p = q up to rounding, and a
    token of q is (almost) never refused.

    >>> residual(torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6]))
    tensor([0.7500, 0.2500, 0.0000])

    The draft says the first two tokens too rarely, by 0.3 and 0.1.
    """
    left = (p - q).clamp(min=0)
    total = left.sum()
    return left / total if total > 0 else p


def draw(p: Tensor, generator: torch.Generator | None = None) -> int:
    """A token from p (vocabulary,)."""
    return int(torch.multinomial(p, 1, generator=generator))


def accept(
    tree: Tree,
    logits: Tensor,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Accepted:
    """Walk down from the root while drafted tokens are accepted; then one token more.

    logits: (n + 1, vocabulary), what the model says after each slot of the tree. The token at the
    end comes from the residual where every child was refused, and from the model's p where a
    branch ends: it is new in either case. Raises ValueError for another number of rows.

    >>> logits = torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0]])
    >>> accept(Tree.chain([1, 0]), logits)
    Accepted(path=(0,), token=2)

    After the text the model wants token 1, which was drafted; after that 2, and 0 was drafted.
    """
    if logits.ndim != 2 or len(logits) != len(tree) + 1:
        raise ValueError(
            f"logits must be ({len(tree) + 1}, vocabulary), a row per slot of the tree; got "
            f"{tuple(logits.shape)}"
        )
    path, node = [], ROOT
    while True:
        p = probabilities(logits[node + 1], temperature)
        node, p = _try_children(tree, node, p, generator)
        if node is None:
            return Accepted(tuple(path), draw(p, generator))
        path.append(node)


def _try_children(
    tree: Tree, node: int, p: Tensor, generator: torch.Generator | None
) -> tuple[int | None, Tensor]:
    """The first child that is accepted, or None; and what is left of p after those refused."""
    for child in tree.children(node):
        token = tree.tokens[child]
        q = _drawn_from(tree, child, p)
        # u · q < p rather than u < p / q: no division by a q that has underflowed to 0
        if torch.rand((), dtype=p.dtype, generator=generator) * q[token] < p[token]:
            return child, p
        p = residual(p, q)
    return None, p


def _drawn_from(tree: Tree, node: int, p: Tensor) -> Tensor:
    """The distribution of a node's token; all of it at the token where the draft was sure."""
    if tree.q is not None:
        return tree.q[node]
    certain = torch.zeros_like(p)
    certain[tree.tokens[node]] = 1.0
    return certain
