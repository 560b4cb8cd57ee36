"""How far apart two fp32 computations of one model may be: derived from its fp64 self.

A computed sum of K products is the exact sum for weights that differ from the given ones by a
relative √K · u or so, u = 2^-24 (a random walk of K roundings; the certain bound has K for √K:
Higham 2002, section 3.1, and Higham & Mary 2019). So the model is evaluated in fp64 once with its
weights and once with each of them moved that far, up or down at random, and the rotary angles by
4 u (libraries compute them in fp32: a power, a division and a product, each rounded). What the
logits move by is what one fp32 computation may be off; two may be off by twice that.
"""

import torch
from torch import Tensor

from reference.transformer import Transformer

U = 2.0**-24


@torch.no_grad()
def moved(model: Transformer, seed: int = 0) -> None:
    """Move each weight of an fp64 model by a rounding error, in place; and the angles."""
    rng = torch.Generator().manual_seed(seed)

    def up_or_down(shape: torch.Size) -> Tensor:
        return torch.randint(0, 2, shape, generator=rng, dtype=torch.int8) * 2 - 1

    for weight in model.parameters():
        K = weight.shape[-1] if weight.ndim == 2 else 4  # a norm: square, root, two products
        weight.mul_(1 + K**0.5 * U * up_or_down(weight.shape))
    cos, sin = (table.double() for table in model.angles)
    turn = torch.arange(len(cos)).double()[:, None] * frequencies(model)
    turn = turn * 4 * U * up_or_down(turn.shape[1:])
    model.angles = cos * turn.cos() - sin * turn.sin(), sin * turn.cos() + cos * turn.sin()


def frequencies(model: Transformer) -> Tensor:
    """Radians per token of each pair of dimensions, fp64."""
    c = model.config
    return c.rope_base ** (-torch.arange(0, c.D, 2, dtype=torch.float64) / c.D)


@torch.no_grad()
def allowed(model: Transformer, tokens: Tensor) -> tuple[Tensor, float]:
    """The fp64 logits of an fp64 model, and how far two fp32 computations of them may differ.

    The model is changed.
    """
    truth = model(tokens)
    moved(model)
    return truth, 2 * float((model(tokens) - truth).abs().max())
