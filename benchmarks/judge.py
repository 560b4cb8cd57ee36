"""Is a timed answer right? Judged against fp64, at the very shape and on the very data timed.

fp64 scores of a whole batch would not fit next to the caches, so attention is recomputed in fp64
for 4 to 64 (row, KV head) pairs, evenly spread; the shorter the rows, the more pairs. All outputs
have to be finite. Our own kernels have to meet the course's rule (`reference.closeness`). A peer
only has to compute the same function: it is allowed 16 times the error of plain PyTorch in the
same dtype, since it sums in another order and some peers round more often.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from reference.attention import attention, oracle
from reference.closeness import compare

Row = Callable[[int, int], tuple[Tensor, Tensor]]
"""row(b, h): the exact keys and values (n, D) that row b, KV head h attends to."""

KEYS = 2**20  # the truth is computed for about this many keys in all, or for the fewest pairs
LEAST_PAIRS, MOST_PAIRS = 4, 64
PEER_RATIO = {"max_ratio": 16.0, "mean_ratio": 16.0}


class Judge:
    """Truth and baseline for one set of inputs; `judge(name, ours)` makes a check of outputs."""

    def __init__(self, q: Tensor, row: Row, *, kv_heads: int, longest: int) -> None:
        """q (B, 1, Hq, D); row: see `Row`; longest: keys in the longest row."""
        B, kv_pairs = q.shape[0], q.shape[0] * kv_heads
        self.shape, self.G = q.shape, q.shape[2] // kv_heads
        pairs = min(kv_pairs, MOST_PAIRS, max(LEAST_PAIRS, KEYS // max(longest, 1)))
        spread = [round(i * (kv_pairs - 1) / max(pairs - 1, 1)) for i in range(pairs)]
        self.pairs = [(i % B, i // B) for i in spread]
        truth, baseline = [], []
        for b, h in self.pairs:
            k, v = (x[None, :, None] for x in row(b, h))
            part = self._part(q, b, h)
            truth.append(oracle(part, k, v)[0])
            baseline.append(attention(part, k.to(q.dtype), v.to(q.dtype)))
        self.truth, self.baseline = torch.cat(truth), torch.cat(baseline)

    def _part(self, x: Tensor, b: int, h: int) -> Tensor:
        return x[b : b + 1, :, h * self.G : (h + 1) * self.G]

    def __call__(self, name: str, ours: bool) -> Callable[[Tensor], str]:
        """A function that says what is wrong with an output (B, 1, Hq, Dv): "" if nothing."""

        def problem(o: Tensor) -> str:
            if o.shape[:3] != self.shape[:3]:
                return f"shape {tuple(o.shape)}"
            if not o.isfinite().all():
                return "inf or nan"
            got = torch.cat([self._part(o, b, h) for b, h in self.pairs])
            ratio = {} if ours else PEER_RATIO
            closeness = compare(got, self.baseline, self.truth, name=name, **ratio)
            return "" if closeness.ok else str(closeness)

        return problem


def full_rows(k: Tensor, v: Tensor) -> Row:
    """Rows of full caches (B, Lk, Hkv, D)."""
    return lambda b, h: (k[b, :, h], v[b, :, h])
