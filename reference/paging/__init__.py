"""A paged KV cache: memory in pages, block tables, shared prefixes.

In reading order:

    pool            who holds which page: counts, keys, eviction
    tables          which pages a sequence has: reserve, fork, copy on write, take back
    cache           K and V of a model in those pages, as a cache that the model can be given
    gather          pages gathered into rows again, for attention without block tables
    day             a simulated day of requests: what contiguous and paged memory waste

Nothing here computes attention: that is `flash_decode(…, block_table=…)`, in `reference` and in
`kernels` alike.
"""

from reference.paging.cache import Batch, PagedKVCache
from reference.paging.gather import gather_pages, over_pages
from reference.paging.pool import OutOfPages, PagePool, page_keys
from reference.paging.tables import UNUSED, Copy, PageTables

__all__ = [
    "UNUSED",
    "Batch",
    "Copy",
    "OutOfPages",
    "PagePool",
    "PageTables",
    "PagedKVCache",
    "gather_pages",
    "over_pages",
    "page_keys",
]
