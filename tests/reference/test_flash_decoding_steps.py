"""The three steps of reference.flash_decoding on their own: split, partial, combine."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.attention import causal_mask, oracle
from reference.flash_decoding import partial_attention, split_bounds, workspace_bytes
from reference.online_softmax import merge_states


def make(B=1, Lq=1, capacity=37, Hq=4, Hkv=2, D=16, dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    shapes = [(B, Lq, Hq, D), (B, capacity, Hkv, D), (B, capacity, Hkv, D)]
    return [torch.randn(*shape, generator=rng).to(dtype) for shape in shapes]


@given(st.integers(0, 5000), st.integers(1, 200))
def test_split_bounds_cover_without_overlap(length, num_splits):
    bounds = split_bounds(length, num_splits)
    assert len(bounds) == num_splits
    assert [key for start, stop in bounds for key in range(start, stop)] == list(range(length))
    assert all(start <= stop for start, stop in bounds)
    ends = [0, *(stop for _, stop in bounds)]
    assert [start for start, _ in bounds] == ends[:-1] and ends[-1] == length
    sizes = [stop - start for start, stop in bounds]
    assert max(sizes) == math.ceil(length / num_splits) and sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("length, num_splits", [(-1, 2), (8, 0), (8, -3)])
def test_split_bounds_refuses(length, num_splits):
    with pytest.raises(ValueError, match=f"got {length} and {num_splits}"):
        split_bounds(length, num_splits)


def test_a_partial_is_attention_over_its_keys_and_reads_no_others():
    q, k, v = (x[0] for x in make(B=1, Lq=2))
    lonely = [torch.full_like(x, math.nan) for x in (k, v)]
    for poisoned, x in zip(lonely, (k, v), strict=True):
        poisoned[7:19] = x[7:19]
    o, lse = partial_attention(q, *lonely, start=7, stop=19, length=30, causal=False)
    true_o, true_lse = oracle(q[None], k[None, 7:19], v[None, 7:19])
    torch.testing.assert_close(o.double(), true_o[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(lse.double(), true_lse[0], atol=1e-6, rtol=1e-5)


def test_a_partial_counts_positions_in_the_row():
    """Query i of 3 in a row of 12 sees keys up to 9 + i; in the split 9…12 that is a triangle."""
    q, k, v = (x[0] for x in make(B=1, Lq=3))
    o, lse = partial_attention(q, k, v, start=9, stop=12, length=12, causal=True)
    true_o, true_lse = oracle(q[None], k[None, 9:12], v[None, 9:12], causal=True)
    torch.testing.assert_close(o.double(), true_o[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(lse.double(), true_lse[0], atol=1e-6, rtol=1e-5)
    assert causal_mask(3, 12)[:, 9:].equal(torch.ones(3, 3).tril().bool())


@pytest.mark.parametrize("start, stop, blind", [(5, 5, 3), (11, 12, 2)], ids=["empty", "future"])
def test_a_partial_without_keys(start, stop, blind):
    q, k, v = (x[0] for x in make(B=1, Lq=3))
    o, lse = partial_attention(q, k, v, start=start, stop=stop, length=12)
    assert o.dtype == lse.dtype == torch.float32
    assert torch.equal(o[:blind], torch.zeros(blind, 4, 16))
    assert torch.equal(lse == -math.inf, torch.arange(3)[:, None].expand(3, 4) < blind)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**31 - 1))
def test_merge_states_does_not_mind_the_order(S, seed):
    rng = torch.Generator().manual_seed(seed)
    o, lse = (torch.randn(S, *rest, generator=rng, dtype=torch.float64) for rest in ((3, 5), (3,)))
    lse = torch.where(torch.rand(S, 3, generator=rng) < 0.3, -math.inf, 20 * lse)
    o = torch.where(lse[..., None] == -math.inf, 0.0, o)
    order = torch.randperm(S, generator=rng)
    got, wanted = merge_states(o[order], lse[order]), merge_states(o, lse)
    torch.testing.assert_close(got, wanted, atol=1e-13, rtol=1e-13)
    weights = torch.exp(lse - torch.where(wanted[1] == -math.inf, 0.0, wanted[1]))
    torch.testing.assert_close(wanted[0], (weights[..., None] * o).sum(0), atol=1e-13, rtol=1e-12)


def test_merge_states_is_no_plain_mean():
    o, lse = torch.tensor([[4.0], [3.0], [12.0]]), torch.tensor([4.0, 10.0, 2.0]).log()
    merged, total = merge_states(o, lse)
    torch.testing.assert_close(merged, torch.tensor([4.375]))
    torch.testing.assert_close(total, torch.tensor(16.0).log())


def test_merge_states_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(S, \.\.\., D\)"):
        merge_states(torch.zeros(3, 4, 5), torch.zeros(2, 4))


@pytest.mark.parametrize("B, Lq, Hq, D, S", [(1, 1, 32, 128, 64), (3, 2, 6, 16, 5)])
def test_workspace_is_what_the_partials_take(B, Lq, Hq, D, S):
    q, k, v = make(B=B, Lq=Lq, Hq=Hq, Hkv=2, D=D, capacity=70, dtype=torch.bfloat16)
    bounds = split_bounds(70, S)
    rows = [
        partial_attention(q[b], k[b], v[b], start=start, stop=stop, length=70)
        for b in range(B)
        for start, stop in bounds
    ]
    assert workspace_bytes(B, Lq, Hq, D, S) == sum(o.nbytes + lse.nbytes for o, lse in rows)
