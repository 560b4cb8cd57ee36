"""The tokens of many requests as one row: chunks of prompts and single tokens, side by side.

    tokens of the step     a │ b │ c c c c c │ d d d           (1, T): one matrix product for all
    of sequence            0   1       2         3
    at place               37  9   64 … 68     0 1 2           rotated by place, written to its page

    attention              ├─ a, b ─┤ Flash-Decoding: one query each, many keys; a plan per step
                                    ├─ c ─┤─ d ─┤ FlashAttention-2: many queries, one call each

Everything in a layer but attention treats each token alone. So the model sees one long row and
reads its weights once for all of them, which is what a batch gains; only attention has to know
which token belongs to whom.

Sources: Yu et al. 2022, "Orca" (selective batching: only attention is done per request); Agrawal et
al. 2024, "Sarathi-Serve" (chunks of prompts ride along with decodes).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reference.flash_attention import flash_attention
from reference.flash_decoding import flash_decode
from reference.kv_cache import rotate
from reference.paging import PagedKVCache


def append_each(
    k_pages: Tensor,
    v_pages: Tensor,
    k: Tensor,
    v: Tensor,
    cache_seqlens: Tensor,
    *,
    block_table: Tensor,
    rotary_cos: Tensor,
    rotary_sin: Tensor,
    q: Tensor,
) -> Tensor:
    """`reference.kv_cache.append_kv` for one token in each row, all rows at once.

    k_pages, v_pages: (num_pages, page_size, Hkv, D); k, v: (B, 1, Hkv, D); q: (B, 1, Hq, D).
    cache_seqlens: int (B,), the token's place. block_table: int (B, max_pages). rotary_cos,
    rotary_sin: (max_pos, D/2). Returns the rotated q. The caller vouches for pages and places.
    """
    place, size = cache_seqlens.long(), k_pages.shape[1]
    page = block_table.gather(1, (place // size)[:, None]).squeeze(1).long()
    cell = page, place % size
    cos, sin = rotary_cos[place], rotary_sin[place]
    k_pages[cell] = rotate(k[:, 0], cos, sin).to(k_pages.dtype)
    v_pages[cell] = v[:, 0].to(v_pages.dtype)
    return rotate(q[:, 0], cos, sin).to(q.dtype)[:, None]


class Attention(NamedTuple):
    """The functions that an engine attends with; by default those that the lessons explain.

    prefill: called as `flash_attention(q, k, v, causal=True)` on one request. decode: as
    `flash_decode(q, k_pages, v_pages, lengths, causal=True, block_table=…)` on many. plan: as
    `flash_decode_plan(q, k_pages, v_pages, lengths, block_table=…)`, once per step; its result is
    handed to decode as `plan=`. None: no plan. append: as `append_each`.
    """

    prefill: Callable[..., Tensor] = flash_attention
    decode: Callable[..., Tensor] = flash_decode
    plan: Callable[..., Any] | None = None
    append: Callable[..., Tensor | None] = append_each


class Segment(NamedTuple):
    """Tokens `start … start + count − 1` of a sequence are new."""

    seq: int
    start: int
    count: int

    @property
    def stop(self) -> int:
        """How many tokens the sequence has with these."""
        return self.start + self.count


class Packed:
    """The new tokens of several sequences, as the one row that `Transformer` is given as a cache.

    cache: where they go. segments: whose they are, in the order of the row. Each sequence must have
    `start` tokens; its pages for the new ones are taken here. To the model this is a cache with one
    row, empty, with room for exactly the tokens of the step; its `attend` is an `Attention`.

    Raises ValueError for no segment, a sequence named twice or a start that is not its length;
    OutOfPages if the pages don't suffice: then some sequences have theirs, and nothing is written.
    """

    def __init__(self, cache: PagedKVCache, segments: Sequence[Segment]) -> None:
        _check(cache, segments)
        for segment in segments:
            cache.reserve([segment.seq], segment.count)
        self.cache, self.segments, self.done = cache, tuple(segments), 0
        device = cache.k.device
        seqs = [segment.seq for segment in segments]
        tables = cache.tables.block_table(seqs, device)
        counts = torch.tensor([segment.count for segment in segments], device=device)
        self.tokens = int(counts.sum())
        ends = counts.cumsum(0).tolist()
        self.spans = [slice(stop - s.count, stop) for s, stop in zip(segments, ends, strict=True)]
        self.last = torch.tensor(ends, device=device) - 1
        places = [torch.arange(s.start, s.stop, dtype=torch.int32) for s in segments]
        self.places = torch.cat(places).to(device)
        self.token_tables = tables.repeat_interleave(counts, 0)  # (T, max_pages)
        self.prompts = [i for i, segment in enumerate(segments) if segment.count > 1]
        single = [i for i, segment in enumerate(segments) if segment.count == 1]
        self.singles = self.last[single]  # where decoding tokens are in the row
        self.single_tables = tables[single]
        self.single_lengths = self.places[self.singles] + 1
        self.pages = {
            i: torch.tensor(cache.tables.pages(seqs[i]), device=device) for i in self.prompts
        }
        self._plan: Any = None

    @property
    def lengths(self) -> Tensor:
        """How many of the step's tokens are in, int32 (1,): none before the pass, all after it."""
        return torch.tensor([self.done], dtype=torch.int32)

    @lengths.setter
    def lengths(self, lengths: Tensor) -> None:
        self.done = int(lengths)
        for segment in self.segments:
            self.cache.tables.set_length(segment.seq, segment.stop)

    @property
    def room(self) -> int:
        """How many tokens of the step are still to come."""
        return self.tokens - self.done

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        angles: tuple[Tensor, Tensor],
        f: Attention,
    ) -> Tensor:
        """Write k, v `(1, T, Hkv, D)` to their pages, and let every token attend to its own."""
        pages = self.cache.k[layer], self.cache.v[layer]
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))  # (T, 1, H, D): each token a row
        where = {"block_table": self.token_tables}
        cos, sin = angles
        q = f.append(*pages, k, v, self.places, rotary_cos=cos, rotary_sin=sin, q=q, **where)
        o = torch.empty_like(q)
        if len(self.singles):
            o[self.singles] = self._decode(q[self.singles], pages, f)
        for i in self.prompts:
            o[self.spans[i], 0] = self._prefill(i, q[self.spans[i], 0], pages, f)
        return o.transpose(0, 1)

    def _decode(self, q: Tensor, pages: tuple[Tensor, Tensor], f: Attention) -> Tensor:
        """All single tokens, q (B, 1, Hq, D), by Flash-Decoding; layers share one plan."""
        where: dict[str, Any] = {"block_table": self.single_tables}
        if f.plan is not None:
            if self._plan is None:
                self._plan = f.plan(q, *pages, self.single_lengths, **where)
            where["plan"] = self._plan
        return f.decode(q, *pages, self.single_lengths, causal=True, **where)

    def _prefill(self, i: int, q: Tensor, pages: tuple[Tensor, Tensor], f: Attention) -> Tensor:
        """One prompt's tokens, q (L, Hq, D), by FlashAttention-2 over all keys up to the last."""
        stop = self.segments[i].stop
        k, v = (x.index_select(0, self.pages[i]).flatten(0, 1)[:stop] for x in pages)
        return f.prefill(q[None], k[None], v[None], causal=True)[0]


def _check(cache: PagedKVCache, segments: Sequence[Segment]) -> None:
    seqs = [segment.seq for segment in segments]
    if not seqs or len(set(seqs)) != len(seqs) or min(segment.count for segment in segments) < 1:
        raise ValueError(
            f"segments must be one or more, each of another sequence and not empty; got {segments}"
        )
    for segment in segments:
        length = cache.tables.length(segment.seq)
        if segment.start != length:
            raise ValueError(
                f"segment must start at {length}, the length of sequence {segment.seq}; "
                f"got {segment.start}"
            )
