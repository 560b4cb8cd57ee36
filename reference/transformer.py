"""A small Llama-style language model over bytes, with a KV cache and a hole where attention goes.

    byte → embedding ─┬─ RMSNorm → q k v → rotary → attention → ⊕ ─┬─ RMSNorm → SwiGLU → ⊕ → …
                      └────────────────────────────────────────────┘

Attention is an argument, not a part of the model: any function that can be called like
`reference.flash_decoding.flash_decode` will do. So the naive version, the reference and the
Triton kernel can be told apart only by their time.

    model(tokens)              every token attends to those before it; nothing is kept
    model(tokens, cache)       the tokens are appended to the cache and attend to all of it

Both give the same logits. The second computes the keys and values of a token only once.

Sources: Vaswani et al. 2017 (the architecture); Zhang & Sennrich 2019 (RMSNorm); Su et al. 2021
(rotary embedding); Shazeer 2020 (SwiGLU); Ainslie et al. 2023 (GQA); Touvron et al. 2023, "LLaMA",
section 2.2 (their combination); Press & Wolf 2017 (one matrix for embedding and output).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.attention import attention_with_cache
from reference.kv_cache import append_kv, rotary_table, rotate

Attend = Callable[..., Tensor]
"""Called as `attend(q, k_cache, v_cache, cache_seqlens, causal=True)`; returns o, shaped like q."""


@dataclass(frozen=True)
class Config:
    """The sizes of a model. Raises ValueError for sizes that don't fit together.

    >>> Config().kv_bytes_per_token()
    1024

    Four layers keep a k and a v for two heads of sixteen dimensions: 256 numbers of four bytes.

    The last three are those of the model that comes with the course; `reference.pretrained` reads
    models that differ in them. rope_base: of the rotary angles. norm_eps: what RMSNorm adds to the
    mean square. tied: whether the embedding's matrix also gives the logits. They are printed only
    where they are not the default.
    """

    vocabulary: int = 256
    layers: int = 4
    width: int = 128
    Hq: int = 8
    Hkv: int = 2
    D: int = 16
    hidden: int = 352
    context: int = 512
    rope_base: float = field(default=10000.0, repr=False)
    norm_eps: float = field(default=1e-5, repr=False)
    tied: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        for part in fields(self):
            size = getattr(self, part.name)
            if part.repr and size < 1:
                raise ValueError(f"{part.name} must be at least 1; got {size}")
        for name in ("rope_base", "norm_eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite; got {getattr(self, name)}")
        if self.Hq % self.Hkv:
            raise ValueError(f"Hq must be a multiple of Hkv; got {self.Hq} and {self.Hkv}")
        if self.D % 2:
            raise ValueError(f"D must be even, as rotary rotates pairs; got {self.D}")

    def __repr__(self) -> str:
        parts = [(part, getattr(self, part.name)) for part in fields(self)]
        shown = [f"{part.name}={x}" for part, x in parts if part.repr or x != part.default]
        return f"Config({', '.join(shown)})"

    def kv_bytes_per_token(self, bytes_per_number: int = 4) -> int:
        """Bytes that one token takes in the KV cache, over all layers."""
        return 2 * self.layers * self.Hkv * self.D * bytes_per_number


class KVCache:
    """The keys and values of B sequences, in every layer, with room for `capacity` tokens each.

    k, v: (layers, B, capacity, Hkv, D), views of memory that holds one head after the other;
    lengths: int32 (B,), how many tokens are in. append: the function that writes and rotates,
    called like `reference.kv_cache.append_kv` (`kernels.append` has a fast one).

    A cache stored differently (in pages, in eight bits) has its own `attend`, and the same
    `lengths` and `room`; the model needs nothing else. To take tokens back, lower `lengths`.
    """

    def __init__(
        self,
        config: Config,
        B: int = 1,
        capacity: int | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        append: Callable[..., Tensor | None] = append_kv,
    ) -> None:
        capacity = config.context if capacity is None else capacity
        if B < 1 or not 1 <= capacity <= config.context:
            raise ValueError(
                f"B must be at least 1 and the capacity 1…{config.context}; got {B} and {capacity}"
            )
        # A thread reads the keys of one head: side by side in memory they come faster than between
        # those of the other heads.
        shape = (config.layers, B, config.Hkv, capacity, config.D)
        self.k = torch.empty(shape, dtype=dtype, device=device).transpose(2, 3)
        self.v = torch.empty(shape, dtype=dtype, device=device).transpose(2, 3)
        self.lengths = torch.zeros(B, dtype=torch.int32, device=device)
        self.append = append

    @property
    def room(self) -> int:
        """How many more tokens the fullest row can take."""
        return self.k.shape[2] - int(self.lengths.max())

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, angles: tuple[Tensor, Tensor], f: Attend
    ) -> Tensor:
        """Put k, v `(B, L, Hkv, D)` after what is there, and let q attend to all of it with f.

        angles: `rotary_table`'s cos and sin; q and k are rotated by their place. `lengths` stay
        as they are: the other layers have yet to store the same tokens.
        """
        caches = self.k[layer], self.v[layer]
        cos, sin = angles
        q = self.append(*caches, k, v, self.lengths, rotary_cos=cos, rotary_sin=sin, q=q)
        return f(q, *caches, self.lengths + k.shape[1], causal=True)


class RMSNorm(nn.Module):
    """Divide each vector by its root mean square, then scale its dimensions: no mean, no bias."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        """x / √(mean x² + eps) · weight for x (..., width), summed in fp32 (fp64 for fp64)."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Block(nn.Module):
    """One layer: attention, then SwiGLU, each on a normalised copy and added to the stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = (config.Hq, config.Hkv, config.Hkv)
        width, q, kv = config.width, config.Hq * config.D, config.Hkv * config.D
        self.attention_norm, self.mlp_norm = (RMSNorm(width, config.norm_eps) for _ in range(2))
        self.qkv = nn.Linear(width, q + 2 * kv, bias=False)
        self.out = nn.Linear(q, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, width, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (B, L, width) → q (B, L, Hq, D), k and v (B, L, Hkv, D), not yet rotated."""
        q_heads, kv_heads, _ = self.heads
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (q_heads + 2 * kv_heads, -1))
        return qkv.split(self.heads, dim=2)

    def finish(self, x: Tensor, o: Tensor) -> Tensor:
        """Add what attention found, o (B, L, Hq, D), to x (B, L, width), then SwiGLU's output."""
        x = x + self.out(o.flatten(2))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Transformer(nn.Module):
    """The model: `model(tokens)` or `model(tokens, cache)` → logits over the next token (a byte).

    Weights are random until `reference.checkpoint.load` or `reference.train` fills them;
    `reference.pretrained.load` returns a large one, whose tokens are pieces of words.
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = Config() if config is None else config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        if not config.tied:
            self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        # not buffers: those are rounded when the model goes to fp16, and angles must not be
        self.angles = rotary_table(config.context, config.D, config.rope_base)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:  # what adds to the stream starts smaller the more layers there are
                adds = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * config.layers) ** 0.5 if adds else 0.02)

    def forward(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        attend: Attend = attention_with_cache,
    ) -> Tensor:
        """Logits `(B, L, vocabulary)` over what follows each of the tokens.

        tokens: int64 (B, L). cache: the tokens follow what is in it, and are appended; after an
        error, its lengths are as before. attend: `attend(q, k, v, lengths, causal=True)`, in
        the layout of `reference`; without a cache, lengths is None.
        Raises ValueError for shapes that don't fit, or more tokens than there is room for;
        TypeError unless tokens are int64.
        """
        return self.logits(self.hidden(tokens, cache, attend))

    def hidden(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        attend: Attend = attention_with_cache,
    ) -> Tensor:
        """The stream `(B, L, width)` after the last layer; everything else as in `forward`.

        Where the logits of a few tokens are enough, such as a prompt's last, pass only these on to
        `logits`: its matrix is a fifth of SmolLM2's weights.
        """
        self._check(tokens, cache)
        L = tokens.shape[1]
        self.angles = cos, sin = tuple(table.to(tokens.device) for table in self.angles)
        x = self.embedding(tokens)
        for layer, block in enumerate(self.blocks):
            q, k, v = block.project(x)
            if cache is None:
                q, k = (rotate(part, cos[:L], sin[:L]).to(v.dtype) for part in (q, k))
                o = attend(q, k, v, None, causal=True)
            else:
                o = cache.attend(layer, q, k, v, (cos, sin), attend)
            x = block.finish(x, o)
        if cache is not None:
            cache.lengths = cache.lengths + L
        return x

    def logits(self, x: Tensor) -> Tensor:
        """Logits `(..., vocabulary)` from the stream after the last layer, `(..., width)`."""
        tied = self.config.tied
        return F.linear(self.norm(x), self.embedding.weight if tied else self.head.weight)

    def _check(self, tokens: Tensor, cache: KVCache | None) -> None:
        if tokens.dtype != torch.int64:
            raise TypeError(f"tokens must be int64; got {tokens.dtype}")
        if tokens.ndim != 2 or tokens.shape[1] < 1:
            raise ValueError(f"tokens must be (B, L) with L ≥ 1; got {tuple(tokens.shape)}")
        B, L = tokens.shape
        if cache is None and self.config.context < L:
            raise ValueError(f"the context has {self.config.context} places; got {L} tokens")
        if cache is not None and cache.lengths.shape != (B,):
            raise ValueError(f"the cache holds {len(cache.lengths)} rows; got tokens for {B}")
        if cache is not None and cache.room < L:
            raise ValueError(f"the cache has room for {cache.room} more tokens; got {L}")


def over_prefix(attention: Attend) -> Attend:
    """Let `flash_attention(q, k, v, *, causal)`, which takes no lengths, read a cache.

    The valid prefix of a cache is a view. The bottom-right mask does the rest, even if the
    queries follow earlier tokens. Raises ValueError, when called, for rows of unequal lengths.
    """

    def attend(
        q: Tensor, k: Tensor, v: Tensor, cache_seqlens: Tensor | None = None, *, causal: bool = True
    ) -> Tensor:
        if cache_seqlens is not None:
            lengths = cache_seqlens.tolist()
            if len(set(lengths)) != 1:
                raise ValueError(f"the rows must be equally long; got lengths {lengths}")
            k, v = k[:, : lengths[0]], v[:, : lengths[0]]
        return attention(q, k, v, causal=causal)

    return attend
