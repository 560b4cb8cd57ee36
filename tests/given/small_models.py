"""Small models whose attention matters: random weights of size 1/√width, and the call counted."""

import torch
from torch import Tensor

from reference.attention import attention_with_cache
from reference.transformer import Config, Transformer

TINY = Config(layers=2, width=24, Hq=6, Hkv=2, D=4, hidden=20, context=40)


def small_model(
    config: Config = TINY, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Transformer:
    """A model that looks trained: its scores are spread, so a token in the wrong place shows."""
    model = Transformer(config)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            size = weight.shape[-1] ** -0.5 if weight.ndim == 2 else 1.0
            weight.copy_(size * torch.randn(weight.shape, generator=rng))
    return model.to(dtype).requires_grad_(False)


def some_tokens(B: int, L: int, seed: int = 1) -> Tensor:
    """Random bytes, int64 (B, L)."""
    return torch.randint(0, 256, (B, L), generator=torch.Generator().manual_seed(seed))


class Counting:
    """An attention function that records how many queries and keys each call has."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, *, causal: bool) -> Tensor:
        self.calls.append((q.shape[1], int(lengths.max())))
        return attention_with_cache(q, k, v, lengths, causal=causal)
