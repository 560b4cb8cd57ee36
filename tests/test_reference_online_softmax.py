"""`reference.online_softmax`: whoever saw which keys, in whatever order, the answer is the same.

Tolerances are derived. A result that went through n additions and d rescalings carries at most
about n + 4 d roundings (a rescaling: one subtraction, one exp within an ulp, two products), in
its numerator and again in its denominator. The shifts are exact, so that they cost nothing.
"""

import doctest
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import online_softmax
from reference.online_softmax import (
    State,
    finalize,
    init,
    merge,
    merge_partials,
    rescale,
    softmax_three_pass,
    softmax_two_pass,
    update,
)

SHIFTS = [0.0, 200.0, -200.0]  # beyond exp's range in fp32 on either side (88, −103)
HIDDEN = -math.inf
quick = settings(max_examples=60, deadline=None)


def roundings(keys: int, rescalings: int, dtype: torch.dtype) -> float:
    """The relative error allowed to a quotient of two sums (see the head of this file)."""
    return 2 * (keys + 4 * rescalings + 4) * torch.finfo(dtype).eps


def truth(scores, v):
    """o and lse in fp64, all keys at once; (0, −inf) for rows without keys."""
    scores, v = scores.double(), v.double()
    nothing = torch.full((scores.shape[0], 1), HIDDEN, dtype=scores.dtype)
    m = torch.cat([scores, nothing], -1).amax(-1)  # (rows,)
    m_safe = m.masked_fill(m == HIDDEN, 0.0)
    p = torch.exp(scores - m_safe[:, None])
    total = p.sum(-1)
    return p @ v / total.clamp(min=1)[:, None], m_safe + total.log()  # total ≥ 1, or 0


def assert_same(result, scores, v, rescalings):
    """`result` (o, lse) is the truth for these keys, to within the roundings it went through."""
    o, lse = result
    want_o, want_lse = truth(scores, v)
    off = roundings(scores.shape[-1], rescalings, o.dtype)
    largest = v.abs().max().item() if v.numel() else 0.0
    assert not o.isnan().any() and not lse.isnan().any()
    assert torch.equal(lse == -math.inf, want_lse == -math.inf)
    assert (o.double() - want_o).abs().max() <= off * largest
    seen = want_lse > -math.inf
    error = (lse.double() - want_lse)[seen].abs()
    assert (error <= off + 2 * torch.finfo(o.dtype).eps * want_lse[seen].abs()).all()


@st.composite
def keys(draw, min_keys=0, max_keys=16, dtypes=(torch.float32, torch.float64)):
    """Scores (rows, n), some hidden, on a grid of 1/8 (so that ±200 shifts are exact); v (n, D)."""
    n, rows, D = draw(st.integers(min_keys, max_keys)), draw(st.integers(1, 3)), 2
    dtype = draw(st.sampled_from(dtypes))
    score = st.one_of(st.integers(-240, 240).map(lambda i: i / 8), st.just(HIDDEN))
    row = st.lists(score, min_size=n, max_size=n)
    scores = draw(st.lists(row, min_size=rows, max_size=rows))
    value = st.integers(-32, 32).map(lambda i: i / 8)
    v = draw(st.lists(value, min_size=n * D, max_size=n * D))
    return (
        torch.tensor(scores, dtype=dtype).reshape(rows, n),
        torch.tensor(v, dtype=dtype).reshape(n, D),
    )


def seen_by(scores, v, index):
    """The state of a worker who saw the keys of `index` at once."""
    return update(init(scores.shape[0], v.shape[1], dtype=scores.dtype), scores[:, index], v[index])


def partition(draw, n, workers):
    """A random worker for each key: some may get none, and keys need not be neighbours."""
    owners = draw(st.lists(st.integers(0, workers - 1), min_size=n, max_size=n))
    return [[i for i in range(n) if owners[i] == w] for w in range(workers)]


@quick
@given(st.data(), keys(), st.sampled_from(SHIFTS), st.randoms(use_true_random=False))
def test_any_partition_any_order_any_tree(data, given_keys, shift, rng: random.Random):
    scores, v = given_keys[0] + shift, given_keys[1]
    workers = data.draw(st.integers(1, 7))
    states = [seen_by(scores, v, index) for index in partition(data.draw, len(v), workers)]
    while len(states) > 1:  # any two that are left: every order and every tree can come
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
    """Stands for a 1-D tensor and counts how often an element of it is read."""

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
