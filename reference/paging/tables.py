"""Block tables: which pages a sequence has, in which order; fork, copy on write, take back.

    sequence 0   "the cat sat on"        table [4, 1]          pages of 8 tokens
    fork         sequence 1 = same       table [4, 1]          pages 4 and 1 are held twice
    append to 1  place 14 is in page 1   table [4, 6]          page 6 is a copy of page 1: written
                 of sequence 0, too                            there, sequence 0 never notices

A full page is never written again, so it can be shared for good. Only the last page of a
sequence grows, and only if it is shared does somebody pay for a copy: at most one page per fork.

Source: Kwon et al. 2023, "PagedAttention", sections 4.3 and 4.4.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reference.paging.pool import OutOfPages, PagePool, page_keys

UNUSED = -1
"""What a block table holds after a sequence's last page. Never followed."""


@dataclass
class Held:
    """What a sequence holds: its pages in order, and how many tokens are in them."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


@dataclass(frozen=True)
class Copy:
    """The first `filled` slots of page `source` have to be copied to page `target`."""

    source: int
    target: int
    filled: int


class PageTables:
    """Sequences in pages of one pool. A sequence is named by a number that `new` hands out.

    num_pages, page_size: both at least 1; any size will do. Raises ValueError for others, and every
    method KeyError for a sequence that is not there, or was freed.

    >>> tables = PageTables(num_pages=4, page_size=2)
    >>> a = tables.new()
    >>> tables.reserve([a], 3), tables.pages(a)
    ([], (0, 1))
    >>> tables.set_length(a, 3)
    >>> b = tables.fork(a)
    >>> tables.reserve([b], 1), tables.pages(b)
    ([Copy(source=1, target=2, filled=1)], (0, 2))

    Three tokens need two pages. b shares them, until it wants to write its fourth token beside
    the third one of a: then it gets a page of its own, with that third token in it.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        if page_size < 1:
            raise ValueError(f"page_size must be at least 1; got {page_size}")
        self.pool = PagePool(num_pages)
        self.page_size = page_size
        self._held: dict[int, Held] = {}
        self._next = 0

    def __contains__(self, seq: int) -> bool:
        return seq in self._held

    @property
    def sequences(self) -> tuple[int, ...]:
        """All sequences that have not been freed, the oldest first."""
        return tuple(self._held)

    def new(self) -> int:
        """Begin an empty sequence; it holds no page."""
        self._held[self._next] = Held()
        self._next += 1
        return self._next - 1

    def fork(self, seq: int) -> int:
        """Begin a sequence with the tokens of `seq`, in the same pages; nothing is copied."""
        parent = self._of(seq)
        pages = parent.pages[: self._pages_for(parent.length)]
        for page in pages:
            self.pool.share(page)
        child = self.new()
        self._held[child] = Held(list(pages), parent.length)
        return child

    def free(self, seq: int) -> None:
        """End a sequence, and release its pages.

        The last page first: of a prefix that many prompts begin with, the front is what should stay
        longest, and what has been idle longest is evicted first.
        """
        for page in reversed(self._of(seq).pages):
            self.pool.release(page)
        del self._held[seq]

    def length(self, seq: int) -> int:
        """How many tokens a sequence has."""
        return self._of(seq).length

    def pages(self, seq: int) -> tuple[int, ...]:
        """The pages of a sequence, in the order of its tokens."""
        return tuple(self._of(seq).pages)

    def set_length(self, seq: int, length: int) -> None:
        """Say how many tokens are in, after writing, or to take tokens back.

        Pages that hold no token then are released. Raises ValueError for a negative length, or one
        that the sequence's pages have no room for.
        """
        held = self._of(seq)
        room = len(held.pages) * self.page_size
        if not 0 <= length <= room:
            raise ValueError(
                f"length must lie in 0…{room}, the room in sequence {seq}'s pages; got {length}"
            )
        held.length, keep = length, self._pages_for(length)
        while len(held.pages) > keep:
            self.pool.release(held.pages.pop())

    def wanted(self, seqs: Iterable[int], count: int) -> int:
        """How many pages `reserve` would take from the pool: new ones and copies."""
        holders, pages = Counter(), 0
        for seq in seqs:
            held = self._of(seq)
            pages += max(0, self._pages_for(held.length + count) - len(held.pages))
            if count and (last := self._growing(held)) is not None:
                holders[last] += 1
        # Of r holders, the last one to write needs no copy: the page is its own by then.
        return pages + sum(min(n, self.pool.references[p] - 1) for p, n in holders.items())

    def reserve(self, seqs: Sequence[int], count: int) -> list[Copy]:
        """Make sure that each sequence can write its next `count` tokens into pages of its own.

        Returns the copies that have to be made before anything is written. A second call takes
        nothing more. Raises OutOfPages, ValueError for a negative count or a sequence named twice;
        then nothing has changed.
        """
        if count < 0 or len(set(seqs)) != len(seqs):
            raise ValueError(
                f"count must be at least 0, and no sequence twice; got {count} for {[*seqs]}"
            )
        wanted = self.wanted(seqs, count)
        if wanted > self.pool.available:
            raise OutOfPages(
                f"{wanted} more pages of {self.page_size} tokens are wanted for {count} tokens in "
                f"each of {len(seqs)} sequences; {self.pool.available} of {self.pool.num_pages} "
                "are available"
            )
        copies = []
        for seq in seqs if count else ():
            held = self._of(seq)
            if (last := self._growing(held)) is not None:
                if self.pool.references[last] > 1:
                    own = held.pages[held.length // self.page_size] = self.pool.allocate()
                    copies.append(Copy(last, own, held.length % self.page_size))
                    self.pool.release(last)
                else:
                    self.pool.forget(last)  # full and known once, then tokens were taken back
            while len(held.pages) < self._pages_for(held.length + count):
                held.pages.append(self.pool.allocate())
        return copies

    def known(self, tokens: Sequence[int], *, salt: bytes = b"") -> tuple[int, ...]:
        """The pages in which the front of `tokens` is already there; `adopt` would take them.

        Whole pages, and never the last token, since its logits are wanted and only running the
        model gives them.
        """
        keys = page_keys(tokens[: max(0, len(tokens) - 1)], self.page_size, salt=salt)
        found = (self.pool.page_of(key) for key in keys)
        return tuple(itertools.takewhile(lambda page: page is not None, found))

    def adopt(self, seq: int, tokens: Sequence[int], *, salt: bytes = b"") -> int:
        """Give an empty sequence the pages in which the front of `tokens` is already there.

        Returns how many tokens these are: see `known`. Raises ValueError if seq has tokens.
        """
        held = self._of(seq)
        if held.length or held.pages:
            raise ValueError(f"sequence {seq} must be empty; it has {held.length} tokens")
        for page in self.known(tokens, salt=salt):
            held.pages.append(self.pool.reuse(self.pool.key_of(page)))
        held.length = len(held.pages) * self.page_size
        return held.length

    def record(self, seq: int, tokens: Sequence[int], *, salt: bytes = b"") -> None:
        """Note what the full pages of a sequence contain, so that `adopt` finds them.

        tokens: all that are in it, from the first. Raises ValueError for another number.
        """
        held = self._of(seq)
        if len(tokens) != held.length:
            raise ValueError(f"sequence {seq} has {held.length} tokens; got {len(tokens)}")
        keys = page_keys(tokens, self.page_size, salt=salt)
        for page, key in zip(held.pages, keys, strict=False):
            self.pool.record(page, key)

    def block_table(self, seqs: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """The pages of these sequences, int32 (B, max_pages); UNUSED after a row's last page."""
        rows = [self._of(seq).pages for seq in seqs]
        table = torch.full((len(rows), max([1, *map(len, rows)])), UNUSED, dtype=torch.int32)
        for b, pages in enumerate(rows):
            table[b, : len(pages)] = torch.tensor(pages, dtype=torch.int32)
        return table.to(device)

    def _growing(self, held: Held) -> int | None:
        """The page that the next token shares with tokens that are in; None: it begins a page."""
        return held.pages[held.length // self.page_size] if held.length % self.page_size else None

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def _of(self, seq: int) -> Held:
        if seq not in self._held:
            raise KeyError(f"sequence {seq} is not there, or was freed; there are {[*self._held]}")
        return self._held[seq]
