"""SmolLM2 in a lesson: the model itself after `make model`, or else what was recorded of it.

    real = load()             the model, or None where nobody has run `make model`
    channels(real)            computed now; channels(None): from benchmarks/results/quality.json

Both give the same numbers up to rounding, and say which they are: see `Channels.source`. What the
record has no room for, such as every single key, only the model itself can give.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from course import recorded
from reference import checkpoint, pretrained
from reference.flash_decoding_cpu import flash_decode_threads
from reference.perplexity import cut
from reference.quantized_cache import cached_keys_and_values
from reference.transformer import Transformer

LENGTH, WINDOWS = 512, 4  # of the recorded run: tokens per window, windows of the held-out text


class Keys(NamedTuple):
    """One layer's keys (rotated) and values of every token: (tokens, Hkv, D) each."""

    k: Tensor
    v: Tensor


@dataclass(frozen=True)
class Channels:
    """The largest |x| of each channel of K and V, in the layer where those of K differ most.

    k, v: (Hkv, D); k_spread, v_spread: (layers,), largest / median over the channels of a layer;
    source: "computed now" or "recorded on …"; tokens: all keys and values of that layer, None if
    recorded.
    """

    source: str
    layer: int
    k: Tensor
    v: Tensor
    k_spread: Tensor
    v_spread: Tensor
    tokens: Keys | None = None


def load() -> pretrained.Pretrained | None:
    """SmolLM2-135M-Instruct and its tokenizer in fp32, or None before `make model`."""
    return pretrained.load() if pretrained.SMOLLM2.is_file() else None


def channels(real: pretrained.Pretrained | None) -> Channels:
    """The channels of the model on its calibration text; of the record if there is no model.

    Raises FileNotFoundError where there is neither.
    """
    if real is None:
        return _recorded_channels()
    text = (checkpoint.WEIGHTS / checkpoint.HELD_OUT).read_text(encoding="utf-8")
    windows = cut(torch.tensor(real.tokenizer.encode(text)), LENGTH)[:WINDOWS]
    return channels_of(real.model, windows)


def channels_of(model: Transformer, windows: Tensor) -> Channels:
    """The channels of K and V after these windows, int64 (n, length), each in its own cache."""
    found = [cached_keys_and_values(model, window, flash_decode_threads) for window in windows]
    k, v = (torch.stack([one[i].abs().amax(1) for one in found]).amax(0) for i in range(2))
    k_spread, v_spread = (spread(x) for x in (k, v))  # (layers,)
    layer = int(k_spread.argmax())
    tokens = Keys(*(torch.cat([one[i][layer] for one in found]) for i in range(2)))
    return Channels("computed now", layer, k[layer], v[layer], k_spread, v_spread, tokens)


def spread(largest: Tensor) -> Tensor:
    """Largest / median of a layer's channels, for largest |x| (layers, Hkv, D): (layers,).

    >>> spread(torch.tensor([[[1.0, 2.0, 8.0]]]))
    tensor([4.])
    """
    of_layer = largest.flatten(1)
    return of_layer.amax(1) / of_layer.median(1).values


def _recorded_channels() -> Channels:
    record = recorded.load("quality")
    if record is None:
        raise FileNotFoundError("no record of the model: run `make model`, then the same again")
    kept = record["channels"]["smollm2"]
    arrays = (torch.tensor(kept[name]) for name in ("k", "v", "k_spread", "v_spread"))
    return Channels(origin(record), kept["layer"], *arrays)


def origin(record: dict) -> str:
    """When and with what a record was made: "recorded on 2026-01-31, torch 2.13.0"."""
    return f"recorded on {record['date'][:10]}, torch {record['torch'].split('+')[0]}"
