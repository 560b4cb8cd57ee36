"""reference.distributed.placement: every key on one rank, shards even, prefixes for causality."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference.distributed import Placement, append_to_shard, shard, sight

RANKS, BLOCKS, LENGTHS = st.integers(1, 9), st.integers(1, 7), st.integers(0, 90)


@given(RANKS, BLOCKS, LENGTHS)
def test_every_place_is_on_one_rank_in_one_slot(ranks, block, length):
    placement = Placement(ranks, block)
    found = [placement.places(rank, length) for rank in range(ranks)]
    assert sorted(torch.cat(found).tolist()) == list(range(length))
    for rank, places in enumerate(found):
        assert (placement.rank_of(places) == rank).all()
        assert placement.slot_of(places).tolist() == list(range(len(places)))
        assert placement.count(rank, length) == len(places)
        assert places.tolist() == sorted(places.tolist())


@given(RANKS, BLOCKS, LENGTHS)
def test_shards_differ_by_one_block_at_most(ranks, block, length):
    counts = [Placement(ranks, block).count(rank, length) for rank in range(ranks)]
    assert max(counts) - min(counts) <= block


@given(RANKS, BLOCKS, st.lists(st.integers(-3, 60), min_size=1, max_size=4))
def test_counting_tensors_is_counting_numbers(ranks, block, lengths):
    placement = Placement(ranks, block)
    for rank in range(ranks):
        counts = placement.count(rank, torch.tensor(lengths)).tolist()
        assert counts == [placement.count(rank, n) for n in lengths]


@given(RANKS, BLOCKS, st.lists(st.integers(0, 40), min_size=1, max_size=3), st.integers(1, 7))
def test_what_a_query_sees_of_a_shard_is_what_lies_up_to_its_place(ranks, block, lengths, Lq):
    placement = Placement(ranks, block)
    for rank in range(ranks):
        seen = placement.seen(rank, torch.tensor(lengths), Lq)
        mask = sight(placement, rank, torch.tensor(lengths), Lq)
        for b, length in enumerate(lengths):
            places = placement.places(rank, length)
            for i in range(Lq):
                visible = places <= length - Lq + i
                assert seen[b, i] == visible.sum()
                # the mask covers the last Lq keys of the shard; all before them are in sight
                covered = torch.cat([torch.ones(max(0, len(places) - Lq)).bool(), mask[b, i]])
                assert torch.equal(covered[len(covered) - len(places) :], visible)


def test_one_block_per_rank_is_contiguous_pieces():
    placement = Placement(ranks=3, block=4)
    assert [placement.places(rank, 10).tolist() for rank in range(3)] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9],
    ]  # fmt: skip


@given(RANKS, BLOCKS, st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_appending_is_sharding_what_was_appended(ranks, block, steps):
    placement = Placement(ranks, block)
    total = [sum(column) for column in zip(*steps, strict=True)] or [0, 0]
    whole = torch.arange(2.0 * 60).view(2, 60, 1, 1)
    shards = [torch.full((2, 60, 1, 1), math.nan) for _ in range(ranks)]
    for rank, mine in enumerate(shards):
        lengths = torch.zeros(2, dtype=torch.long)
        for counts in steps:
            for b, count in enumerate(counts):  # rows grow at different paces
                row, before = slice(b, b + 1), lengths[b : b + 1]
                new = whole[row, before[0] : before[0] + count]
                append_to_shard(mine[row], mine[row], new, new, before, placement, rank)
                lengths[b] += count
    for b, length in enumerate(total):
        for rank, mine in enumerate(shards):
            wanted = shard(whole[b : b + 1, :length], placement, rank)[0]
            assert torch.equal(mine[b, : len(wanted)], wanted)
            assert mine[b, len(wanted) :].isnan().all()


def test_both_rows_at_once():
    placement, new = Placement(2), torch.arange(6.0).view(2, 3, 1, 1)
    k, v = torch.full((2, 2, 4, 1, 1), math.nan)
    append_to_shard(k, v, new, 10 * new, torch.tensor([0, 1]), placement, rank=1)
    assert k[..., 0, 0].nan_to_num(-1).tolist() == [[1, -1, -1, -1], [3, 5, -1, -1]]
    assert v[..., 0, 0].nan_to_num(-1).tolist() == [[10, -1, -1, -1], [30, 50, -1, -1]]


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: Placement(0), "at least 1; got ranks=0"),
        (lambda: Placement(2, block=0), "block=0"),
        (lambda: Placement(2).count(2, 5), r"rank must lie in 0…1; got 2"),
        (lambda: append_to_shard(*[torch.zeros(1, 1, 2, 4)] * 4, torch.zeros(2), Placement(1), 0),
         r"lengths must be \(B,\) = \(1,\); got \(2,\)"),
        (lambda: append_to_shard(*[torch.zeros(1, 1, 2, 4)] * 2, *[torch.zeros(1, 1, 3, 4)] * 2,
                                 torch.zeros(1).long(), Placement(1), 0), "k must be"),
        (lambda: append_to_shard(*[torch.zeros(1, 1, 2, 4)] * 4, torch.tensor([2]), Placement(2),
                                 0),
         "rank 0 has room for 1 keys per row; got slot 1"),
    ],
)  # fmt: skip
def test_misuse(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_a_full_shard_is_left_as_it_was():
    k = torch.full((1, 2, 1, 1), 7.0)
    new = torch.zeros(1, 3, 1, 1)
    with pytest.raises(ValueError, match="has room for 2"):
        append_to_shard(k, k, new, new, torch.tensor([0]), Placement(1), 0)
    assert (k == 7).all()
