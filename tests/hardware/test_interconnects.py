"""course.hardware.interconnects: a model of merges over many GPUs, and of a prefix read once."""

import doctest

import pytest

from course.hardware import interconnects, shared_prefix
from course.hardware.interconnects import (
    CLUSTERS,
    Cluster,
    Link,
    break_even,
    collective_us,
    crosses,
    fastest_merge,
    merge_us,
    predict_copies,
    predict_step,
    rounds_of,
)
from course.hardware.shared_prefix import passes, prefix_bytes, shortest_that_pays
from reference.distributed import MERGES, sent_bytes
from reference.distributed.schedules import ALL_GATHER, REDUCE_SCATTER, shifted_all_to_all

SHAPE = {"batch": 1, "heads": (64, 8), "head_dim": 128}
ONE = Cluster("one link", "H200", 8, *[Link("all alike", 100.0, 2.0)] * 2, base_us=5.0)


@pytest.mark.parametrize("module", [interconnects, shared_prefix])
def test_examples(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_a_collective_by_hand():
    """Four ranks on a ring, 1 MB each, 100 GB/s: 10 µs a MB, 2 µs a hop, 5 µs to begin."""
    assert collective_us(ONE, "all_gather", 4, 1e6, "ring") == pytest.approx(5 + 3 * (2 + 10))
    assert collective_us(ONE, "all_gather", 4, 1e6, "doubling") == pytest.approx(5 + 2 * 2 + 30)
    assert collective_us(ONE, "all_reduce", 4, 1e6, "ring") == pytest.approx(5 + 6 * (2 + 10))
    assert collective_us(ONE, "all_to_all", 4, 1e6) == pytest.approx(5 + 3 * (2 + 10))
    assert collective_us(ONE, "all_gather", 1, 1e6) == 0


@pytest.mark.parametrize("ranks", [2, 4, 8, 16, 1024])
@pytest.mark.parametrize("merge", MERGES)
def test_on_one_kind_of_link_time_is_rounds_and_bytes(ranks, merge):
    """Base and latency taken away, what is left is the formula's bytes over the bandwidth."""
    cluster = Cluster("no latency", "H200", 8, *[Link("", 100.0, 0.0)] * 2, base_us=0.0)
    time = merge_us(cluster, merge, ranks, rows=64, head_dim=128)
    assert time == pytest.approx(sent_bytes(merge, ranks, 64, 128) / 100e3)
    latency = Cluster("no bytes", "H200", 8, *[Link("", 1e30, 1.0)] * 2, base_us=0.0)
    rounds = {"gather": 1, "reduce": 4}.get(merge, 0) * (ranks.bit_length() - 1)
    rounds = ranks - 1 if merge == "heads" else rounds
    assert merge_us(latency, merge, ranks, rows=64, head_dim=128) == pytest.approx(rounds)


@pytest.mark.parametrize("ranks", [12, 16, 32])
def test_rounds_are_those_of_every_rank(ranks):
    """The model looks at rank 0; what it says of links holds for all of them."""
    kinds = {"shift": shifted_all_to_all, "ring": ALL_GATHER["ring"]}
    if ranks & (ranks - 1) == 0:
        kinds |= {"doubling": ALL_GATHER["doubling"]}
    for shape, schedule in kinds.items():
        rounds = [list(schedule(rank, ranks)) for rank in range(ranks)]
        for i, first in enumerate(rounds[0]):
            leaves = any(r // 8 != some[i].to // 8 for r, some in enumerate(rounds))
            assert crosses(shape, ranks, first.to, node=8) == leaves
            assert len({len(some[i].send) for some in rounds}) == 1
    for name in ("ring", "doubling") if "doubling" in kinds else ("ring",):
        assert len(rounds_of("all_reduce", name, ranks)) == len(
            [*REDUCE_SCATTER[name](0, ranks), *ALL_GATHER[name](0, ranks)]
        )


def test_inside_a_machine_no_round_takes_the_network():
    inside = Cluster("", "H200", 8, Link("", 450.0, 0.6), Link("", 1e-9, 1e9))
    assert merge_us(inside, "reduce", 8, rows=64, head_dim=128) < 100
    assert merge_us(inside, "reduce", 16, rows=64, head_dim=128) > 1e9


def test_published_figures():
    h200, b200, network = CLUSTERS
    assert 2 * h200.inside.gbs == 900 and 8 * 2 * b200.inside.gbs == 14_400
    assert h200.outside.gbs == b200.outside.gbs == network.inside.gbs == 400 / 8
    assert all(cluster.source for cluster in CLUSTERS)


def test_heads_first():
    step = predict_step(CLUSTERS[0], 8, length=2**20, **SHAPE)
    assert (step.head_groups, step.context, step.merge_us, step.sent) == (8, 1, 0.0, 0.0)
    step = predict_step(CLUSTERS[0], 32, length=2**20, **SHAPE)
    assert (step.head_groups, step.context) == (8, 4) and step.merge in MERGES
    copies = predict_copies(CLUSTERS[0], 32, length=2**20, **SHAPE)
    assert copies.copies == 4 and copies.attend_us > 3 * step.attend_us


def test_the_fastest_merge_is_the_fastest():
    for cluster in CLUSTERS:
        for ranks in (2, 8, 64, 1024):
            for rows in (8, 4096):
                shape = {"rows": rows, "head_dim": 128}
                best = fastest_merge(cluster, ranks, **shape)
                times = {merge: merge_us(cluster, merge, ranks, **shape) for merge in MERGES}
                assert times[best] == min(times.values())


def test_break_even_is_where_it_says():
    for users in (1, 8):
        shape = {**SHAPE, "batch": users}
        length = break_even(CLUSTERS[0], 16, 8, **shape)
        for n, wins in ((length, True), (length // 2, False)):
            many, few = (predict_step(CLUSTERS[0], r, length=n, **shape).time_us for r in (16, 8))
            assert (many < few) == wins
    assert break_even(CLUSTERS[0], 1024, 8, longest=2**12, **SHAPE) is None


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: Cluster.named("a cluster"), "no cluster is called"),
        (lambda: rounds_of("gather", "ring", 4), "all_gather, all_reduce or all_to_all; got"),
        (lambda: merge_us(ONE, "mean", 4, rows=1, head_dim=1), "merge must be one of"),
        (lambda: predict_step(ONE, 12, length=9, head_groups=5, **SHAPE), "must divide ranks"),
        (lambda: collective_us(ONE, "all_gather", 0, 1.0), "ranks must be at least 1"),
    ],
)
def test_misuse(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_passes_are_tiles_of_64_rows():
    assert [passes(n) for n in (1, 63, 64, 65, 129)] == [1, 1, 1, 2, 3]


def test_prefix_bytes_by_hand():
    """B = 2, one head, D = 4, fp32: a token is 32 bytes; partials are 2 · 4 · 20."""
    shape = {"batch": 2, "heads": (1, 1), "head_dim": 4, "dtype": "fp32"}
    assert prefix_bytes(prefix=5, **shape) == (320, 160 + 160)
    assert shortest_that_pays(**shape) == 6
    assert shortest_that_pays(extra=32.0, **shape) == 7
    assert shortest_that_pays(extra=31.0, **shape) == 6


@pytest.mark.parametrize("batch", [2, 9, 16, 100])
@pytest.mark.parametrize("queries", [1, 3, 8])
def test_the_shortest_prefix_pays_and_no_shorter_one_does(batch, queries):
    shape = {"batch": batch, "heads": (32, 8), "head_dim": 64, "queries": queries}
    shortest = shortest_that_pays(**shape)
    apart, together = prefix_bytes(prefix=shortest, **shape)
    assert together < apart
    apart, together = prefix_bytes(prefix=shortest - 1, **shape)
    assert together >= apart
