"""`reference.online_softmax`: however the keys are divided and ordered, the answer is the same.

The keys are random, and the tolerances are derived: see `keys`.
"""

import doctest
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from keys import HIDDEN, SHIFTS, assert_same, keys, partition, quick, roundings, seen_by

from reference import online_softmax
from reference.online_softmax import (
    finalize,
    init,
    merge,
    rescale,
    softmax_three_pass,
    softmax_two_pass,
    update,
)


@quick
@given(st.data(), keys(), st.sampled_from(SHIFTS), st.randoms(use_true_random=False))
def test_any_partition_any_order_any_tree(data, given_keys, shift, rng: random.Random):
    scores, v = given_keys[0] + shift, given_keys[1]
    workers = data.draw(st.integers(1, 7))
    states = [seen_by(scores, v, index) for index in partition(data.draw, len(v), workers)]
    while len(states) > 1:  # any two that are left: every order and every tree can occur
        x = states.pop(rng.randrange(len(states)))
        y = states.pop(rng.randrange(len(states)))
        states.append(merge(x, y))
    assert_same(finalize(states[0]), scores, v, workers)


@quick
@given(keys(), st.integers(1, 17), st.sampled_from(SHIFTS))
def test_any_tile_width(given_keys, width, shift):
    scores, v = given_keys[0] + shift, given_keys[1]
    state = init(scores.shape[0], v.shape[1], dtype=scores.dtype)
    for i in range(0, len(v), width):
        state = update(state, scores[:, i : i + width], v[i : i + width])
    assert_same(finalize(state), scores, v, math.ceil(len(v) / width))


@quick
@given(keys(), st.data())
def test_stopping_anywhere_is_exact_for_the_keys_so_far(given_keys, data):
    scores, v = given_keys
    stop = data.draw(st.integers(0, len(v)))
    state = init(scores.shape[0], 2, dtype=scores.dtype)
    for i in range(stop):
        state = update(state, scores[:, i : i + 1], v[i : i + 1])
    assert_same(finalize(state), scores[:, :stop], v[:stop], stop)


@quick
@given(keys(), keys(), keys())
def test_merge_is_associative(a, b, c):
    rows = min(x[0].shape[0] for x in (a, b, c))
    a, b, c = (
        seen_by(scores[:rows].double(), v.double(), range(len(v))) for scores, v in (a, b, c)
    )
    left, right = merge(merge(a, b), c), merge(a, merge(b, c))
    assert torch.equal(left.m, right.m)
    off = roundings(0, 4, torch.float64)
    assert ((left.l - right.l).abs() <= off * left.l).all()
    assert ((left.acc - right.acc).abs() <= off * 4 * left.l[:, None]).all()  # |v| ≤ 4


@quick
@given(keys(), st.data())
def test_merge_is_commutative_to_the_bit(given_keys, data):
    scores, v = given_keys
    x, y = (seen_by(scores, v, index) for index in partition(data.draw, len(v), 2))
    assert all(map(torch.equal, merge(x, y), merge(y, x)))


@quick
@given(keys())
def test_init_is_the_identity_to_the_bit(given_keys):
    scores, v = given_keys
    x, nothing = seen_by(scores, v, range(len(v))), init(scores.shape[0], 2, dtype=scores.dtype)
    assert all(map(torch.equal, merge(x, nothing), x))
    assert all(map(torch.equal, merge(nothing, x), x))
    assert all(map(torch.equal, merge(nothing, nothing), nothing))


@quick
@given(keys(), keys())
def test_update_is_a_merge_with_the_tile(seen, tile):
    rows = min(seen[0].shape[0], tile[0].shape[0])
    state = seen_by(seen[0][:rows].double(), seen[1].double(), range(len(seen[1])))
    scores, v = tile[0][:rows].double(), tile[1].double()
    got, want = update(state, scores, v), merge(state, seen_by(scores, v, range(len(v))))
    off = roundings(len(v), 2, torch.float64)
    assert torch.equal(got.m, want.m)
    assert ((got.l - want.l).abs() <= off * want.l).all()
    assert ((got.acc - want.acc).abs() <= off * 4 * want.l[:, None]).all()


@quick
@given(keys(), st.sampled_from([200.0, -200.0]))
def test_a_shift_moves_m_and_nothing_else_to_the_bit(given_keys, shift):
    scores, v = given_keys
    plain, moved = (seen_by(s, v, range(len(v))) for s in (scores, scores + shift))
    assert torch.equal(moved.m, plain.m + shift)
    assert torch.equal(moved.l, plain.l) and torch.equal(moved.acc, plain.acc)


@quick
@given(keys(min_keys=1))
def test_rows_sum_to_one(given_keys):
    scores, _ = given_keys
    ones = torch.ones(scores.shape[1], 1, dtype=scores.dtype)
    state = init(scores.shape[0], 1, dtype=scores.dtype)
    for i in range(len(ones)):
        state = update(state, scores[:, i : i + 1], ones[i : i + 1])
    o, lse = finalize(state)
    off = roundings(len(ones), len(ones), scores.dtype)
    assert ((o[:, 0] - (lse > -math.inf).to(o.dtype)).abs() <= off).all()


@quick
@given(keys(min_keys=1))
def test_l_lies_between_one_and_the_number_of_keys(given_keys):
    scores, v = given_keys
    state = init(scores.shape[0], 2, dtype=scores.dtype)
    for i in range(len(v)):
        state = update(state, scores[:, i : i + 1], v[i : i + 1])
    visible = (scores > -math.inf).sum(-1)
    slack = 1 + roundings(len(v), 0, scores.dtype)
    assert torch.equal(state.m, scores.amax(-1))
    assert ((state.l >= 1) | (visible == 0)).all() and (state.l <= visible * slack).all()


def test_a_hidden_tile_before_between_and_after_changes_nothing():
    scores, v = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [5.0]])
    hidden, junk = torch.full((1, 2), HIDDEN), torch.tensor([[1e9], [-1e9]])
    state = update(init(1, 1), hidden, junk)
    assert all(map(torch.equal, state, init(1, 1)))
    state = update(state, scores, v)
    assert all(map(torch.equal, update(state, hidden, junk), state))
    assert all(map(torch.equal, update(state, scores[:, :0], v[:0]), state))


def test_partials_that_lie_400_apart():
    low, high = (
        update(init(1, 1), torch.tensor([[x]]), torch.tensor([[v]]))
        for x, v in ((-200.0, 1.0), (200.0, 2.0))
    )
    o, lse = finalize(merge(low, high))
    assert o.item() == 2.0 and lse.item() == 200.0  # exp(−400) of the other: 0 in fp32 and fp64
    o, lse = finalize(merge(low, init(1, 1)))
    assert o.item() == 1.0 and lse.item() == -200.0  # alone, a low score counts in full


def test_rescale_is_zero_where_nothing_was_seen():
    m = torch.tensor([HIDDEN, HIDDEN, 0.0, 1.0])
    m_new = torch.tensor([HIDDEN, 5.0, 0.0, 3.0])
    want = torch.tensor([0.0, 0.0, 1.0, math.exp(-2.0)])
    torch.testing.assert_close(rescale(m, m_new), want, atol=0, rtol=2**-22)  # exp: an ulp or two


def test_nothing_is_modified():
    x = seen_by(torch.randn(2, 3), torch.randn(3, 2), range(3))
    y = seen_by(torch.randn(2, 3), torch.randn(3, 2), range(3))
    scores, v = torch.randn(2, 4), torch.randn(4, 2)
    before = [t.clone() for t in (*x, *y, scores, v)]
    merge(x, y), update(x, scores, v), finalize(x)
    assert all(map(torch.equal, before, (*x, *y, scores, v)))


class Counted:
    """Stands in for a 1-D tensor and counts how often one of its elements is read."""

    def __init__(self, x):
        self.x, self.dtype, self.reads = x, x.dtype, 0

    def __iter__(self):
        for x_i in self.x:
            self.reads += 1
            yield x_i


@pytest.mark.parametrize(
    ("softmax", "passes"), [(softmax_three_pass, 3), (softmax_two_pass, 2)], ids=["three", "two"]
)
@pytest.mark.parametrize("shift", SHIFTS)
def test_softmax_by_passes(softmax, passes, shift):
    x = Counted(torch.tensor([1.0, 3.0, -2.0, 5.0, 5.0, 0.5]) + shift)
    p = softmax(x)
    assert x.reads == passes * 6
    off = roundings(6, 6, torch.float32)
    torch.testing.assert_close(p.double(), torch.softmax(x.x.double(), 0), atol=off, rtol=0)
    assert abs(p.sum().item() - 1) <= off


def test_init_takes_dtype_and_device():
    state = init(3, 5, dtype=torch.float64, device=torch.device("cpu"))
    assert [tuple(part.shape) for part in state] == [(3,), (3,), (3, 5)]
    assert {part.dtype for part in state} == {torch.float64}
    assert init(1, 1).m.dtype == torch.float32


def test_doctests():
    results = doctest.testmod(online_softmax)
    assert results.attempted >= 2 and results.failed == 0
