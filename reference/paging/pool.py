"""Who holds which page: reference counts, contents known by hash, eviction of the oldest.

A page is in one of three states, and `allocate` looks for one from left to right:

    free        nobody holds it, and nothing in it is worth keeping
    idle        nobody holds it, but its contents are known by key: a later prompt may want them
    held        one sequence holds it, or several (a common prefix)

             allocate                     release, no key
    free  ─────────────►  held (count 1)  ───────────────►  free
                            │    ▲
             release, key   ▼    │  reuse(key)
                           idle ─┴──►  allocate evicts the page that has been idle longest

The pool knows numbers of pages and nothing else. What is in them is kept by
`reference.paging.cache`, and which sequence holds which by `reference.paging.tables`.

Sources: Kwon et al. 2023, "Efficient memory management for large language model serving with
PagedAttention", sections 4.2 to 4.4 (pages, counts, sharing); vLLM's design note "Automatic prefix
caching" (keys that chain, least recently used).
"""

import hashlib
from array import array
from collections import OrderedDict, deque
from collections.abc import Sequence


class OutOfPages(RuntimeError):
    """Fewer pages are available than were asked for. Nothing has changed."""


def page_keys(
    tokens: Sequence[int], page_size: int, *, parent: bytes = b"", salt: bytes = b""
) -> list[bytes]:
    """A name for the contents of every full page of `tokens`, 32 bytes each.

    The key of a page is a hash of the page's own tokens and of the key before it. So two pages
    have the same key only if *everything up to their end* is equal: K and V depend on all of it.
    tokens: token ids, 0 … 2^63 − 1. parent: the key of the page before the first; b"": none. salt:
    whatever else K and V depend on (the model, its dtype, an adapter). Raises ValueError for a
    page_size below 1 or a negative token.

    >>> a, b = page_keys([7, 7, 7, 7, 7], 2)
    >>> a == b, page_keys([7, 7], 2, parent=a) == [b]
    (False, True)

    Both pages hold the tokens 7, 7, but only the second one has two tokens before it. The fifth
    token fills no page and gets no key.
    """
    if page_size < 1:
        raise ValueError(f"page_size must be at least 1; got {page_size}")
    if any(token < 0 for token in tokens):
        raise ValueError(f"tokens must be at least 0; got {min(tokens)}")
    keys = []
    for start in range(0, len(tokens) - page_size + 1, page_size):
        page = array("q", tokens[start : start + page_size]).tobytes()
        parent = hashlib.sha256(parent + len(salt).to_bytes(8, "little") + salt + page).digest()
        keys.append(parent)
    return keys


class PagePool:
    """A fixed number of pages, handed out, counted and taken back.

    num_pages: at least 1; pages are numbered from 0. `references[page]` says how many sequences
    hold it. Raises ValueError for a pool without pages.

    >>> pool = PagePool(2)
    >>> page = pool.allocate()
    >>> pool.share(page)
    >>> pool.release(page), pool.available, pool.release(page), pool.available
    (None, 1, None, 2)

    Two holders: the first release leaves the page with the other, the second frees it.
    """

    def __init__(self, num_pages: int) -> None:
        if num_pages < 1:
            raise ValueError(f"num_pages must be at least 1; got {num_pages}")
        self.references = [0] * num_pages
        self.evictions = 0
        self._free = deque(range(num_pages))
        self._idle: OrderedDict[int, None] = OrderedDict()  # the longest idle first
        self._key_of: dict[int, bytes] = {}
        self._page_of: dict[bytes, int] = {}

    @property
    def num_pages(self) -> int:
        """How many pages there are in all."""
        return len(self.references)

    @property
    def available(self) -> int:
        """How many pages `allocate` can still hand out: the free and the idle ones."""
        return len(self._free) + len(self._idle)

    @property
    def free(self) -> tuple[int, ...]:
        """The pages with nothing in them, the next one to be handed out first."""
        return tuple(self._free)

    @property
    def idle(self) -> tuple[int, ...]:
        """The pages that nobody holds, with known contents, the next to be evicted first."""
        return tuple(self._idle)

    def allocate(self) -> int:
        """Hand out a page, held once: a free one, otherwise the one that has been idle longest.

        Raises OutOfPages if every page is held.
        """
        if self._free:
            page = self._free.popleft()
        elif self._idle:
            page, _ = self._idle.popitem(last=False)
            self._forget(page)
            self.evictions += 1
        else:
            raise OutOfPages(f"all {self.num_pages} pages are held; one more is wanted")
        self.references[page] = 1
        return page

    def share(self, page: int) -> None:
        """Add a holder. Raises ValueError unless somebody holds the page already."""
        self._check_held(page)
        self.references[page] += 1

    def release(self, page: int) -> None:
        """Take a holder away; after the last one, the page is idle if it has a key, else free.

        Raises ValueError for a page that nobody holds: it would be handed out twice.
        """
        self._check_held(page)
        self.references[page] -= 1
        if self.references[page] == 0:
            if page in self._key_of:
                self._idle[page] = None
            else:
                self._free.append(page)

    def record(self, page: int, key: bytes) -> None:
        """Note what a held page contains. If another page is known by this key, that one stays.

        Raises ValueError for a page that nobody holds, or that is known by another key.
        """
        self._check_held(page)
        if self._key_of.get(page, key) != key:
            raise ValueError(f"page {page} has a key already; `forget` it before it is rewritten")
        if key not in self._page_of:
            self._page_of[key], self._key_of[page] = page, key

    def forget(self, page: int) -> None:
        """Drop the key of a held page: its contents are about to change."""
        self._check_held(page)
        self._forget(page)

    def reuse(self, key: bytes) -> int | None:
        """Hold the page with these contents once more, and return it; None if there is none."""
        page = self._page_of.get(key)
        if page is not None:
            self._idle.pop(page, None)
            self.references[page] += 1
        return page

    def contains(self, key: bytes) -> bool:
        """Whether some page has these contents."""
        return key in self._page_of

    def page_of(self, key: bytes) -> int | None:
        """The page with these contents, which may be idle; None if there is none."""
        return self._page_of.get(key)

    def key_of(self, page: int) -> bytes | None:
        """What a page is known by; None: by nothing."""
        return self._key_of.get(page)

    def _forget(self, page: int) -> None:
        if (key := self._key_of.pop(page, None)) is not None:
            del self._page_of[key]

    def _check_held(self, page: int) -> None:
        if not 0 <= page < self.num_pages:
            raise ValueError(f"page must lie in 0…{self.num_pages - 1}; got {page}")
        if self.references[page] < 1:
            raise ValueError(f"page {page} must be held by somebody; nobody holds it")
