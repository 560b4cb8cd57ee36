"""reference.distributed: collectives as schedules of messages, over ranks that are threads."""

import time

import pytest
import torch

from reference.distributed import (
    Members,
    RankFailed,
    ScheduledCollectives,
    all_reduce_sent,
    run_ranks,
)
from reference.distributed.schedules import (
    ALL_GATHER,
    REDUCE_SCATTER,
    best_schedule,
    sent_chunks,
    shifted_all_to_all,
)

RANKS = [1, 2, 3, 4, 5, 8, 16]
NAMES = [(ranks, name) for ranks in RANKS for name in ("ring", "doubling")
         if name == "ring" or ranks & (ranks - 1) == 0]  # fmt: skip


@pytest.mark.parametrize("ranks, name", NAMES)
@pytest.mark.parametrize("kind", [ALL_GATHER, REDUCE_SCATTER], ids=["gather", "scatter"])
def test_what_one_sends_the_other_expects(ranks, name, kind):
    rounds = [list(kind[name](rank, ranks)) for rank in range(ranks)]
    assert len({len(some) for some in rounds}) == 1
    for now in zip(*rounds, strict=True):
        for rank, step in enumerate(now):
            assert now[step.to].sender == rank and now[step.to].receive == step.send
            assert now[step.sender].to == rank and step.to != rank


@pytest.mark.parametrize("ranks, name", NAMES)
def test_bytes_and_rounds_are_those_of_the_formula(ranks, name):
    for kind in (ALL_GATHER, REDUCE_SCATTER):
        for rank in range(ranks):
            assert sent_chunks(kind[name](rank, ranks)) == ranks - 1
        rounds = len(list(kind[name](0, ranks)))
        assert rounds == (ranks - 1 if name == "ring" else ranks.bit_length() - 1)
    assert sent_chunks(shifted_all_to_all(0, ranks)) == ranks - 1


def run(ranks, name, operation):
    def work(links):
        found = operation(ScheduledCollectives(links, name), links.rank)
        return found, links.sent, links.messages

    return run_ranks(ranks, work)


@pytest.mark.parametrize("ranks, name", NAMES)
def test_all_gather(ranks, name):
    x = torch.randn(ranks, 3, 2, generator=torch.Generator().manual_seed(ranks))
    for found, sent, _ in run(ranks, name, lambda c, rank: c.all_gather(x[rank])):
        assert torch.equal(found, x)
        assert sent == (ranks - 1) * 3 * 2 * 4


@pytest.mark.parametrize("ranks, name", NAMES)
@pytest.mark.parametrize("size", [0, 1, 7, 16])
def test_all_reduce(ranks, name, size):
    x = torch.randn(ranks, size, generator=torch.Generator().manual_seed(size)).double()
    for op, wanted in (("sum", x.sum(0)), ("max", x.amax(0))):
        results = run(ranks, name, lambda c, rank, op=op: c.all_reduce(x[rank], op))
        for rank, (found, sent, _) in enumerate(results):
            torch.testing.assert_close(found, wanted, atol=1e-14, rtol=1e-14)
            assert torch.equal(found, results[0][0])  # the same bits everywhere
            assert sent == 8 * all_reduce_sent(rank, ranks, size, name)
        if size % ranks == 0:
            assert {sent for _, sent, _ in results} == {16 * (ranks - 1) * size // ranks}


@pytest.mark.parametrize("ranks", RANKS)
def test_all_to_all_with_parts_of_different_sizes(ranks):
    def operation(collectives, rank):
        parts = [torch.full((to + 1,), 100.0 * rank + to) for to in range(ranks)]
        return collectives.all_to_all(parts, [torch.empty(rank + 1)] * ranks)

    for rank, (found, sent, messages) in enumerate(run(ranks, "ring", operation)):
        assert [x.tolist() for x in found] == [
            [100.0 * i + rank] * (rank + 1) for i in range(ranks)
        ]
        assert sent == 4 * sum(to + 1 for to in range(ranks) if to != rank)
        assert messages == ranks - 1


def test_members_talk_among_themselves():
    def work(links):
        group = [0, 2] if links.rank % 2 == 0 else [1, 3]
        inner = Members(links, group)
        found = ScheduledCollectives(inner).all_gather(torch.tensor([float(links.rank)]))
        return found.flatten().tolist(), inner.sent, links.sent

    assert run_ranks(4, work) == [([0, 2], 4, 4), ([1, 3], 4, 4)] * 2


def test_two_members_of_one_rank_are_not_mixed_up():
    """A rank may be in two groups: heads and context. Messages keep their order per pair."""

    def work(links):
        rows = Members(links, [links.rank // 2 * 2, links.rank // 2 * 2 + 1])
        columns = Members(links, [links.rank % 2, links.rank % 2 + 2])
        x = torch.tensor([float(links.rank)])
        once = ScheduledCollectives(rows).all_reduce(x, "sum")
        return ScheduledCollectives(columns).all_reduce(once, "sum").item()

    assert run_ranks(4, work) == [6.0] * 4


def test_doubling_wants_a_power_of_two():
    assert best_schedule(6) == "ring" and best_schedule(8) == "doubling"
    with pytest.raises(ValueError, match="power of two for this schedule; got 3"):
        run(3, "doubling", lambda c, rank: None)
    with pytest.raises(ValueError, match="one of ring, doubling; got 'tree'"):
        run(2, "tree", lambda c, rank: None)
    with pytest.raises(ValueError, match=r"must include this rank, 0; got \[1\]"):
        run_ranks(1, lambda links: Members(links, [1]))


def test_the_error_of_the_rank_that_failed_is_the_one_that_is_raised():
    told = {}

    def work(links):
        collectives = ScheduledCollectives(links)
        collectives.all_gather(torch.zeros(1))
        if links.rank == 2:
            raise ZeroDivisionError("on purpose")
        try:
            collectives.all_gather(torch.zeros(1))
        except RankFailed as error:
            told[links.rank] = str(error), error.ranks
            raise

    with pytest.raises(ZeroDivisionError, match="on purpose"):
        run_ranks(4, work)
    assert set(told) == {0, 1, 3}
    wanted = ("rank 2 failed: ZeroDivisionError: on purpose", [2])
    assert all(found == wanted for found in told.values())


def test_a_rank_that_says_nothing_is_named_after_the_timeout():
    def work(links):
        if links.rank == 1:
            time.sleep(1)
        return ScheduledCollectives(links).all_gather(torch.zeros(1))

    with pytest.raises(RankFailed, match=r"rank 1 failed: it sent nothing for 0\.2 s"):
        run_ranks(2, work, timeout=0.2)


def test_nobody_waits_for_a_rank_that_has_left():
    def work(links):
        if links.rank != 1:  # an empty rank that goes home, say
            ScheduledCollectives(links).all_gather(torch.zeros(1))

    begun = time.monotonic()
    with pytest.raises(RankFailed, match=r"rank 1 failed: it has left, and rank . waits"):
        run_ranks(3, work, timeout=60)
    assert time.monotonic() - begun < 30


def test_messages_of_another_shape_are_refused():
    def work(links):
        return ScheduledCollectives(links).all_gather(torch.zeros(1 + links.rank))

    with pytest.raises(ValueError, match=r"expected torch\.float32"):
        run_ranks(2, work)
