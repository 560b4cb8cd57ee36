"""A KV cache in pages: all layers in one pool of memory, any number of sequences in it.

    k[layer]   page 0   page 1   page 2   page 3   page 4   …      (num_pages, page_size, Hkv, D)
                 ▲                 ▲        ▲
    block table  └─── [ 3, 0, 2 ] of a sequence: place 0 … 15 in page 3, 16 … 31 in page 0 …

One block table serves all layers: page 3 of a sequence is page 3 in each of them.

    cache = PagedKVCache(model.config, num_pages=64)
    seq = cache.new()
    logits = model(prompt, cache.batch(seq), attend)         as with any KVCache
    other = cache.fork(seq)                                  two continuations, one prompt
    logits = model(two_bytes, cache.batch(seq, other), attend)

Source: Kwon et al. 2023, "Efficient memory management for large language model serving with
PagedAttention".
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reference.kv_cache import append_kv
from reference.paging.tables import Copy, PageTables
from reference.transformer import Attend, Config


class PagedKVCache:
    """Keys and values of many sequences, in every layer, in `num_pages` pages.

    config: the sizes of a model. num_pages, page_size (tokens): at least 1. append: the function
    that writes and rotates, called like `reference.kv_cache.append_kv`. poison: fill pages with NaN
    when they are handed out, and all of them at the start, so that reading what nobody has written
    gives NaN; it costs a pass over each page.

    k, v: (layers, num_pages, page_size, Hkv, D). tables: who holds which page. Raises ValueError
    for sizes below 1.

    >>> cache = PagedKVCache(Config(), num_pages=4, page_size=16)
    >>> cache.bytes_per_page, cache.batch(cache.new()).room
    (16384, 64)

    A page holds 16 tokens, at 1,024 bytes a token in all layers. One sequence can have all four.
    """

    def __init__(
        self,
        config: Config,
        num_pages: int,
        page_size: int = 16,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        append: Callable[..., Tensor | None] = append_kv,
        poison: bool = False,
    ) -> None:
        self.tables = PageTables(num_pages, page_size)
        shape = (config.layers, num_pages, page_size, config.Hkv, config.D)
        self.k = torch.empty(shape, dtype=dtype, device=device)
        self.v = torch.empty(shape, dtype=dtype, device=device)
        self.context, self.append, self.poison = config.context, append, poison
        if poison:
            self.k.fill_(math.nan), self.v.fill_(math.nan)

    @property
    def bytes_per_page(self) -> int:
        """Bytes that a page takes, its K and V in all layers."""
        return 2 * self.k[:, 0].numel() * self.k.element_size()

    def new(self, tokens: Sequence[int] = (), *, salt: bytes = b"") -> int:
        """Begin a sequence; with `tokens`, its prompt, in the pages that already hold its start.

        `tables.length(seq)` says how many tokens these hold: the model needs only the others. salt:
        see `page_keys`.
        """
        seq = self.tables.new()
        self.tables.adopt(seq, tokens, salt=salt)
        return seq

    def fork(self, seq: int) -> int:
        """Begin a sequence with the tokens of `seq`. Nothing is copied until one of them grows."""
        return self.tables.fork(seq)

    def free(self, seq: int) -> None:
        """End a sequence. Raises KeyError if there is none, or no longer."""
        self.tables.free(seq)

    def record(self, seq: int, tokens: Sequence[int], *, salt: bytes = b"") -> None:
        """Note which tokens are in a sequence, so that later prompts find its full pages."""
        self.tables.record(seq, tokens, salt=salt)

    def batch(self, *seqs: int) -> "Batch":
        """These sequences as the rows of a cache that a model can be given."""
        return Batch(self, seqs)

    def reserve(self, seqs: Sequence[int], count: int) -> None:
        """Give each sequence its pages for `count` more tokens; raises as `PageTables` does."""
        before = {seq: set(self.tables.pages(seq)) for seq in seqs}
        copies = self.tables.reserve(seqs, count)
        if self.poison:
            taken = [p for seq in seqs for p in self.tables.pages(seq) if p not in before[seq]]
            self.k[:, taken], self.v[:, taken] = math.nan, math.nan
        for copy in copies:
            self._carry_out(copy)

    def _carry_out(self, copy: Copy) -> None:
        for cache in (self.k, self.v):
            cache[:, copy.target, : copy.filled] = cache[:, copy.source, : copy.filled]


class Batch:
    """Some sequences of a `PagedKVCache` as the rows of a batch: what `Transformer` is given.

    Has the `lengths`, `room` and `attend` of `reference.transformer.KVCache`. Setting `lengths`
    lower takes tokens back, and releases the pages left empty. Raises ValueError for no
    sequence, or one named twice; KeyError for one that is not there.
    """

    def __init__(self, cache: PagedKVCache, seqs: Sequence[int]) -> None:
        if not seqs or len(set(seqs)) != len(seqs):
            raise ValueError(f"a batch needs one sequence or more, each once; got {[*seqs]}")
        self.cache, self.seqs = cache, tuple(seqs)
        self._lengths()

    @property
    def lengths(self) -> Tensor:
        """How many tokens are in, int32 (B,): a copy."""
        return torch.tensor(self._lengths(), dtype=torch.int32, device=self.cache.k.device)

    @lengths.setter
    def lengths(self, lengths: Tensor) -> None:
        if lengths.shape != (len(self.seqs),):
            raise ValueError(f"lengths must be ({len(self.seqs)},); got {tuple(lengths.shape)}")
        for seq, length in zip(self.seqs, lengths.tolist(), strict=True):
            self.cache.tables.set_length(seq, length)

    @property
    def room(self) -> int:
        """How many more tokens every row can take: pages and the model's context both bound it."""
        tables, pool = self.cache.tables, self.cache.tables.pool
        most = max(0, self.cache.context - max(self._lengths()))
        # More tokens never need fewer pages, so the counts are in order and can be bisected.
        counts = range(1, most + 1)
        return bisect_right(counts, pool.available, key=lambda n: tables.wanted(self.seqs, n))

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, angles: tuple[Tensor, Tensor], f: Attend
    ) -> Tensor:
        """Put k, v `(B, L, Hkv, D)` after what is there, and let q attend to all of it with f.

        As `KVCache.attend`; f is called with `block_table` as well. Raises OutOfPages if the pages
        do not suffice; then nothing was written and no page has changed hands.
        """
        cache, L = self.cache, k.shape[1]
        cache.reserve(self.seqs, L)  # the first layer's call takes the pages for all layers
        pages = cache.k[layer], cache.v[layer]
        before, where = self.lengths, {"block_table": self.block_table}
        cos, sin = angles
        q = cache.append(*pages, k, v, before, rotary_cos=cos, rotary_sin=sin, q=q, **where)
        return f(q, *pages, before + L, causal=True, **where)

    @property
    def block_table(self) -> Tensor:
        """The pages of the rows, int32 (B, max_pages), −1 where a row has none."""
        return self.cache.tables.block_table(self.seqs, self.cache.k.device)

    def _lengths(self) -> list[int]:
        return [self.cache.tables.length(seq) for seq in self.seqs]
