"""Caches of decoding in which every cell that may not be read is poison, as rows or as pages."""

import math

import torch
from torch import Tensor

SPARE = 3  # pages that belong to nobody


def _poison(dtype: torch.dtype) -> float:
    """NaN; in int8, which has none, −128: `quantize` never gives it."""
    return -128.0 if dtype == torch.int8 else math.nan


def dead_poisoned(x: Tensor, live: Tensor) -> Tensor:
    """A copy of x, (rows, places, ...), with poison in the cells that are not live."""
    if x.shape[:2] != live.shape:
        return x  # a scale for all tokens
    wide = x.double()  # holds every number of eight bits, and fp8 tensors can't be written to
    wide[~live] = _poison(x.dtype)
    return wide.to(x.dtype)


def paged(
    tensors: list[Tensor], live: Tensor, size: int, rng: torch.Generator
) -> tuple[list[Tensor], Tensor]:
    """Cut rows (B, capacity, ...) into pages and shuffle these; the table's dead entries are wild.

    `size` is that of a page; what a row lacks to fill its last one is poison. Entries of the table,
    int32 (B, pages), without a live cell name pages that don't exist.
    """
    B, capacity = live.shape
    rest = -capacity % size
    live = torch.nn.functional.pad(live, (0, rest))
    pages = live.numel() // size
    number = torch.randperm(pages + SPARE, generator=rng)[:pages]
    none = wild(pages + SPARE)
    none = none[torch.randint(len(none), (pages,), generator=rng)]
    table = torch.where(live.view(pages, size).any(1), number, none).view(B, -1)
    out = []
    for x in tensors:
        if x.shape[:2] == (B, capacity):
            shape = (pages + SPARE, size, *x.shape[2:])
            wide = torch.full(shape, _poison(x.dtype), dtype=torch.float64)
            filler = torch.full((B, rest, *x.shape[2:]), _poison(x.dtype), dtype=torch.float64)
            wide[number] = torch.cat([x.double(), filler], 1).reshape(pages, *shape[1:])
            x = wide.to(x.dtype)
        out.append(x)
    return out, table.int()


def wild(pages: int) -> Tensor:
    """What dead entries of a table may hold where there are so many pages, int64 (5,)."""
    return torch.tensor([-1, 2**31 - 1, -(2**31), 10**6, pages])
