"""Three ways for R ranks to merge what each found over its own keys: (o, lse) and nothing else.

    gather   all-gather (o, lse); every rank merges all R            (R − 1) · n        everything
    reduce   all-reduce the max of lse, then the rescaled sums       2 (R − 1)/R · n₃₂  everything
    heads    all-to-all: rank r gets the R partials of its heads     (R − 1)/R · n      its heads

The third column is what a rank sends, n being the bytes of its (o, lse): for every row (one query
of one head) D numbers in o's dtype and one fp32. A `reduce` adds, so it carries fp32 sums, and two
more numbers a row: n₃₂. The fourth column is what a rank has in the end. None of the three depends
on the length of the context.

`heads` suits tensor-parallel models: the next matrix product wants each rank to have a part of
the heads anyway.

Sources: the merge: `reference.online_softmax.merge_states`. gather and heads: Bhatia et al. 2025,
"Helix Parallelism" (all-to-all over heads), and SGLang's documentation, "Decode context
parallelism" (o and lse in one packed all-to-all).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from reference.distributed.collectives import Collectives
from reference.distributed.links import nothing_like
from reference.online_softmax import merge_states, rescale

Merge = Callable[[Tensor, Tensor, Collectives], tuple[Tensor, Tensor]]


def pack(o: Tensor, lse: Tensor) -> Tensor:
    """o (..., D) and lse (...) side by side as bytes, uint8 (..., bytes of both): one message."""
    lse = lse.contiguous()[..., None]
    return torch.cat([o.contiguous().view(torch.uint8), lse.view(torch.uint8)], -1)


def unpack(packed: Tensor, o: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """The (o, lse) that `pack` packed; o and lse here only say in which dtypes."""
    cut = o.shape[-1] * o.element_size()
    found = packed[..., :cut].contiguous().view(o.dtype)
    return found, packed[..., cut:].contiguous().view(lse.dtype)[..., 0]


def merge_by_gather(o: Tensor, lse: Tensor, collectives: Collectives) -> tuple[Tensor, Tensor]:
    """All-gather every rank's (o, lse) and merge them, in the order of the ranks.

    o: (..., D), normalised over this rank's keys; lse: (...), natural log, −inf where it has none.
    Returns the merged o, in its dtype, and lse, on every rank with the same bits.
    """
    gathered = collectives.all_gather(pack(o, lse))
    return merge_states(*unpack(gathered, o, lse))


def merge_by_reduce(o: Tensor, lse: Tensor, collectives: Collectives) -> tuple[Tensor, Tensor]:
    """All-reduce the largest lse, then Σ w·o and Σ w with w = exp(lse − largest).

    Arguments and results as in `merge_by_gather`. The sums are those of the softmax itself: every
    rank moves its partial to a common ruler, and then they simply add. fp32, or fp64 for fp64.
    """
    wide = torch.promote_types(torch.promote_types(o.dtype, lse.dtype), torch.float32)
    largest = collectives.all_reduce(lse.to(wide), "max")  # (...)
    weight = rescale(lse.to(wide), largest)[..., None]  # (..., 1); 0 where no rank has a key
    sums = torch.cat([weight * o.to(wide), weight], -1)  # (..., D + 1)
    sums = collectives.all_reduce(sums, "sum")
    total = sums[..., -1]
    empty = total == 0
    merged = sums[..., :-1] / torch.where(empty, 1.0, total)[..., None]
    return merged.to(o.dtype), torch.where(empty, -torch.inf, largest + total.log())


def merge_by_heads(o: Tensor, lse: Tensor, collectives: Collectives) -> tuple[Tensor, Tensor]:
    """All-to-all over the heads: rank r gets all partials of its heads, and merges those.

    o: (B, Lq, Hq, D); lse: (B, Lq, Hq). Returns the merged o and lse of this rank's heads alone,
    `heads_of_rank(Hq, R)[rank]`; where R does not divide Hq, the first ranks have one more.
    """
    B, Lq, _, _ = o.shape
    parts = [x.contiguous() for x in pack(o, lse).tensor_split(collectives.ranks, dim=2)]
    mine = parts[collectives.rank]
    likes = [nothing_like((B, Lq, *mine.shape[2:]), mine)] * collectives.ranks
    received = torch.stack(collectives.all_to_all(parts, likes))
    return merge_states(*unpack(received, o, lse))


def heads_of_rank(Hq: int, ranks: int) -> list[range]:
    """Which heads each rank has after `merge_by_heads`: as equal as can be, the first ones more.

    >>> heads_of_rank(8, 3)
    [range(0, 3), range(3, 6), range(6, 8)]
    """
    cuts = [Hq // ranks * r + min(r, Hq % ranks) for r in range(ranks + 1)]
    return [range(a, b) for a, b in pairwise(cuts)]


MERGES: dict[str, Merge] = {
    "gather": merge_by_gather,
    "reduce": merge_by_reduce,
    "heads": merge_by_heads,
}


def sent_bytes(merge: str, ranks: int, rows: int, D: int, o_bytes: int = 2) -> float:
    """What the formulas say one rank sends to merge its partials, bytes.

    rows: B · Lq · Hq; o_bytes: 2 for a bf16 or fp16 o, 4 for fp32. Exact where `ranks` divides
    the heads (heads), or the numbers to add up (reduce); an average over the ranks otherwise.

    >>> [round(sent_bytes(merge, ranks=8, rows=64, D=128)) for merge in MERGES]
    [116480, 58240, 14560]

    One token of a model with 64 heads: between 14 and 114 KiB per layer, for any context.
    """
    if merge not in MERGES:
        raise ValueError(f"merge must be one of {', '.join(MERGES)}; got {merge!r}")
    others = ranks - 1
    packed = rows * (D * o_bytes + 4)
    if merge == "gather":
        return others * packed
    if merge == "heads":
        return others / ranks * packed
    return 2 * others / ranks * rows * 4 * (1 + D + 1)  # the maxima; then D sums and the total
