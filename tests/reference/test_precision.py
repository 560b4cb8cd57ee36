"""reference.precision: what rounding does, beside the bounds on it."""

import math
import subprocess
import sys

import pytest
import torch

from reference import precision
from reference.online_softmax import merge_states
from reference.precision import (
    chunks,
    decode_key_by_key,
    decode_long,
    half_ulp,
    lse_factor,
    merge_bound,
    merge_with_lse_in,
    running_sum,
    split_bound,
    stalls_at,
    unit_roundoff,
)

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("x", [1.0, 1.5, 11.8, 8.0, 0.3, -700.0, 0.0])
def test_rounding_moves_a_number_by_half_a_gap_at_most(dtype, x):
    near = torch.linspace(x - 1e-3, x + 1e-3, 1001, dtype=torch.float64)
    moved = (near.to(dtype).double() - near).abs().max().item()
    assert moved <= half_ulp(abs(x) + 1e-3, dtype)
    up = torch.tensor(x, dtype=dtype).nextafter(torch.tensor(math.inf, dtype=dtype))
    if x > 0:
        assert (up.double() - torch.tensor(x, dtype=dtype).double()) == 2 * half_ulp(x, dtype)


def test_one_rounding_is_at_most_u():
    x = 1 + torch.rand(10_000, dtype=torch.float64)
    for dtype in (F16, BF16, F32):
        relative = ((x.to(dtype).double() - x) / x).abs().max().item()
        assert 0.9 * unit_roundoff(dtype) < relative * 2 and relative <= unit_roundoff(dtype)


@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("term", [1.0, 0.3, 0.5, 0.75, 7.0, 2.0**-9])
def test_a_sum_stalls_where_the_formula_says(dtype, term):
    term = torch.tensor(term, dtype=dtype).item()
    n = 4 * int(stalls_at(term, dtype) / term) + 8
    totals = running_sum(torch.full((1, n), term), dtype)[0]
    assert totals[-1].item() == stalls_at(term, dtype)
    assert totals[-2] == totals[-1] and totals[0] == term


def test_fp32_stalls_too_but_at_sixteen_million():
    """Read off without adding sixteen million ones: one step before, at, and after."""
    assert stalls_at(1.0, F32) == 2**24
    near = torch.tensor([[2.0**24 - 1, 1.0, 1.0]])
    assert running_sum(near, F32).tolist() == [[2**24 - 1, 2**24, 2**24]]


def test_sixty_four_ones_at_a_time_do_not_stall_but_overflow():
    assert stalls_at(64.0, F16) == math.inf
    totals = running_sum(torch.ones(1, 65_600), F16, block=64)[0]
    assert totals[1022] == 65_472 and totals[1023] == math.inf  # 1,023 blocks fit


def test_a_block_is_summed_in_fp32():
    terms = torch.rand(3, 100, generator=torch.Generator().manual_seed(0))
    got = running_sum(terms, F16, block=100)
    assert torch.equal(got[:, 0], terms.sum(1).half())
    assert running_sum(terms, F16, block=30).shape == (3, 4)
    assert running_sum(terms[:, :0], F16).shape == (3, 0)


def test_random_weights_never_go_flat_in_fp16_and_are_far_off():
    """131,072 keys: a large weight still gets in now and then, the small ones are lost."""
    scores = torch.randn(2, 131_072, generator=torch.Generator().manual_seed(1))
    p = torch.exp(scores - scores.amax(1, keepdim=True))
    totals, truth = running_sum(p, F16), p.double().sum(1)
    assert ((totals[:, -1].double() / truth) < 0.3).all()
    assert (totals[:, -1] > totals[:, 65_536]).all()


@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("shift", [-200.0, 0.0, 12.0, 300.0])
def test_a_narrow_lse_makes_no_nan_and_stays_within_its_bound(dtype, shift):
    rng = torch.Generator().manual_seed(3)
    o = torch.randn(32, 5, 16, generator=rng, dtype=torch.float64)
    lse = shift + torch.randn(32, 5, generator=rng, dtype=torch.float64)
    o[3], lse[3] = 0.0, -math.inf
    o[:, 4], lse[:, 4] = 0.0, -math.inf
    got, exact = merge_with_lse_in(dtype, o, lse), merge_states(o, lse)[0]
    off, bound = (got - exact).abs(), merge_bound(dtype, o, lse)
    assert got.isfinite().all() and (off <= bound).all()
    assert off.max() > 0.02 * bound.max()  # the bound is about this error and not some other
    assert (got[4] == 0).all()


def test_equal_answers_survive_any_lse():
    """The error is in the weights alone: where all splits agree, weights do not matter."""
    o = torch.ones(8, 4, dtype=torch.float64)
    lse = 11 + torch.rand(8, dtype=torch.float64)
    assert (merge_with_lse_in(BF16, o, lse) - 1).abs().max() < 1e-15
    assert merge_bound(BF16, o, lse).max() < 1e-15


def test_lse_factor_is_reached():
    lse = torch.tensor(8 + 1 / 256, dtype=torch.float64)  # halfway between two numbers of fp16
    stored = lse.half().double()
    assert math.exp(abs(stored - lse)) == pytest.approx(lse_factor(8.0, F16))


def row(n=4096, D=16, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, generator=rng), torch.randn(n, D, generator=rng)


@pytest.mark.parametrize("S", [1, 16, 64])
def test_coin_flips_tell_the_size_of_a_real_error(S):
    """Within a factor of ten below and two above, where the worst case is off by thousands."""
    scores, v = row()
    o = merge_states(*decode_key_by_key(scores, v, S))[0]
    off = (o - torch.softmax(scores.double(), 0) @ v.double()).abs().max()
    expected = split_bound(scores, v, S, coin_flips=True).max()
    assert expected / 10 < off < 2 * expected < split_bound(scores, v, S).max() / 10


@pytest.mark.parametrize("S", [1, 2, 16, 64, 1024, 4096])
def test_errors_of_splits_stay_within_the_derived_bound(S):
    scores, v = row()
    o = merge_states(*decode_key_by_key(scores, v, S))[0]
    truth = torch.softmax(scores.double(), 0) @ v.double()
    off, bound = (o - truth).abs(), split_bound(scores, v, S)
    assert (off <= bound).all() and off.max() > 0


def test_the_bound_is_least_in_the_middle():
    scores, v = row()
    bounds = {S: split_bound(scores, v, S).max().item() for S in (1, 64, 4096)}
    assert bounds[64] < bounds[1] / 10 and bounds[64] < bounds[4096] / 10


def test_partials_of_a_row_are_attention_over_their_keys():
    scores, v = (x.double() for x in row(64))
    o, lse = decode_key_by_key(scores, v, 4)
    for s, (a, b) in enumerate(zip(scores.chunk(4), v.chunk(4), strict=True)):
        torch.testing.assert_close(o[s], torch.softmax(a, 0) @ b)
        torch.testing.assert_close(lse[s], torch.logsumexp(a, 0))


def test_a_long_row_in_three_ways():
    q = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    found = decode_long(q, chunks(1000, 128, 16, seed=5))
    k, v = (torch.cat(x).double() for x in zip(*chunks(1000, 128, 16, seed=5), strict=True))
    scores = q.double() @ k.T / 4
    assert (found.splits, found.keys) == (8, 1000)
    torch.testing.assert_close(found.truth, torch.softmax(scores, 1) @ v, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.truth_lse, torch.logsumexp(scores, 1), rtol=1e-12, atol=0)
    for o, lse in ((found.o, found.lse), (found.one_pass, found.one_pass_lse)):
        assert o.dtype == lse.dtype == F32
        torch.testing.assert_close(o.double(), found.truth, rtol=0, atol=2e-6)
        torch.testing.assert_close(lse.double(), found.truth_lse, rtol=1e-6, atol=0)


MILLION = """
import torch
from benchmarks.machine import memory_now_and_most
from reference.precision import chunks, decode_long
torch.manual_seed(0)
q = torch.randn(4, 32)
found = decode_long(q, chunks(2**20, 2**14, 32))
off = (found.o - found.truth).abs().max().item() / found.truth.abs().max().item()
print(found.keys, found.splits, off, memory_now_and_most()[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
def test_a_million_keys_within_a_gigabyte():
    run = subprocess.run(
        [sys.executable, "-c", MILLION], capture_output=True, text=True, check=True
    )
    keys, splits, off, peak = (float(x) for x in run.stdout.split())
    assert (keys, splits) == (1_048_576, 64)
    assert peak < 2**30, f"{peak / 2**20:.0f} MiB"
    # |o| is about 1/√n of |v|, so errors are large beside it: a term passes √c roundings of u, say
    assert off < 64 * unit_roundoff(F32) * math.sqrt(2**14)


MISUSE = {
    "dtype": (lambda: unit_roundoff(torch.int8), "must be one of .*; got torch.int8"),
    "beyond": (lambda: half_ulp(1e5, F16), "at most 65504 in size; got 100000"),
    "not finite": (lambda: half_ulp(math.inf, F32), "must be finite"),
    "one row": (lambda: running_sum(torch.ones(3), F16), r"\(rows, n\).*got \(3,\) and 1"),
    "block": (lambda: running_sum(torch.ones(1, 3), F16, block=0), "at least 1; got"),
    "no term": (lambda: stalls_at(0.0, F16), "must be positive and finite; got 0"),
    "ragged": (lambda: decode_key_by_key(*row(10), 4), "must divide the 10 keys; got 4"),
    "shapes": (lambda: decode_key_by_key(torch.ones(4), torch.ones(5, 2), 1), r"got \(4,\) and"),
    "no keys": (lambda: next(chunks(0, 4, 4)), "at least 1; got 0, 4 and 4"),
    "no chunks": (lambda: decode_long(torch.ones(1, 4), []), "at least one chunk"),
}


@pytest.mark.parametrize(("call", "said"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_told(call, said):
    with pytest.raises((ValueError, TypeError), match=said):
        call()


def test_all_that_is_promised_is_there():
    assert all(hasattr(precision, name) for name in precision.__all__)
