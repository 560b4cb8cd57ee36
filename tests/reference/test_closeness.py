"""reference.closeness passes right answers and rejects wrong ones, whatever their cosine."""

import math

import pytest
import torch
import torch.nn.functional as F

from reference.attention import attention, oracle
from reference.closeness import assert_close_to_oracle, compare, rounding_band

LOST = 64  # of 2048 keys, those that a wrong answer forgets


@pytest.fixture(scope="module", params=[torch.float16, torch.float32], ids=["fp16", "fp32"])
def case(request):
    """q, k, v, the truth and its lse, the baseline and its lse."""
    rng = torch.Generator().manual_seed(0)
    shapes = [(1, 1, 8, 64), (1, 2048, 2, 64), (1, 2048, 2, 64)]
    q, k, v = (torch.randn(*shape, generator=rng).to(request.param) for shape in shapes)
    return (q, k, v), oracle(q, k, v), attention(q, k, v, return_lse=True)


def test_a_better_answer_passes(case):
    _, (truth, true_lse), (baseline, lse) = case
    assert_close_to_oracle(truth.to(baseline.dtype), baseline, truth)
    assert_close_to_oracle(true_lse.float(), lse, true_lse, name="lse")


def test_the_baseline_passes(case):
    _, (truth, _), (baseline, _) = case
    assert compare(baseline, baseline, truth).ok


def wrong_answers(inputs, truth, lse):
    q, k, v = inputs
    fewer, fewer_lse = oracle(q, k[:, :-LOST], v[:, :-LOST])
    yield "last tile forgotten", fewer
    yield "denominator lacks a tile", truth * torch.exp(lse - fewer_lse)[..., None]
    yield "twice as large", 2 * truth
    yield "zeros", torch.zeros_like(truth)
    yield "heads exchanged", truth.flip(2)
    one_entry = truth.clone()
    one_entry[..., 0, 0] += 0.01
    yield "one entry off", one_entry
    yield "not scaled", oracle(q, k, v, scale=1.0)[0]


def test_wrong_answers_fail(case):
    inputs, (truth, true_lse), (baseline, _) = case
    for name, wrong in wrong_answers(inputs, truth, true_lse):
        wrong = wrong.to(baseline.dtype)
        assert not compare(wrong, baseline, truth).ok, name
        with pytest.raises(AssertionError, match="too far"):
            assert_close_to_oracle(wrong, baseline, truth, name=name)


def test_they_fail_where_the_cosine_is_content(case):
    inputs, (truth, true_lse), _ = case
    cosines = {
        name: F.cosine_similarity(wrong.flatten(), truth.flatten(), dim=0).item()
        for name, wrong in wrong_answers(inputs, truth, true_lse)
    }
    assert cosines["last tile forgotten"] > 0.97
    assert cosines["denominator lacks a tile"] > 0.999
    assert cosines["twice as large"] > 0.999


def test_a_wrong_lse_fails(case):
    _, (_, true_lse), (_, lse) = case
    for wrong in (true_lse / math.log(2), true_lse + 0.1):
        assert not compare(wrong.to(lse.dtype), lse, true_lse).ok


def test_a_small_error_everywhere_fails_by_its_mean():
    truth = torch.linspace(1, 2, 1000, dtype=torch.float64)
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(0)).double()
    baseline = truth + 1e-3 * noise
    shifted = truth + 2e-3  # under twice the baseline's worst error, well over 1.5 × its mean
    closeness = compare(shifted, baseline, truth)
    assert closeness.max_error < 2 * closeness.baseline_max and not closeness.ok


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_inf_and_nan_are_errors(bad):
    truth = torch.ones(4, dtype=torch.float64)
    got = torch.ones(4)
    got[2] = bad
    with pytest.raises(AssertionError, match="lse: 1 of 4 values are inf or nan"):
        compare(got, torch.ones(4), truth, name="lse")


def test_an_empty_row_must_stay_empty():
    truth = torch.tensor([1.0, -math.inf], dtype=torch.float64)
    assert compare(truth.float(), truth.float(), truth).ok
    for wrong in ([1.0, 0.0], [1.0, math.nan], [-math.inf, -math.inf], [1.0, -1e30]):
        with pytest.raises(AssertionError, match="inf or nan"):
            compare(torch.tensor(wrong), truth.float(), truth)


def test_a_baseline_that_overflows_buys_nothing():
    truth = torch.ones(3, dtype=torch.float64)
    baseline = torch.tensor([1.0, math.inf, math.nan])
    assert compare(truth.float(), baseline, truth).ok
    assert not compare(torch.tensor([1.0, 2.0, 1.0]), baseline, truth).ok


def test_the_band_is_two_roundings_at_the_largest_value():
    truth = torch.tensor([0.5, -3.0, -math.inf], dtype=torch.float64)
    assert rounding_band(truth, torch.float16) == 3 * torch.finfo(torch.float16).eps
    assert rounding_band(torch.tensor([-math.inf]).double(), torch.float16) == 0.0


def test_an_exact_baseline_leaves_room_for_one_rounding():
    truth = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
    exact = truth.clone()
    rounded = truth.half()
    assert compare(rounded, exact, truth).baseline_max == 0.0
    assert compare(rounded, exact, truth).ok


def test_shapes_must_agree():
    ones = torch.ones(2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"o: shapes.*\(3,\).*\(2,\)"):
        compare(torch.ones(3), ones, ones)


def test_it_prints_what_was_allowed():
    truth = torch.ones(2, dtype=torch.float64)
    text = str(compare(torch.full((2,), 1.5), torch.ones(2), truth, name="dq"))
    assert text.startswith("dq: max error 5.00e-01 (allowed 1.19e-07)")
    assert text.endswith("too far")
