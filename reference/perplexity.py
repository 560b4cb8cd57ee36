"""How well a model predicts a text, and whether a change to it makes a difference.

    loss of a token      −log p(token | the tokens before it), in nats
    perplexity           exp(mean loss): a die with as many faces would be as hard to predict
    ratio                perplexity after a change / before it = exp(mean of the differences)

The same tokens are predicted before and after, so their difficulty cancels in the difference: its
spread is far smaller than that of the losses. Tokens near each other are not independent, so what
is drawn again to get an interval (the bootstrap) is whole windows.

Source: Efron & Tibshirani 1993, "An introduction to the bootstrap", chapter 13 (percentiles).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reference.transformer import Attend, KVCache, Transformer


class Ratio(NamedTuple):
    """A ratio of perplexities and its 95 % interval."""

    ratio: float
    low: float
    high: float


def cut(tokens: Tensor, length: int) -> Tensor:
    """Cut tokens (n,) into windows (n // length, length); what is left over is dropped.

    Raises ValueError for fewer tokens than one window holds, or windows of fewer than 2.

    >>> cut(torch.arange(5), 2)
    tensor([[0, 1],
            [2, 3]])
    """
    if length < 2 or len(tokens) < length:
        raise ValueError(f"windows of {length} (at least 2) don't fit into {len(tokens)} tokens")
    return tokens[: len(tokens) // length * length].view(-1, length)


@torch.no_grad()
def token_losses(
    model: Transformer,
    windows: Tensor,
    make_cache: Callable[[], KVCache],
    attend: Attend,
) -> Iterator[Tensor]:
    """Yield, for each window, the losses of all its tokens but the first: fp64 (length − 1,).

    windows: int64 (n, length). make_cache: returns an empty cache for one row. A window goes
    through in one pass; what a token reads from the cache is what it would read if they came one by
    one.
    """
    for window in windows:
        logits = model(window[None, :-1], make_cache(), attend)[0]
        yield F.cross_entropy(logits, window[1:], reduction="none").double()


def perplexity(losses: Tensor) -> float:
    """exp of the mean loss."""
    return float(losses.mean().exp())


def compare(after: Tensor, before: Tensor, samples: int = 10_000, seed: int = 0) -> Ratio:
    """Perplexity after / before, with its 95 % interval from `samples` draws of whole windows.

    after, before: losses (windows, tokens) of the same tokens. Raises ValueError for shapes that
    differ, or fewer than two windows: one says nothing about their spread.

    >>> before = torch.full((4, 9), 2.0)
    >>> compare(before + 0.01, before)
    Ratio(ratio=1.0100..., low=1.0100..., high=1.0100...)

    Every window changed by the same, so there is nothing to be uncertain about.
    """
    if after.shape != before.shape or after.ndim != 2 or len(after) < 2:
        raise ValueError(
            f"losses must both be (windows, tokens) with at least 2 windows; got "
            f"{tuple(after.shape)} and {tuple(before.shape)}"
        )
    difference = (after.double() - before.double()).mean(1)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(difference), (samples, len(difference)), generator=generator)
    means = difference[drawn].mean(1)
    ends = torch.tensor([0.025, 0.975], dtype=means.dtype)
    low, high = torch.quantile(means, ends).exp().tolist()
    return Ratio(float(difference.mean().exp()), low, high)
