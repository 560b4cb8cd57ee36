"""Time per output token against context: one small model, several attentions, taking turns.

The model is `reference.transformer` with random weights, and its KV cache is filled with random
numbers rather than by a prefill: a decode step reads the same bytes and does as many
multiplications, and filling the cache takes only a moment.

The cache is cold. In a large model the caches of all other layers, and the weights, are read
between two visits to a layer. This model is small, and would find its only cache where it left it.
So there is room for many caches, together larger than the machine's own cache, and each step takes
the places after those of the last. The weights (7 MB) stay warm, for all contestants alike.

Contestants *and contexts* take turns, so that a slow second of the machine hits the whole curve,
rather than a few neighbouring points, which would look like a step.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks import cpu, here
from benchmarks.timing import GpuEvents, HostClock, cold_bytes
from reference.attention import attention_with_cache
from reference.flash_decoding_cpu import flash_decode_threads
from reference.transformer import Attend, Config, KVCache, Transformer, over_prefix

CONFIG = Config(layers=2, width=256, Hq=8, Hkv=2, D=64, hidden=704, context=16384)
CONTEXTS = tuple(range(1024, 16385, 1024))
QUICK_CONTEXTS = (512, 1024, 2048)
ROUNDS = 9


def sdpa(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """`benchmarks.cpu.sdpa`, called the way a model does; one query, which sees all: no mask."""
    return cpu.sdpa(q, k, v)


def attentions(device: torch.device | str = "cpu") -> dict[str, Attend]:
    """The attention functions for a model on a device, by the names that tables and figures use."""
    every: dict[str, Attend] = {"naive": attention_with_cache, "SDPA": over_prefix(sdpa)}
    if torch.device(device).type == "cpu":
        return every | {"Flash-Decoding": flash_decode_threads}
    from kernels.flash_decoding import flash_decode  # needs triton

    return every | {"Flash-Decoding": flash_decode}


class Decoder:
    """A model and room for many full caches; `step` decodes one token after `context` − 1.

    cold: bytes between two reads of the same keys, at least; None: what the device's own cache
    cannot hold (`here.cold()` on a CPU, `timing.cold_bytes()` on a GPU).
    """

    def __init__(
        self,
        config: Config = CONFIG,
        device: torch.device | str = "cpu",
        cold: int | None = None,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = Transformer(config).to(device).eval()
        self.token = torch.tensor([[65]], device=device)
        if cold is None:
            cold = cold_bytes() if self.token.is_cuda else here.cold()
        places = -(-cold // config.kv_bytes_per_token()) + 2 * config.context
        shape = (config.layers, 1, places, config.Hkv, config.D)
        self.room = [torch.randn(shape, generator=generator).to(device) for _ in "kv"]
        self.cache = KVCache(config, capacity=1, device=device)  # k and v: a window of that room
        self.next = 0

    @torch.no_grad()
    def step(self, context: int, attend: Attend, place: int | None = None) -> Tensor:
        """Return the logits (1, 1, vocabulary) after a token that sees `context` keys.

        place: where in the room its cache begins; None: after that of the last step.
        """
        place = self.next if place is None else place
        if place + context > self.room[0].shape[2]:
            place = 0
        self.next = place + context
        self.cache.k, self.cache.v = (part[:, :, place : self.next] for part in self.room)
        self.cache.lengths = torch.full_like(self.cache.lengths, context - 1)
        return self.model(self.token, self.cache, attend)


def agree(decoder: Decoder, context: int, by_name: Mapping[str, Attend]) -> dict[str, bool]:
    """Whether each attention gives the naive one's logits, to 1e-3 of the largest of them.

    fp32 sums of a few thousand terms differ by less than 1e-4 of their size; an attention that
    leaves keys out, by far more.
    """
    wanted = decoder.step(context, attention_with_cache, 0)
    allowed = 1e-3 * wanted.abs().max()
    steps = {name: decoder.step(context, attend, 0) for name, attend in by_name.items()}
    return {name: bool((got - wanted).abs().max() <= allowed) for name, got in steps.items()}


def measure(
    decoder: Decoder,
    contexts: Sequence[int],
    by_name: Mapping[str, Attend],
    rounds: int = ROUNDS,
    on_round: Callable[[], object] = lambda: None,
) -> dict[str, list[list[float]]]:
    """Milliseconds of a decode step: by name, for each context, first quartile, median and third.

    One round is every contestant at every context; the first is warm-up and does not count.
    on_round: called after each counted round (a progress bar's update).
    """
    watch = GpuEvents() if decoder.token.is_cuda else HostClock()
    steps = {f"{name} {context}": partial(decoder.step, context, attend)
             for context in contexts for name, attend in by_name.items()}  # fmt: skip
    samples: dict[str, list[float]] = {key: [] for key in steps}
    order = list(steps)
    for round_ in range(rounds + 1):
        order = order[1:] + order[:1]
        for key in order:
            watch.mark(key, steps[key])
        ms = watch.read()
        if round_:
            for key, times in samples.items():
                times.append(ms[key])
            on_round()
    return {
        name: [statistics.quantiles(samples[f"{name} {context}"]) for context in contexts]
        for name in by_name
    }
