"""Time per output token against context: one small model, several attentions, taking turns.

The model is `reference.transformer` with random weights, and its KV cache is filled with random
numbers instead of by a prefill: a decode step reads the same bytes and multiplies as often, and
filling 16,384 places takes a moment.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.timing import GpuEvents, HostClock, take_turns
from reference.attention import attention_with_cache
from reference.flash_decoding_cpu import flash_decode_threads
from reference.transformer import Attend, Config, KVCache, Transformer, over_prefix

CONFIG = Config(layers=2, width=256, Hq=8, Hkv=2, D=64, hidden=704, context=16384)
CONTEXTS = tuple(range(1024, 16385, 1024))
QUICK_CONTEXTS = (512, 1024, 2048)
ROUNDS = 9


def sdpa(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """PyTorch's attention in the layout of `reference`; one query, which sees all: no mask."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2)


def attentions(device: torch.device | str = "cpu") -> dict[str, Attend]:
    """What drives the model on a device, by the name that tables and figures use."""
    every: dict[str, Attend] = {"naive": attention_with_cache, "SDPA": over_prefix(sdpa)}
    if torch.device(device).type == "cpu":
        return every | {"Flash-Decoding": flash_decode_threads}
    from kernels.flash_decoding import flash_decode  # needs triton

    return every | {"Flash-Decoding": flash_decode}


class Decoder:
    """A model and a full cache; `step(context, attend)` decodes one token behind `context` − 1."""

    def __init__(self, config: Config = CONFIG, device: torch.device | str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = Transformer(config).to(device).eval()
        self.cache = KVCache(config, device=device)
        for part in (self.cache.k, self.cache.v):
            part.copy_(torch.randn(part.shape, generator=generator))
        self.token = torch.tensor([[65]], device=device)

    @torch.no_grad()
    def step(self, context: int, attend: Attend) -> Tensor:
        """Return the logits (1, 1, vocabulary) after a token that sees `context` keys."""
        self.cache.lengths = torch.full_like(self.cache.lengths, context - 1)
        return self.model(self.token, self.cache, attend)


def agree(decoder: Decoder, context: int, by_name: Mapping[str, Attend]) -> dict[str, bool]:
    """Whether each attention gives the naive one's logits, to 1e-3 of the largest of them.

    fp32 sums of a few thousand terms differ by less than 1e-4 of their size; an attention that
    leaves keys out, by far more.
    """
    wanted = decoder.step(context, attention_with_cache)
    allowed = 1e-3 * wanted.abs().max()
    steps = {name: decoder.step(context, attend) for name, attend in by_name.items()}
    return {name: bool((got - wanted).abs().max() <= allowed) for name, got in steps.items()}


def measure(
    decoder: Decoder,
    contexts: Sequence[int],
    by_name: Mapping[str, Attend],
    rounds: int = ROUNDS,
    on_context: Callable[[], object] = lambda: None,
) -> dict[str, list[list[float]]]:
    """Milliseconds of a decode step: by name, for each context, first quartile, median and third.

    on_context: called after each context (a progress bar's update).
    """
    watch = GpuEvents() if decoder.token.is_cuda else HostClock()
    curves: dict[str, list[list[float]]] = {name: [] for name in by_name}
    for context in contexts:
        steps = {
            name: lambda _, context=context, attend=attend: decoder.step(context, attend)
            for name, attend in by_name.items()
        }
        for name, ms in take_turns(steps, watch, rounds, warm_up=1, warm_up_ms=0.0).items():
            curves[name].append(statistics.quantiles(ms))
        on_context()
    return curves
