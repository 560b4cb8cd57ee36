"""GPUs that talk: what a merge over ranks costs, and from which context on it pays.

    time of a step   = attention over a shard (`predict_flash_decoding`) + merge
    time of a merge  = Σ over its collectives:  base + Σ over rounds (hop + bytes / bandwidth)

The rounds and their bytes are those that `reference.distributed` carries out: the schedules are the
same objects. In a round all ranks work at once, so the slowest link that it uses decides.

Bandwidths are from published system descriptions, in one direction: half of NVLink's figure,
which counts both. They are peaks. Latencies are the constants that NCCL 2 itself predicts with (for
its low-latency protocol and ring), as torch/_inductor/comm_analysis.py of PyTorch 2.13 quotes them:
6.6 µs for a collective, 0.6 µs for each hop over NVLink, 2.7 µs for each hop over a network.

Assumed, for want of a measurement: no two messages share a link, the low-latency protocol reaches
the peak bandwidth (it does not: long messages take longer than this says), and kernels are launched
from a CUDA graph (LAUNCH_US). The schedules are textbook ones; NCCL chooses its own.

Sources: NVIDIA's and Nebius's system descriptions for MLPerf Inference 4.1 and 6.0 (H200-SXM: "18x
4th Gen NVLink, 900GB/s", "400Gbe Infiniband"; B200-SXM, 8 GPUs: "18x 5th Gen NVLink, 14.4 TB/s
aggregated", "8x ConnectX-7 IB NDR 400Gb/s"). Model: Thakur, Rabenseifner & Gropp 2005, section 3.
"""

from dataclasses import dataclass, replace

from course.hardware.launch import predict_flash_decoding
from course.hardware.sizes import check_counts, element_bytes
from course.hardware.specifications import resolve
from kernels.devices import Device
from reference.distributed.merging import MERGES, sent_bytes
from reference.distributed.schedules import (
    ALL_GATHER,
    REDUCE_SCATTER,
    best_schedule,
    shifted_all_to_all,
)

LAUNCH_US = 2.0
"""Assumed: µs from one kernel to the next in a CUDA graph."""


@dataclass(frozen=True)
class Link:
    """A way from one GPU to another: GB/s (10⁹ bytes) in one direction, µs for each hop."""

    name: str
    gbs: float
    hop_us: float


@dataclass(frozen=True)
class Cluster:
    """Many of one GPU: `inside` connects the `node` GPUs of a machine, `outside` the machines.

    base_us: what a collective costs before its first byte, µs. source: of the bandwidths.
    """

    name: str
    device: str
    node: int
    inside: Link
    outside: Link
    base_us: float = 6.6
    source: str = ""

    @classmethod
    def named(cls, name: str) -> "Cluster":
        """Return the cluster of that name. Raises ValueError, listing the known ones, if none is.

        >>> Cluster.named("H200 × 8, NVLink 4 + InfiniBand").inside.gbs
        450.0
        """
        for cluster in CLUSTERS:
            if cluster.name == name:
                return cluster
        known = "; ".join(cluster.name for cluster in CLUSTERS)
        raise ValueError(f"no cluster is called {name!r}; there are: {known}")


_NETWORK = Link("InfiniBand NDR, 400 Gb/s", 50.0, 2.7)
CLUSTERS = (
    Cluster(
        "H200 × 8, NVLink 4 + InfiniBand", "H200", 8, Link("NVLink 4", 450.0, 0.6), _NETWORK,
        source="NVIDIA, MLPerf Inference 4.1, H200-SXM-141GBx8",
    ),
    Cluster(
        "B200 × 8, NVLink 5 + InfiniBand", "B200", 8, Link("NVLink 5", 900.0, 0.6), _NETWORK,
        source="Nebius, MLPerf Inference 6.0, nebius_b200_n1",
    ),
    Cluster(
        "H200 × 1, InfiniBand only", "H200", 1, _NETWORK, _NETWORK,
        source="the same, one GPU in each machine",
    ),
)  # fmt: skip


def crosses(schedule: str, ranks: int, distance: int, node: int) -> bool:
    """Whether a round leaves a machine: some rank's partner at this distance is in another one.

    schedule: "doubling" pairs rank r with r XOR distance, the others send to r + distance.

    >>> [crosses("doubling", 16, distance, node=8) for distance in (1, 2, 4, 8)]
    [False, False, False, True]
    >>> crosses("ring", 16, 1, node=8), crosses("ring", 8, 1, node=8)
    (True, False)
    """
    for rank in range(ranks):
        other = rank ^ distance if schedule == "doubling" else (rank + distance) % ranks
        if rank // node != other // node:
            return True
    return False


def rounds_of(collective: str, schedule: str, ranks: int) -> list[tuple[int, int]]:
    """The rounds of a collective, as (distance to the partner, number of chunks sent).

    collective: "all_gather", "all_reduce" or "all_to_all". Raises ValueError for any other.

    >>> rounds_of("all_gather", "doubling", 8)
    [(1, 1), (2, 2), (4, 4)]
    """
    gather, scatter = ALL_GATHER[schedule], REDUCE_SCATTER[schedule]
    if collective not in ("all_gather", "all_reduce", "all_to_all"):
        raise ValueError(
            f"collective must be all_gather, all_reduce or all_to_all; got {collective!r}"
        )
    found = {
        "all_gather": [*gather(0, ranks)],
        "all_reduce": [*scatter(0, ranks), *gather(0, ranks)],
        "all_to_all": [*shifted_all_to_all(0, ranks)],
    }[collective]
    return [(step.to, len(step.send)) for step in found]


def collective_us(
    cluster: Cluster, collective: str, ranks: int, chunk: float, schedule: str | None = None
) -> float:
    """Predict one collective, µs. chunk: bytes of one chunk; the schedule says how many travel.

    For an all-gather a chunk is what one rank has; for an all-reduce and an all-to-all it is the
    R-th part of that. schedule: None for the one with the fewest rounds.
    """
    check_counts(ranks=ranks)
    if ranks == 1:
        return 0.0
    schedule = best_schedule(ranks) if schedule is None else schedule
    shape = "shift" if collective == "all_to_all" else schedule
    time, leaves = cluster.base_us, {}
    for distance, chunks in rounds_of(collective, schedule, ranks):
        if distance not in leaves:
            leaves[distance] = crosses(shape, ranks, distance, cluster.node)
        link = cluster.outside if leaves[distance] else cluster.inside
        time += link.hop_us + chunks * chunk / (link.gbs * 1e3)
    return time


def merge_us(
    cluster: Cluster,
    merge: str,
    ranks: int,
    *,
    rows: int,
    head_dim: int,
    dtype: str = "bf16",
    schedule: str | None = None,
) -> float:
    """Predict a merge of (o, lse) over ranks, µs; merge: as in `reference.distributed.MERGES`.

    rows: B · Lq · Hq. A reduction is two collectives: of the maxima, then of the sums.
    """
    if merge not in MERGES:
        raise ValueError(f"merge must be one of {', '.join(MERGES)}; got {merge!r}")
    packed = rows * (head_dim * element_bytes(dtype) + 4)
    if merge == "gather":
        return collective_us(cluster, "all_gather", ranks, packed, schedule)
    if merge == "heads":
        return collective_us(cluster, "all_to_all", ranks, packed / ranks, schedule)
    sizes = (4 * rows, 4 * rows * (head_dim + 1))
    return sum(collective_us(cluster, "all_reduce", ranks, n / ranks, schedule) for n in sizes)


def fastest_merge(
    cluster: Cluster, ranks: int, *, rows: int, head_dim: int, dtype: str = "bf16"
) -> str:
    """The merge that `merge_us` predicts to be the fastest.

    >>> h200 = Cluster.named("H200 × 8, NVLink 4 + InfiniBand")
    >>> [fastest_merge(h200, ranks, rows=4096, head_dim=128) for ranks in (8, 64, 256)]
    ['heads', 'reduce', 'reduce']

    64 users with 64 heads: few ranks had best share the heads out, many had best add.
    """
    shape = {"rows": rows, "head_dim": head_dim, "dtype": dtype}
    return min(MERGES, key=lambda merge: merge_us(cluster, merge, ranks, **shape))


@dataclass(frozen=True)
class Step:
    """One layer's attention in a decode step over many GPUs, µs, and bytes a rank sends.

    ranks = head_groups · context. copies: how many times every key is stored. merge: how it was
    merged, "" if there was nothing to merge.
    """

    ranks: int
    head_groups: int
    context: int
    copies: float
    merge: str
    attend_us: float
    merge_us: float
    sent: float

    @property
    def time_us(self) -> float:
        """Attention and merge, one after the other."""
        return self.attend_us + self.merge_us


def predict_step(
    cluster: Cluster,
    ranks: int,
    *,
    batch: int,
    heads: tuple[int, int],
    head_dim: int,
    length: int,
    head_groups: int | None = None,
    merge: str | None = None,
    dtype: str = "bf16",
) -> Step:
    """Predict one layer's attention over a cache that is spread over `ranks` GPUs.

    head_groups: into how many parts the KV heads are cut, the rest of the ranks share the context;
    None: as many as possible, min(ranks, Hkv). merge: None for the one that is predicted fastest.
    Raises ValueError unless head_groups divides ranks and Hkv.

    >>> h200 = Cluster.named("H200 × 8, NVLink 4 + InfiniBand")
    >>> shape = {"batch": 1, "heads": (64, 8), "head_dim": 128, "length": 1_048_576}
    >>> [round(predict_step(h200, ranks, **shape).time_us) for ranks in (1, 8, 64)]
    [1000, 134, 29]
    """
    Hq, Hkv = heads
    groups = min(ranks, Hkv) if head_groups is None else head_groups
    check_counts(ranks=ranks, head_groups=groups)
    if ranks % groups or Hkv % groups:
        raise ValueError(f"head_groups must divide ranks and Hkv; got {groups}, {ranks} and {Hkv}")
    context = ranks // groups
    own = (Hq // groups, Hkv // groups)
    rows = {"rows": batch * own[0], "head_dim": head_dim, "dtype": dtype}
    merge = fastest_merge(cluster, context, **rows) if merge is None else merge
    return Step(
        ranks,
        groups,
        context,
        1.0,
        merge if context > 1 else "",
        attention_us(cluster, batch, own, head_dim, -(-length // context), dtype),
        merge_us(cluster, merge, context, **rows),
        sent_bytes(merge, context, rows["rows"], head_dim, element_bytes(dtype)),
    )


def predict_copies(
    cluster: Cluster,
    ranks: int,
    *,
    batch: int,
    heads: tuple[int, int],
    head_dim: int,
    length: int,
    dtype: str = "bf16",
) -> Step:
    """Predict the same with heads alone: beyond Hkv ranks, each KV head is stored several times.

    Then ranks with the same KV head share its query heads, and each of them reads all of its keys.
    """
    Hq, Hkv = heads
    check_counts(ranks=ranks)
    own = (max(1, Hq // ranks), max(1, Hkv // ranks))
    time = attention_us(cluster, batch, own, head_dim, length, dtype)
    return Step(ranks, min(ranks, Hkv), 1, max(1.0, ranks / Hkv), "", time, 0.0, 0.0)


def attention_us(
    cluster: Cluster,
    batch: int,
    heads: tuple[int, int],
    head_dim: int,
    length: int,
    dtype: str = "bf16",
) -> float:
    """Predict Flash-Decoding over one GPU's keys, µs, launched from a CUDA graph."""
    device: Device = replace(resolve(cluster.device), launch_us=LAUNCH_US)
    return predict_flash_decoding(
        batch=batch, heads=heads, head_dim=head_dim, length=length, dtype=dtype, device=device
    ).time_us


def break_even(
    cluster: Cluster,
    ranks: int,
    than: int,
    *,
    batch: int,
    heads: tuple[int, int],
    head_dim: int,
    merge: str | None = None,
    dtype: str = "bf16",
    longest: int = 2**30,
) -> int | None:
    """The shortest context, as a power of two, from which `ranks` GPUs beat `than` GPUs.

    None if there is none up to `longest`. Both as `predict_step` divides them.
    """
    shape = {"batch": batch, "heads": heads, "head_dim": head_dim, "merge": merge, "dtype": dtype}
    length = 1
    while length <= longest:
        many, few = (
            predict_step(cluster, n, length=length, **shape).time_us for n in (ranks, than)
        )
        if many < few:
            return length
        length *= 2
    return None
