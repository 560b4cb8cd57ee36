"""reference.distributed: decode over shards is attention over the whole cache, however merged."""

import doctest
import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.attention import attention_with_cache, oracle_with_cache
from reference.closeness import assert_close_to_oracle
from reference.distributed import (
    MERGES,
    Grid,
    Members,
    Placement,
    ScheduledCollectives,
    cache_copies,
    check_agreement,
    context_parallel_decode,
    heads_of_rank,
    local_attention,
    run_ranks,
    sent_bytes,
    shard,
)
from reference.distributed.merging import pack, unpack
from reference.distributed.selfcheck import CASES, draw, formula, own_shard
from reference.flash_decoding import flash_decode
from reference.online_softmax import merge_states

FP64 = {"atol": 1e-12, "rtol": 1e-12}


@pytest.mark.parametrize(
    "module",
    ["placement", "schedules", "links", "collectives", "merging", "decode", "heads"],
)
def test_examples(module):
    found = doctest.testmod(importlib.import_module(f"reference.distributed.{module}"))
    assert found.attempted and not found.failed


def spread(case, ranks, merge, *, dtype=None, schedule=None, attend=flash_decode):
    """Decode a case on ranks that are threads; the results, heads put together, and bytes sent."""
    q, k, v, lengths = draw(case)
    q, k, v = (x.to(dtype or case.dtype) for x in (q, k, v))
    placement = Placement(ranks, case.block)

    def work(links):
        shards = [own_shard(x, placement, links.rank, lengths) for x in (k, v)]
        collectives = ScheduledCollectives(links, schedule)
        o, lse = context_parallel_decode(
            q, *shards, lengths, placement, collectives,
            causal=case.causal, merge=merge, attend=attend, return_lse=True,
        )  # fmt: skip
        return o, lse, links.sent

    os, lses, sent = zip(*run_ranks(ranks, work), strict=True)
    if merge == "heads":
        return (q, k, v, lengths), torch.cat(os, 2), torch.cat(lses, 2), sent
    assert all(torch.equal(o, os[0]) for o in os)  # the same bits on every rank
    assert all(torch.equal(lse, lses[0]) for lse in lses)
    return (q, k, v, lengths), os[0], lses[0], sent


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_answer_of_one_rank(case, ranks, merge):
    tensors, o, lse, _ = spread(case, ranks, merge, dtype=torch.float64)
    wanted = oracle_with_cache(*tensors, causal=case.causal)
    torch.testing.assert_close((o, lse), wanted, **FP64)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(merge, dtype):
    case = CASES[4]
    tensors, o, lse, _ = spread(case, 4, merge, dtype=dtype)
    assert o.dtype == dtype and lse.dtype == torch.float32
    truth = oracle_with_cache(*tensors)
    naive = attention_with_cache(*tensors, return_lse=True)
    for name, *three in zip(("o", "lse"), (o, lse), naive, truth, strict=True):
        assert_close_to_oracle(*three, name=name)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=3),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(1, 6),
)
def test_any_lengths_ranks_and_blocks(lengths, Lq, ranks, block):
    """Without messages: the partials of all ranks, merged in one place."""
    rng = torch.Generator().manual_seed(sum(lengths) + 100 * Lq)
    B, n, placement = len(lengths), torch.tensor(lengths), Placement(ranks, block)
    q = torch.randn(B, Lq, 4, 8, generator=rng).double()
    k, v = (torch.randn(B, 40, 2, D, generator=rng).double() for D in (8, 5))
    parts = [
        local_attention(
            q, *(own_shard(x, placement, rank, n) for x in (k, v)), n, placement, rank, scale=0.7
        )
        for rank in range(ranks)
    ]
    merged = merge_states(*zip(*parts, strict=True))
    torch.testing.assert_close(merged, oracle_with_cache(q, k, v, n, scale=0.7), **FP64)


def test_an_empty_shard_is_not_attended_to():
    case = CASES[0]
    q, k, v, _ = draw(case)

    def never(*args, **options):
        raise AssertionError("no key, no call")

    lengths, placement = torch.tensor([2, 1]), Placement(ranks=4)
    shards = [own_shard(x, placement, 3, lengths) for x in (k, v)]
    o, lse = local_attention(q, *shards, lengths, placement, 3, attend=never)
    assert (o == 0).all() and (lse == -math.inf).all() and lse.dtype == torch.float32


def test_a_rank_without_any_room():
    q, k, v, _ = draw(CASES[0])
    lengths, placement = torch.tensor([2, 1]), Placement(ranks=4)
    shards = [shard(x[:, :2], placement, 3) for x in (k, v)]
    assert shards[0].shape[1] == 0
    o, lse = local_attention(q, *shards, lengths, placement, 3)
    assert o.shape == q.shape and (lse == -math.inf).all()


def test_the_bottom_right_mask_of_the_shard_would_be_wrong():
    """Causality within the shard, as one would try first, must differ, or this tests nothing."""
    case = CASES[4]
    q, k, v, lengths = draw(case)
    placement = Placement(2)
    shards = [own_shard(x, placement, 0, lengths) for x in (k, v)]
    right = local_attention(q, *shards, lengths, placement, 0)
    held = placement.count(0, lengths)
    wrong = flash_decode(q, *shards, held, causal=True, return_lse=True)
    assert not torch.allclose(right[1], wrong[1])


@pytest.mark.parametrize("schedule", ["ring", "doubling"])
@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_bytes_are_those_of_the_formula(ranks, merge, schedule):
    for case in CASES:
        (q, _, v, _), _, _, sent = spread(case, ranks, merge, schedule=schedule)
        whole = q.new_empty(*q.shape[:3], v.shape[3])
        assert list(sent) == [formula(merge, r, ranks, whole, schedule) for r in range(ranks)]
        rows, size = whole[..., 0].numel(), whole.element_size()
        closed = sent_bytes(merge, ranks, rows, case.Dv, size)
        if merge == "gather" or rows % ranks == 0 == case.heads[0] % ranks:
            assert set(sent) == {closed}
        # over all ranks: every element is sent R − 1 times in each half of a reduction
        assert sum(sent) == pytest.approx(ranks * closed)


def test_what_travels_does_not_grow_with_the_context():
    short, long = CASES[1], CASES[1].__class__("long", (79, 80, 80), block=4)
    assert spread(short, 4, "gather")[3] == spread(long, 4, "gather")[3]


def test_kernels_attend(monkeypatch):
    """The Triton kernel in place of the reference, shard by shard, and its merge."""
    pytest.importorskip("triton", reason="triton has no wheels for this system")
    from kernels.flash_decoding import flash_decode as kernel
    from kernels.merge import merge_states as merge
    from kernels.runtime import device

    for case in (CASES[2], CASES[4], CASES[5], CASES[8]):
        tensors = [x.to(device()) for x in draw(case)]
        q, k, v, lengths = tensors
        placement = Placement(3, case.block)
        parts = []
        for rank in range(3):
            shards = [own_shard(x.cpu(), placement, rank, lengths.cpu()) for x in (k, v)]
            shards = [x.to(device()) for x in shards]
            parts.append(local_attention(q, *shards, lengths, placement, rank, attend=kernel))
        o, lse = merge(*zip(*parts, strict=True))
        truth = oracle_with_cache(*tensors)
        naive = attention_with_cache(*tensors, return_lse=True)
        for name, *three in zip(("o", "lse"), (o, lse), naive, truth, strict=True):
            assert_close_to_oracle(*three, name=name)


@pytest.mark.parametrize(
    "ranks, Hkv, groups", [(4, 4, 4), (4, 2, 2), (6, 2, 2), (8, 2, 1), (1, 1, 1)]
)
@pytest.mark.parametrize("merge", MERGES)
def test_heads_times_context(ranks, Hkv, groups, merge):
    rng = torch.Generator().manual_seed(ranks)
    lengths, grid = torch.tensor([30, 2]), Grid(ranks, Hkv, groups, block=2)
    q = torch.randn(2, 2, 4 * Hkv, 8, generator=rng).double()
    k, v = torch.randn(2, 2, 40, Hkv, 8, generator=rng).double()

    def work(links):
        group = Members(links, grid.members(links.rank))
        assert group.rank == grid.shard_of(links.rank) and group.ranks == grid.context
        mine = [grid.heads_of(x, links.rank) for x in (q, k, v)]
        shards = [own_shard(x, grid.placement, group.rank, lengths) for x in mine[1:]]
        return context_parallel_decode(
            mine[0], *shards, lengths, grid.placement, ScheduledCollectives(group), merge=merge
        ), links.sent

    os, sent = zip(*run_ranks(ranks, work), strict=True)
    some = os if merge == "heads" else os[:: grid.context]
    wanted = oracle_with_cache(q, k, v, lengths)[0]
    torch.testing.assert_close(torch.cat(some, 2), wanted, **FP64)
    assert grid.context > 1 or set(sent) == {0}  # heads alone need no merge


def test_the_grid_takes_heads_first():
    assert [Grid.widest(r, 8).context for r in (1, 4, 8, 16, 64)] == [1, 1, 1, 2, 8]
    assert cache_copies(64, Hkv=8) == 8 and cache_copies(64, Hkv=8, context=8) == 1
    for bad in ((4, 2, 3), (4, 2, 4), (6, 4, 4), (0, 1, 1)):
        with pytest.raises(ValueError, match="head_groups must divide ranks and Hkv"):
            Grid(*bad)
    with pytest.raises(ValueError, match="a multiple of Hkv = 4; got 6"):
        Grid(4, 4, 4).heads_of(torch.zeros(1, 1, 6, 2), 0)


def test_heads_of_rank_are_as_equal_as_can_be():
    assert heads_of_rank(2, 3) == [range(0, 1), range(1, 2), range(2, 2)]
    for Hq in range(9):
        for ranks in range(1, 6):
            parts = [len(x) for x in torch.empty(Hq).tensor_split(ranks)]
            assert [len(x) for x in heads_of_rank(Hq, ranks)] == parts


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_packing_keeps_every_bit(dtype):
    o = torch.randn(2, 3, 4, 5).to(dtype)
    lse = torch.randn(2, 3, 4)
    lse[0] = -math.inf
    packed = pack(o.transpose(0, 1).contiguous().transpose(0, 1), lse)
    assert packed.dtype == torch.uint8 and packed.shape[-1] == 5 * o.element_size() + 4
    again = unpack(packed, o, lse)
    assert torch.equal(again[0], o) and torch.equal(again[1], lse)


def test_all_ranks_hear_that_they_disagree():
    told = {}

    def work(links):
        q, _, _, lengths = draw(CASES[0])
        lengths = lengths + (links.rank == 2)
        try:
            check_agreement(q, lengths, ScheduledCollectives(links))
        except ValueError as error:
            told[links.rank] = str(error)
            raise

    with pytest.raises(ValueError, match=r"ranks \[2\] differ from rank 0"):
        run_ranks(3, work)
    assert set(told) == {0, 1, 2} and "[65, 65]" in told[2]


@pytest.mark.parametrize(
    "keywords, placement, says",
    [
        ({"merge": "mean"}, Placement(1), "one of gather, reduce, heads; got 'mean'"),
        ({}, Placement(2), "must be on 1 ranks; got one on 2"),
    ],
)
def test_misuse(keywords, placement, says):
    q, k, v, lengths = draw(CASES[0])

    def work(links):
        context_parallel_decode(
            q, k, v, lengths, placement, ScheduledCollectives(links), **keywords
        )

    with pytest.raises(ValueError, match=says):
        run_ranks(1, work)
    with pytest.raises(ValueError, match="one of gather, reduce, heads; got 'mean'"):
        sent_bytes("mean", 2, 2, 2)
