"""The models and attention functions that tests of `reference.serving` run on."""

from functools import cache

import torch
from small_models import TINY, small_model

from reference.attention import attention, attention_with_cache
from reference.serving import Attention
from reference.serving.threads import THREADS
from reference.transformer import Transformer

NAIVE = Attention(prefill=attention, decode=attention_with_cache)
ATTENTION = {"reference": Attention(), "naive": NAIVE, "threads": THREADS}


@cache
def tiny() -> Transformer:
    """TINY in fp64, made once: 40 places of context."""
    return small_model(TINY)


def prompt_of(count: int, seed: int = 0) -> list[int]:
    """Random tokens."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count,), generator=rng).tolist()
