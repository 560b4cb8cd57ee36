"""A KV cache in eight bits, keys and values each in a format of their own.

    k, v of a new token ─→ rotate k ─→ x / scale, rounded ─→ stored        (once, when it arrives)
    a query             ─→ rotate q ─→ stored · scale     ─→ attention     (at every later step)

A format is a dtype and what one scale serves:

    per        scales of a layer    known when            what a scale costs
    tensor     ()                   before: `calibrate`   nothing
    head       (Hkv,)               before: `calibrate`   nothing
    channel    (Hkv, D)             before: `calibrate`   nothing, but K's must go into q
    token      (B, capacity, Hkv)   the token arrives     4 bytes per token and head

A static scale has to be chosen before the numbers are seen: what turns out to be larger is
clamped. A scale per token always fits.

Sources: per token and per channel: Liu et al. 2024, "KIVI" (arXiv:2402.02750), section 3.2, and
Hooper et al. 2024, "KVQuant" (arXiv:2401.18079), section 3.1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reference.kv_cache import rotate
from reference.quantization import LARGEST, dequantize, round_to_cache, scale_for, scale_of_token
from reference.transformer import Attend, Config, KVCache, Transformer

STATIC = ("tensor", "head", "channel")
SHORT = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int8: "int8",
    torch.float8_e4m3fn: "e4m3",
    torch.float8_e5m2: "e5m2",
}


@dataclass(frozen=True)
class Format:
    """How numbers are stored: a dtype and, for eight bits, what one scale serves.

    Raises TypeError for a dtype that is not in `SHORT`, ValueError for a `per` that does not go
    with it.

    >>> str(Format(torch.int8, "token")), str(Format(torch.bfloat16))
    ('int8 per token', 'bf16')
    """

    dtype: torch.dtype
    per: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in SHORT:
            raise TypeError(f"dtype must be one of {[*map(str, SHORT)]}; got {self.dtype}")
        allowed = (*STATIC, "token") if self.dtype in LARGEST else (None,)
        if self.per not in allowed:
            raise ValueError(f"per must be one of {allowed} for {self.dtype}; got {self.per!r}")

    def __str__(self) -> str:
        return SHORT[self.dtype] + (f" per {self.per}" if self.per else "")

    def bytes_per_token(self, D: int) -> int:
        """Bytes for the D numbers of one token and head, and their scale if they have their own."""
        return D * self.dtype.itemsize + (4 if self.per == "token" else 0)

    def scales_for(self, x: Tensor) -> Tensor | None:
        """The static scales (layers, …) that fit x (layers, L, Hkv, D); None for other formats."""
        if self.per not in STATIC:
            return None
        dims = {"tensor": (1, 2, 3), "head": (1, 3), "channel": (1,)}[self.per]
        return scale_for(x.abs().amax(dims), self.dtype)


class Stored:
    """The keys, or the values, of every layer in one format.

    numbers: (layers, B, capacity, Hkv, D) in the format's dtype; scales: (layers, …) for a static
    format, (layers, B, capacity, Hkv) per token, None for wide dtypes.
    """

    def __init__(
        self, format: Format, config: Config, B: int, capacity: int, scales: Tensor | None
    ) -> None:
        shape = (config.layers, B, capacity, config.Hkv, config.D)
        wanted = {"tensor": (), "head": (config.Hkv,), "channel": (config.Hkv, config.D)}
        if format.per in STATIC:
            sizes = (config.layers, *wanted[format.per])
            if scales is None or tuple(scales.shape) != sizes:
                got = None if scales is None else tuple(scales.shape)
                raise ValueError(f"{format} needs scales {sizes}, as from calibrate; got {got}")
        elif scales is not None:
            raise ValueError(f"{format} has no static scales; got {tuple(scales.shape)}")
        else:
            scales = torch.ones(shape[:-1]) if format.per == "token" else None
        self.format, self.scales = format, scales
        self.numbers = torch.empty(shape, dtype=format.dtype)

    def write(self, layer: int, b: int, start: int, x: Tensor) -> None:
        """Round x (L, Hkv, D) once and store it from place `start` of row b on."""
        cells, dtype = slice(start, start + len(x)), self.format.dtype
        if self.scales is None:
            self.numbers[layer, b, cells] = x.to(dtype)
        elif self.format.per == "token":
            own, self.scales[layer, b, cells] = scale_of_token(x, dtype)
            self.numbers[layer, b, cells] = round_to_cache(x, own, dtype)
        elif self.format.per == "channel":  # as if each channel were a head of one number
            one, scale = x.flatten(1)[..., None], self.scales[layer].flatten()
            self.numbers[layer, b, cells] = round_to_cache(one, scale, dtype).view(x.shape)
        else:
            self.numbers[layer, b, cells] = round_to_cache(x, self.scales[layer], dtype)

    def read(self, layer: int, length: int, dtype: torch.dtype) -> Tensor:
        """The first `length` places as `dtype`: (B, length, Hkv, D)."""
        numbers = self.numbers[layer, :, :length]
        if self.scales is None:
            return numbers.to(dtype)
        scale = self.scales[layer]
        if self.format.per == "channel":
            one = numbers.flatten(2)[..., None]
            return dequantize(one, scale.flatten(), dtype).view(numbers.shape)
        return dequantize(numbers, scale[:, :length] if scale.ndim == 3 else scale, dtype)


class QuantizedKVCache(KVCache):
    """A `KVCache` whose keys are stored as `k` says and whose values as `v` says.

    config: the model's. k, v: formats; scales: `calibrate(...)`'s pair, needed where a format is
    static. B: sequences; capacity: tokens each (None: the context). On the CPU.

    Attention gets the caches multiplied out to the dtype of q, so that every `attend` can read
    them: this measures what a format does to the answers, not how fast a kernel reads it.
    `flash_decode(..., k_scale=, v_scale=)` reads eight bits directly. Raises ValueError for sizes
    or scales that don't fit.
    """

    def __init__(
        self,
        config: Config,
        k: Format,
        v: Format,
        *,
        scales: tuple[Tensor | None, Tensor | None] = (None, None),
        B: int = 1,
        capacity: int | None = None,
    ) -> None:
        capacity = config.context if capacity is None else capacity
        if B < 1 or not 1 <= capacity <= config.context:
            raise ValueError(
                f"B must be at least 1 and the capacity 1…{config.context}; got {B} and {capacity}"
            )
        self.capacity, self.lengths = capacity, torch.zeros(B, dtype=torch.int32)
        self.k, self.v = (
            Stored(format, config, B, capacity, scale)
            for format, scale in zip((k, v), scales, strict=True)
        )

    @property
    def room(self) -> int:
        """How many more tokens the fullest row can take."""
        return self.capacity - int(self.lengths.max())

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, angles: tuple[Tensor, Tensor], f: Attend
    ) -> Tensor:
        """As `KVCache.attend`; k and v are rounded first, so even the newest are read rounded."""
        L, rotated = k.shape[1], torch.empty_like(q)
        for b, start in enumerate(self.lengths.tolist()):
            cos, sin = (table[start : start + L] for table in angles)
            rotated[b] = rotate(q[b], cos, sin)
            self.k.write(layer, b, start, rotate(k[b], cos, sin))
            self.v.write(layer, b, start, v[b])
        lengths = self.lengths + L
        stop = int(lengths.max())
        caches = (part.read(layer, stop, q.dtype) for part in (self.k, self.v))
        return f(rotated, *caches, lengths, causal=True)

    def bytes_per_token(self) -> int:
        """Bytes of one token over all layers, its own scales included."""
        layers, _, _, Hkv, D = self.k.numbers.shape
        return layers * Hkv * sum(part.format.bytes_per_token(D) for part in (self.k, self.v))


@torch.no_grad()
def cached_keys_and_values(
    model: Transformer, tokens: Tensor, attend: Attend
) -> tuple[Tensor, Tensor]:
    """What a cache holds after these tokens, int64 (L,): K (rotated) and V, (layers, L, Hkv, D)."""
    cache = KVCache(model.config, capacity=len(tokens), dtype=model.embedding.weight.dtype)
    model(tokens[None], cache, attend)
    return cache.k[:, 0], cache.v[:, 0]


def calibrate(
    model: Transformer,
    windows: Iterable[Tensor],
    k: Format,
    v: Format,
    attend: Attend,
) -> tuple[Tensor | None, Tensor | None]:
    """The static scales of K and V: what the largest |x| of these windows, each int64 (L,), needs.

    None for a format that has none. Raises ValueError without a window.
    """
    found: Sequence[tuple[Tensor | None, ...]] = [
        tuple(
            format.scales_for(x)
            for format, x in zip((k, v), cached_keys_and_values(model, w, attend), strict=True)
        )
        for w in windows
    ]
    if not found:
        raise ValueError("calibrate needs at least one window of tokens; got none")
    k_scales, v_scales = (
        None if part[0] is None else torch.stack(part).amax(0) for part in zip(*found, strict=True)
    )
    return k_scales, v_scales
