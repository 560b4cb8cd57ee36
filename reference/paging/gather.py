"""Pages gathered into rows again, for attention that does not know block tables.

This is what a paged kernel avoids: the copy reads and writes every key once more than attention
needs to. It is of use for functions that can't be changed, and says what the block table means.
"""

from torch import Tensor

from reference.kv_cache import cells_of
from reference.transformer import Attend


def gather_pages(cache: Tensor, block_table: Tensor, cache_seqlens: Tensor) -> Tensor:
    """The keys or values of every row, in order: (B, longest, Hkv, D), 0 after a row's end.

    cache: (num_pages, page_size, Hkv, D). block_table: int (B, max_pages). cache_seqlens: int
    (B,). Reads no other cells, and of the table only the entries that lead there. Raises ValueError
    for lengths and pages that don't exist.

    >>> import torch
    >>> cache = torch.arange(6.0).view(3, 2, 1, 1)
    >>> gather_pages(cache, torch.tensor([[2, 0], [1, -1]]), torch.tensor([3, 1])).flatten(1)
    tensor([[4., 5., 0.],
            [2., 0., 0.]])

    Row 0 begins in page 2, which holds 4 and 5, and ends in page 0. Row 1 has one key.
    """
    lengths = cache_seqlens.tolist()
    rows = cache.new_zeros(len(lengths), max([0, *lengths]), *cache.shape[2:])
    for b, length in enumerate(lengths):
        rows[b, :length] = cache[cells_of(b, 0, length, cache, block_table=block_table)]
    return rows


def over_pages(attention: Attend) -> Attend:
    """Let an attention function that takes rows of a cache read pages, by copying them first."""

    def attend(
        q: Tensor, k: Tensor, v: Tensor, cache_seqlens: Tensor, *, block_table: Tensor,
        causal: bool = True,
    ) -> Tensor:  # fmt: skip
        k, v = (gather_pages(x, block_table, cache_seqlens) for x in (k, v))
        return attention(q, k, v, cache_seqlens, causal=causal)

    return attend
