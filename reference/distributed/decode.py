"""Context-parallel decoding: the cache lies on many ranks, the query goes to all of them.

    rank 0   q over its keys ─► o₀, lse₀ ─┐
    rank 1   q over its keys ─► o₁, lse₁ ─┼─► merge ─► o, lse
    rank 2   q over its keys ─► o₂, lse₂ ─┘
             flash_decode        only (o, lse) travels

It is Flash-Decoding once more, with a rank for a split: keys and values stay where they are, and
what travels does not grow with the context.

**Several new tokens.** Query i must not see the keys after its own place, wherever those lie. A
shard keeps its keys in the order of their places, so what query i sees of it is a prefix of
`Placement.seen` keys. These prefixes do not grow by one from query to query, as bottom-right
causality has it: with round robin some new tokens lie here, and some do not. But only the last
Lq − 1 places of the row are hidden from anybody, so here at most the shard's last Lq − 1 keys
are. `flash_decode`'s `mask`, new token against new token, covers the last Lq keys: one call, one
pass over the shard, and exact.

Sources: Yang et al. 2024, "Context Parallelism for Scalable Million-Token Inference"; Bhatia et al.
2025, "Helix Parallelism". Neither moves keys in decoding; Liu et al. 2023, "Ring Attention", moves
them around a ring instead, which suits training, with as many queries as keys.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from reference.distributed.collectives import Collectives
from reference.distributed.merging import MERGES
from reference.distributed.placement import Placement
from reference.flash_decoding import flash_decode

Attend = Callable[..., tuple[Tensor, Tensor]]


def local_attention(
    q: Tensor,
    k_shard: Tensor,
    v_shard: Tensor,
    lengths: Tensor,
    placement: Placement,
    rank: int,
    *,
    causal: bool = True,
    scale: float | None = None,
    attend: Attend = flash_decode,
) -> tuple[Tensor, Tensor]:
    """Attention of q over the keys of one rank alone.

    q: (B, Lq, Hq, D), the newest Lq tokens; k_shard, v_shard: (B, capacity, Hkv, D or Dv), the
    keys that `placement` gives this rank, in the order of their places; lengths: int (B,), of the
    whole rows. attend: any function with the signature of `flash_decode`, from `reference` or
    `kernels`. Returns o (B, Lq, Hq, Dv), normalised over these keys, and lse (B, Lq, Hq): (0,
    −inf) for a query that sees none of them. Raises what `attend` raises.
    """
    held = placement.count(rank, lengths)  # (B,)
    if not held.any():  # an empty shard: no kernel to start
        o = q.new_zeros(*q.shape[:3], v_shard.shape[3])
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        return o, torch.full(q.shape[:3], -torch.inf, dtype=wide, device=q.device)
    mask = sight(placement, rank, lengths, q.shape[1]) if causal and q.shape[1] > 1 else None
    options: dict[str, Any] = {} if mask is None else {"mask": mask}
    return attend(q, k_shard, v_shard, held, causal=False, scale=scale, return_lse=True, **options)


def sight(placement: Placement, rank: int, lengths: Tensor, Lq: int) -> Tensor:
    """Which of the last Lq keys of its shard each new token may see: bool (B, Lq, Lq).

    lengths: int (B,), of the whole rows. Column c is the shard's key `held − Lq + c`; columns of
    keys that do not exist are True, and never looked at.

    >>> sight(Placement(ranks=2), 0, torch.tensor([5]), Lq=3).int()
    tensor([[[1, 1, 0],
             [1, 1, 0],
             [1, 1, 1]]], dtype=torch.int32)

    Rank 0 holds places 0, 2 and 4; the queries are at 2, 3 and 4. Only the last one sees place 4.
    """
    held = placement.count(rank, lengths)[:, None] - Lq + torch.arange(Lq, device=lengths.device)
    seen = placement.seen(rank, lengths, Lq)  # (B, Lq)
    return (held[:, None, :] < seen[:, :, None]) | (held < 0)[:, None, :]


def context_parallel_decode(
    q: Tensor,
    k_shard: Tensor,
    v_shard: Tensor,
    lengths: Tensor,
    placement: Placement,
    collectives: Collectives,
    *,
    causal: bool = True,
    scale: float | None = None,
    merge: str = "gather",
    attend: Attend = flash_decode,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of the newest Lq tokens over a cache that is spread over all ranks.

    Every rank calls it, with the same q (B, Lq, Hq, D) and lengths, int (B,), of the whole rows,
    and with its own shard; see `local_attention`. merge: "gather" or "reduce": every rank returns
    all heads; "heads": rank r returns `heads_of_rank(Hq, R)[r]`.
    Returns o (B, Lq, heads, Dv), in the dtype of q, and with return_lse lse (B, Lq, heads),
    natural log. Up to rounding it is what `flash_decode` gives over the whole cache.
    Raises ValueError for an unknown merge, or for a placement on another number of ranks;
    what `attend` raises; RankFailed if another rank fails.
    """
    if merge not in MERGES:
        raise ValueError(f"merge must be one of {', '.join(MERGES)}; got {merge!r}")
    if placement.ranks != collectives.ranks:
        raise ValueError(
            f"the placement must be on {collectives.ranks} ranks; got one on {placement.ranks}"
        )
    options: dict[str, Any] = {"causal": causal, "scale": scale, "attend": attend}
    rank = collectives.rank
    o, lse = local_attention(q, k_shard, v_shard, lengths, placement, rank, **options)
    o, lse = MERGES[merge](o, lse, collectives)
    return (o, lse) if return_lse else o


def check_agreement(q: Tensor, lengths: Tensor, collectives: Collectives) -> None:
    """Raise ValueError, on every rank alike, unless all ranks were given the same kind of call.

    Compares q's shape and dtype and the lengths. What travels has the shape of q, so ranks that
    differ would wait for bytes that never come, or worse, take some for others. It costs one small
    all-gather: call it when a batch changes rather than in every layer.
    """
    kind = f"{q.dtype} {tuple(q.shape)}, lengths {lengths.tolist()}"
    digest = sha256(kind.encode()).digest()
    own = torch.tensor(list(digest), dtype=torch.uint8, device=q.device)
    found = collectives.all_gather(own)
    odd = [rank for rank, other in enumerate(found) if not torch.equal(other, found[0])]
    if odd:
        raise ValueError(
            f"all ranks must be given the same q and lengths; ranks {odd} differ from rank 0, "
            f"and rank {collectives.rank} has {kind}"
        )
