"""How the caller wants the keys cut: a number of splits, a split size, or a plan.

num_splits   fast: the programs fill the GPU. Where a row is cut depends on its length and on
             the number, which depends on the batch; so do the last bits of the answer.
split_size   batch-invariant: split s of a row is its keys s·size … (s + 1)·size - 1, whatever
             else is in the batch, and its bits are the same too.
plan         balanced: a ragged batch in chunks of equal size (`kernels.plan`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.plan import Plan


@dataclass(frozen=True)
class Splits:
    """At most one of num_splits, split_size (in keys) and plan; if none, the heuristic chooses.

    num_sms: SMs to fill, if the number is to be chosen; those of the GPU if None.
    """

    num_splits: int | None = None
    split_size: int | None = None
    plan: Plan | None = None
    num_sms: int | None = None

    def check(self, *, block_n: int, **call: int | bool | None) -> None:
        """Raise TypeError or ValueError unless the choice is unambiguous and fits the call.

        block_n: keys per block. call: B, Lq, max_len, left, padded, as in `kernels.plan.Plan`.
        """
        chosen = [x for x in ("num_splits", "split_size", "plan") if getattr(self, x) is not None]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} each cut the keys their own way: give one")
        for name in ("num_splits", "split_size", "num_sms"):
            number = getattr(self, name)
            if number is None:
                continue
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"{name} must be an int or None; got {number!r}")
            if not 1 <= number < 2**31:
                raise ValueError(f"{name} must be at least 1; got {number}")
        if self.split_size is not None and self.split_size % block_n:
            raise ValueError(
                f"split_size must be a multiple of {block_n}, the block of this kernel; got "
                f"{self.split_size}"
            )
        if self.plan is not None:
            self._check_plan(block_n=block_n, **call)

    def _check_plan(self, **wanted: int | bool | None) -> None:
        if not isinstance(self.plan, Plan):
            raise TypeError(f"plan must be a kernels.plan.Plan; got {type(self.plan).__name__}")
        items, first, B = self.plan.items, self.plan.first, wanted["B"]
        for name, x, fits in (
            ("items", items, isinstance(items, Tensor) and items.shape[1:] == (4,)),
            ("first", first, isinstance(first, Tensor) and first.shape == (B + 1,)),
        ):
            if not fits or x.dtype != torch.int32 or not x.is_contiguous():
                raise ValueError(f"plan.{name} is not what `flash_decode_plan` makes")
        made_for = {name: getattr(self.plan, name) for name in wanted}
        if made_for != wanted:
            raise ValueError(
                f"plan must be made for this call, {wanted}; got one for {made_for} "
                "(left: of the window, padded: with cache_leftpad)"
            )
