"""Values that a decode call may check where looking costs nothing: on the CPU.

Wrong pages and stale plans make a kernel read memory that is not its own. On a GPU the host cannot
look without waiting, so there the caller is responsible; an interpreted call raises an error.
"""

import torch
from torch import Tensor

from kernels.features import Features


def row_ends(B: int, Lq: int, k_cache: Tensor, x: Features) -> tuple[Tensor, Tensor]:
    """Return the first place that each row sees, and its length: two (B,), int64, on the CPU.

    The two are equal where a row sees nothing. Arguments as in `kernels.split`.
    """
    length = torch.full((B,), x.capacity(k_cache))
    if x.cache_seqlens is not None:
        length = x.cache_seqlens.cpu().long()
    first = torch.zeros_like(length)
    if x.cache_leftpad is not None:
        first = x.cache_leftpad.cpu().long()
    if x.sides[0] is not None:
        first = torch.maximum(first, length - Lq - x.sides[0])
    return torch.minimum(first, length), length


def check_pages_exist(Lq: int, k_cache: Tensor, x: Features) -> None:
    """Raise ValueError unless every page that a row reads exists; dead entries may be anything."""
    if x.block_table is None:
        return
    table = x.block_table.cpu()
    first, length = (n[:, None] for n in row_ends(len(table), Lq, k_cache, x))
    begin = torch.arange(table.shape[1]) * k_cache.shape[1]
    live = (first < length) & (begin < length) & (begin + k_cache.shape[1] > first)
    pages = table[live]
    if pages.numel() and not 0 <= pages.min() <= pages.max() < len(k_cache):
        raise ValueError(
            f"block_table must name pages from 0 to {len(k_cache) - 1} where a row has keys; got "
            f"pages from {pages.min()} to {pages.max()}"
        )


def check_plan_fits(
    items: Tensor, slots: Tensor, block_n: int, Lq: int, k_cache: Tensor, x: Features
) -> None:
    """Raise ValueError unless a plan covers exactly the keys that the rows have now.

    items (W, 4), slots (B + 1,): `items` and `first` of `kernels.plan.Plan`.
    """
    B = len(slots) - 1
    row, start, stop, slot = items.cpu().long().unbind(1)
    busy = row >= 0
    row, start, stop, slot = (n[busy] for n in (row, start, stop, slot))
    first, length = row_ends(B, Lq, k_cache, x)
    wanted = torch.where(first < length, length - first // block_n * block_n, 0)
    if (row < B).all():
        planned = torch.zeros_like(length).index_add(0, row, stop - start)
        inside = (start >= 0) & (start <= stop) & (stop <= length[row])
        counted = torch.bincount(row, minlength=B)
        own = (slot >= slots.cpu()[row]) & (slot < slots.cpu()[row + 1])
        agree = torch.equal(planned, wanted) and torch.equal(slots.cpu().diff(), counted.int())
        if agree and inside.all() and own.all() and slots[0] == 0:
            return
    raise ValueError(
        "plan must cover exactly the keys that the rows have now; got one made for other "
        "cache_seqlens (or padding): make a new one when they change"
    )
