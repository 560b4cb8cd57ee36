"""Optional arguments of a decode call, and how they reach the kernel.

`reference.features` explains each of them; this module turns them into the NamedTuples that
`kernels.flash_decoding.split` reads. A feature that is off becomes None there, and is not compiled.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.call import Cells
from kernels.checks import Window, check_int, per_token, sides_of
from kernels.plan import Plan


class Cache(NamedTuple):
    """What the loop reads: keys, values and, if each token has its own, their scales.

    Values lie elsewhere (v_cells), or with the same strides as the keys (v_ptr alone: what is
    computed of a key's place then serves its value too). Or, both None, they are the first columns
    of the keys, as in MLA.
    """

    k_cells: Cells
    v_cells: Cells
    v_ptr: Any
    scales_of_k: Cells
    scales_of_v: Cells


class Rows(NamedTuple):
    """What is known about each row of the batch; any member may be None."""

    lengths_ptr: Any  # (B,): keys in the row
    leftpad_ptr: Any  # (B,): how many of its first keys do not count
    index_ptr: Any  # (B,): the row of the cache to read
    table_ptr: Any  # (B, max_pages): its pages
    stride_table: Any
    items_ptr: Any  # (items, 4), a plan: row, start, stop, number of the partial result


class Rules(NamedTuple):
    """The rules of a launch; None: off."""

    left: Any  # how many keys a query sees before its own position
    right: Any  # and after it
    softcap: Any
    alibi_ptr: Any  # (B, Hq) fp32
    stride_alibi_b: Any
    mask_ptr: Any  # (B, Lq, Lq): uint8 (0 hides) or floating point (added)
    stride_mask_b: Any
    stride_mask_m: Any


class HeadScale(NamedTuple):
    """A scale for all tokens of a head, or, with a stride of 0, of all heads."""

    ptr: Any  # None: no such scale
    stride_b: Any  # from row to row of the batch; None: all rows share it
    stride_h: Any


class HeadScales(NamedTuple):
    """The scales of a quantised cache that do not change from token to token."""

    of_k: HeadScale
    of_v: HeadScale


@dataclass(frozen=True)
class Features:
    """The keywords of `kernels.flash_decoding.flash_decode` beyond plain attention; None: off.

    k_scale, v_scale: of int8, float8_e5m2 or float8_e4m3fn caches, the last of which NVIDIA's GPUs
    read from sm_89 on.
    """

    cache_seqlens: Tensor | None = None
    cache_batch_idx: Tensor | None = None
    cache_leftpad: Tensor | None = None
    block_table: Tensor | None = None
    window: Window = None
    softcap: float | None = None
    sinks: Tensor | None = None
    alibi_slopes: Tensor | None = None
    mask: Tensor | None = None
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None

    @property
    def sides(self) -> tuple[int | None, int | None]:
        """The window as (left, right): how many places before and after its own a query sees."""
        return sides_of(self.window)

    @property
    def bends(self) -> bool:
        """Whether a rule changes scores, rather than only hides them."""
        added = self.mask is not None and self.mask.dtype != torch.bool
        return added or self.softcap is not None or self.alibi_slopes is not None

    def capacity(self, k_cache: Tensor) -> int:
        """Return how many keys a row of k_cache (B or pages, Lk or page size, Hkv, D) can have."""
        pages = 1 if self.block_table is None else self.block_table.shape[1]
        return k_cache.shape[1] * pages

    def span(self, k_cache: Tensor, Lq: int) -> int:
        """Return how many keys a row can see: its capacity, or fewer with a window."""
        capacity, left = self.capacity(k_cache), self.sides[0]
        return capacity if left is None else min(capacity, left + Lq)

    def rows(self, items: Tensor | None = None) -> Rows:
        """Return what the kernel gets about the rows; items: those of a plan."""
        table = self.block_table
        return Rows(
            lengths_ptr=self.cache_seqlens,
            leftpad_ptr=self.cache_leftpad,
            index_ptr=self.cache_batch_idx,
            table_ptr=table,
            stride_table=None if table is None else table.stride(0),
            items_ptr=items,
        )

    def rules(self, causal: bool, max_len: int) -> Rules:
        """Return what happens to the scores; max_len: keys that a row can have."""
        alibi, mask = self.alibi_slopes, self.mask
        # A window wider than the cache hides nothing, and could overflow 2^31 in the kernel's sums.
        left, right = (None if side is None else min(side, max_len) for side in self.sides)
        if mask is not None and mask.dtype == torch.bool:
            mask = mask.view(torch.uint8)
        return Rules(
            left=left,
            right=None if causal else right,  # a causal query sees nothing after it anyway
            softcap=self.softcap,
            alibi_ptr=alibi,
            stride_alibi_b=_row_stride(alibi, 2),
            mask_ptr=mask,
            stride_mask_b=_row_stride(mask, 3),
            stride_mask_m=None if mask is None else mask.stride(-2),
        )

    def cache(self, k_cache: Tensor, v_cache: Tensor | None) -> Cache:
        """Return where keys, values and per-token scales lie in memory."""
        k_scales, v_scales = (
            Cells(x, *x.stride()) if x is not None and per_token(x) else None
            for x in (self.k_scale, self.v_scale)
        )
        v_cells = v_ptr = None
        if v_cache is not None and v_cache.stride() == k_cache.stride():
            v_ptr = v_cache
        elif v_cache is not None:
            v_cells = Cells(v_cache, *v_cache.stride()[:3])
        return Cache(Cells(k_cache, *k_cache.stride()[:3]), v_cells, v_ptr, k_scales, v_scales)

    def arguments(
        self, k_cache: Tensor, v_cache: Tensor | None, causal: bool, items: Tensor | None
    ) -> dict[str, NamedTuple]:
        """Return what the kernel gets about the features, in the order of its parameters."""
        return {
            "cache": self.cache(k_cache, v_cache),
            "head_scales": self.head_scales(),
            "rows": self.rows(items),
            "rules": self.rules(causal, self.capacity(k_cache)),
        }

    def head_scales(self) -> HeadScales:
        """Return the scales that apply to a whole row, head or tensor."""
        return HeadScales(*(_head_scale(x) for x in (self.k_scale, self.v_scale)))


@dataclass(frozen=True)
class Splits:
    """At most one of num_splits, split_size (in keys) and plan; if none, the heuristic chooses.

    num_sms: SMs to fill, if the number is to be chosen; those of the GPU if None.
    """

    num_splits: int | None = None
    split_size: int | None = None
    plan: Plan | None = None
    num_sms: int | None = None

    def check(self) -> None:
        """Raise TypeError or ValueError unless the choice is unambiguous and the numbers valid."""
        chosen = [x for x in ("num_splits", "split_size", "plan") if getattr(self, x) is not None]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} each cut the keys their own way: give one")
        for name in ("num_splits", "split_size", "num_sms"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1)

    def check_fits(self, block_n: int, B: int, Lq: int, max_len: int, features: Features) -> None:
        """Raise TypeError or ValueError unless split size and plan fit the call.

        block_n: keys per block. max_len: keys that a row can have.
        """
        if self.split_size is not None and self.split_size % block_n:
            raise ValueError(
                f"split_size must be a multiple of {block_n}, the block of this kernel; got "
                f"{self.split_size}"
            )
        if self.plan is None:
            return
        if not isinstance(self.plan, Plan):
            raise TypeError(f"plan must be a kernels.plan.Plan; got {type(self.plan).__name__}")
        items, slots = self.plan.items, self.plan.first_slot
        for name, x, fits in (
            ("items", items, isinstance(items, Tensor) and items.shape[1:] == (4,)),
            ("first_slot", slots, isinstance(slots, Tensor) and slots.shape == (B + 1,)),
        ):
            if not fits or x.dtype != torch.int32 or not x.is_contiguous():
                raise ValueError(f"plan.{name} is not what `flash_decode_plan` makes")
        wanted = {
            "block_n": block_n,
            "B": B,
            "Lq": Lq,
            "max_len": max_len,
            "left": features.sides[0],
            "padded": features.cache_leftpad is not None,
        }
        made_for = {name: getattr(self.plan, name) for name in wanted}
        if made_for != wanted:
            raise ValueError(
                f"plan must be made for this call, {wanted}; got one for {made_for} "
                "(left: of the window, padded: with cache_leftpad)"
            )


def come_in_pairs(q: Tensor, k_cache: Tensor, v_cache: Tensor | None) -> bool:
    """Say whether caches of eight bits can be read two columns at a time (`eight_bits`)."""
    caches = (k_cache,) if v_cache is None else (k_cache, v_cache)
    if q.element_size() != 2 or any(x.data_ptr() % 16 for x in caches):
        return False
    return all(n % 2 == 0 for x in caches for n in (*x.stride()[:3], x.shape[3]))


def _row_stride(x: Tensor | None, ndim: int) -> int | None:
    """Elements from one row of the batch to the next; 0 where all rows share x."""
    return None if x is None else x.stride(0) if x.ndim == ndim else 0


def _head_scale(x: Tensor | None) -> HeadScale:
    """Return a scale (), (1,), (Hkv,) or (B, Hkv) for a kernel; none if each token has its own."""
    if x is None or per_token(x):
        return HeadScale(None, None, None)
    if x.ndim == 2:
        return HeadScale(x, *x.stride())
    return HeadScale(x, None, x.stride(0) if x.numel() > 1 else 0)
