"""`merge_partials`: finished results (o, lse) merge to the truth, whoever finished what.

The keys are random, and the tolerances derived: see `keys`.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from keys import HIDDEN, SHIFTS, assert_same, keys, partition, quick, roundings, seen_by

from reference.online_softmax import State, finalize, merge, merge_partials


@quick
@given(st.data(), keys(), st.sampled_from(SHIFTS))
def test_merge_partials_of_any_partition_in_any_order(data, given_keys, shift):
    scores, v = given_keys[0] + shift, given_keys[1]
    workers = data.draw(st.integers(1, 7))
    finished = [
        finalize(seen_by(scores, v, index)) for index in partition(data.draw, len(v), workers)
    ]
    o, lse = (torch.stack(parts) for parts in zip(*finished, strict=True))
    order = data.draw(st.permutations(range(workers)))
    merged = merge_partials(o[order], lse[order])
    # a finished lse is itself rounded, and exp turns that error into a relative one of a weight
    biggest = lse[lse > -math.inf].abs().max().item() if (lse > -math.inf).any() else 0.0
    assert_same(merged, scores, v, 2 * workers + math.ceil(biggest))


@quick
@given(keys(dtypes=(torch.float64,)), st.data())
def test_a_finished_partial_is_the_state_lse_one_o(given_keys, data):
    scores, v = given_keys
    x, y = (finalize(seen_by(scores, v, index)) for index in partition(data.draw, len(v), 2))
    as_states = [State(lse, (lse > -math.inf).to(o.dtype), o) for o, lse in (x, y)]
    got = merge_partials(torch.stack([x[0], y[0]]), torch.stack([x[1], y[1]]))
    want = finalize(merge(*as_states))
    torch.testing.assert_close(got, want, atol=roundings(2, 2, torch.float64) * 4, rtol=0)


def test_merge_partials_gives_an_empty_partial_no_weight():
    o = torch.tensor([[[1.0, 2.0]], [[7e8, -7e8]]])  # the second saw nothing: its o is junk
    lse = torch.tensor([[0.5], [HIDDEN]])
    got = merge_partials(o, lse)
    assert torch.equal(got[0], o[0]) and torch.equal(got[1], lse[0])


def test_merge_partials_of_nothing_is_nothing():
    o, lse = merge_partials(torch.zeros(3, 2, 4), torch.full((3, 2), HIDDEN))
    assert torch.equal(o, torch.zeros(2, 4)) and torch.equal(lse, torch.full((2,), HIDDEN))


def test_merge_partials_takes_any_dimensions_between():
    o, lse = torch.randn(5, 2, 3, 4, 8), torch.randn(5, 2, 3, 4)
    got = merge_partials(o, lse)
    weights = torch.softmax(lse.double(), 0)
    torch.testing.assert_close(got[0].double(), (weights[..., None] * o).sum(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(got[1].double(), lse.double().logsumexp(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("o", "lse"),
    [((2, 3, 4), (2,)), ((2, 3, 4), (3, 3)), ((0, 3, 4), (0, 3)), ((2, 3, 4), (2, 3, 4))],
    ids=["lse lacks a dimension", "S differs", "S = 0", "lse has D"],
)
def test_merge_partials_says_which_shapes_do_not_fit(o, lse):
    with pytest.raises(ValueError, match=r"o should be \(S, ..., D\)") as caught:
        merge_partials(torch.zeros(o), torch.zeros(lse))
    assert str(o) in str(caught.value) and str(lse) in str(caught.value)
