"""Decoding on more than one GPU: the cache spread over ranks, and only (o, lse) on the wire.

In reading order:

    placement     which rank holds which key: round robin, as arithmetic
    decode        each rank attends to its own keys, then they merge
    merging       the three ways to merge, and the bytes that each of them sends
    schedules     collectives as rounds of messages; collectives carries them out
    heads         tensor parallelism over heads, and both at once
    links         messages, counted; ranks as threads of one process
    group         ranks as processes: torch.distributed; watch: who failed, if one did
    selfcheck     what `python -m reference.distributed` runs; launch: starts it on several ranks

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m reference.distributed

checks all of it on two ranks of this machine, and counts the bytes that each of them sends.
"""

from reference.distributed.collectives import (
    Collectives,
    ScheduledCollectives,
    all_reduce_sent,
)
from reference.distributed.decode import (
    check_agreement,
    context_parallel_decode,
    local_attention,
    sight,
)
from reference.distributed.heads import Grid, cache_copies
from reference.distributed.links import Links, Members, RankFailed, run_ranks
from reference.distributed.merging import (
    MERGES,
    heads_of_rank,
    merge_by_gather,
    merge_by_heads,
    merge_by_reduce,
    sent_bytes,
)
from reference.distributed.placement import Placement, append_to_shard, shard

__all__ = [
    "MERGES",
    "Collectives",
    "Grid",
    "Links",
    "Members",
    "Placement",
    "RankFailed",
    "ScheduledCollectives",
    "all_reduce_sent",
    "append_to_shard",
    "cache_copies",
    "check_agreement",
    "context_parallel_decode",
    "heads_of_rank",
    "local_attention",
    "merge_by_gather",
    "merge_by_heads",
    "merge_by_reduce",
    "run_ranks",
    "sent_bytes",
    "shard",
    "sight",
]
