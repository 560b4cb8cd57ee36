"""The loop's fma: weights as near to the truth as exp2 allows, wherever the scores lie.

Triton 3.9's interpreter rounds `tl.fma` once, as a GPU does; that is not relied on here. What is
compiled is emulated: the product of two fp32 is exact in fp64, and so is its distance to a number
nearby.
"""

import math

import pytest
import torch

from kernels.flash_attention import flash_attention
from kernels.primitives import LOG2_E
from kernels.runtime import device

DEVICE = device()
KEYS = 512
HALF_ULP = 2.0**-24  # relative: what rounding to fp32 costs at most


def fused(scores, scale_log2):
    """p (fp32, as fp64) and the ruler m of `scaled_softmax_step`, the product not rounded."""
    m = (scores.amax(1) * scale_log2)[:, None]
    distance = (scores.double() * scale_log2.double() - m.double()).float()
    return torch.exp2(distance.double()).float().double(), m.double()


def rounded_first(scores, scale_log2):
    """The same with the product rounded before m is subtracted: two instructions."""
    scores_log2 = scores * scale_log2
    m = scores_log2.amax(1)[:, None]
    return torch.exp2((scores_log2 - m).double()).float().double(), m.double()


def weights_off(step, scores, scale_log2):
    """By how much p / l differs from the softmax of the same fp32 numbers, in units of 2^-24."""
    p, _ = step(scores, scale_log2)
    true = torch.softmax(scores.double() * scale_log2.double() * math.log(2), 1)
    return ((p / p.sum(1, keepdim=True) - true).abs().max() / HALF_ULP).item()


def drawn(shift, spread=6.0, rows=256, seed=0):
    rng = torch.Generator().manual_seed(seed)
    scale_log2 = torch.tensor(0.0883883 * LOG2_E, dtype=torch.float32)
    natural = shift + spread * torch.randn(rows, KEYS, generator=rng)
    return (natural / 0.0883883).float(), scale_log2


def bound(top):
    """The most by which a weight may be off, in units of 2^-24, where p is up to 2^top.

    d = fma(s, c, -m) is off by |d| · 2^-24, so p by ln 2 · |d| of that, and by 1 for its own
    rounding. p · |d| · ln 2 is at most 1/e for p up to 1, and the mean of |d| · ln 2, weighted by
    p / l, at most ln KEYS: with ln l it is the entropy of the weights. Up to 2^top: top · ln 2
    more, twice.
    """
    return 1 + 1 / math.e + 1 + math.log(KEYS) + 2 * top * math.log(2)


@pytest.mark.parametrize("shift", [-200.0, 0.0, 200.0, 3000.0])
def test_each_weight_is_rounded_once(shift):
    scores, scale_log2 = drawn(shift)
    assert weights_off(fused, scores, scale_log2) <= bound(top=0.001) < 7e-7 / HALF_ULP


@pytest.mark.parametrize("shift", [-200.0, 200.0])
def test_a_rounded_product_would_break_that_bound(shift):
    assert weights_off(rounded_first, *drawn(shift)) > 2 * bound(top=0.001)


@pytest.mark.parametrize("shift", [-200.0, 200.0, 3000.0])
def test_lse_contains_the_ruler_that_p_was_measured_with(shift):
    scores, scale_log2 = drawn(shift)
    p, m = fused(scores, scale_log2)
    lse = (m + p.sum(1, keepdim=True).log2()) * math.log(2)  # fp64: without its last roundings
    true = torch.logsumexp(scores.double() * scale_log2.double() * math.log(2), 1, keepdim=True)
    assert ((lse - true).abs().max() / HALF_ULP).item() <= 1 + math.log(KEYS)


@pytest.mark.parametrize("power", [10, 20, 24, 26])
@pytest.mark.parametrize("sign", [1, -1])
def test_p_fits_into_fp16_up_to_scores_of_2_to_the_27(power, sign):
    """Half a unit in m's last place is at most 4 there: the largest p lies between 1/16 and 16."""
    rng = torch.Generator().manual_seed(power)
    scores = sign * (1 + torch.rand(256, KEYS, generator=rng)) * 2.0**power / 1.5
    scale_log2 = torch.tensor(LOG2_E, dtype=torch.float32) * 0.9
    assert scores.abs().max() * scale_log2 < 2.0**27
    p, _ = fused(scores, scale_log2)
    largest = p.amax(1)
    assert (largest >= 1 / 16).all() and (largest <= 16).all()
    assert weights_off(fused, scores, scale_log2) <= bound(top=4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("scale", [1.0, -1.0])
@pytest.mark.parametrize("power", [8, 12])
def test_scores_far_apart_choose_one_key(power, scale, dtype):
    """Scores are exact here, and all weights but one are 0; that one need not be 1, but is l."""
    keys = 150
    q = torch.zeros(1, 20, 1, 16, device=DEVICE, dtype=dtype)
    k = torch.zeros(1, keys, 1, 16, device=DEVICE, dtype=dtype)
    q[..., 0] = q[..., 1] = 2.0**power
    k[..., 0] = 2.0**power
    k[..., 1] = torch.arange(keys, device=DEVICE)[None, :, None].to(dtype)
    v = torch.randn(1, keys, 1, 16, device=DEVICE).to(dtype)
    o, lse = flash_attention(q, k, v, scale=scale, return_lse=True)
    best = keys - 1 if scale > 0 else 0
    # p is rounded to the dtype of v, l is not, and o is rounded again
    wanted = v[:, best : best + 1].expand_as(o)
    torch.testing.assert_close(o, wanted, rtol=2 * torch.finfo(dtype).eps, atol=0)
    score = scale * (2.0 ** (2 * power) + best * 2.0**power)
    torch.testing.assert_close(lse, torch.full_like(lse, score), rtol=4 * HALF_ULP, atol=0)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy's, about inf - inf
def test_a_score_of_infinity_is_the_only_one_that_counts_or_nan():
    """As naive attention: +inf beside finite scores is inf - inf, which is NaN; -inf weighs 0."""
    q = torch.ones(1, 2, 1, 16, device=DEVICE)
    k, v = torch.zeros(2, 1, 70, 1, 16, device=DEVICE)
    v[:, 3] = 7.0
    k[:, 3, :, 0] = -math.inf
    o, lse = flash_attention(q, k, v, return_lse=True)
    assert (o == 0).all()
    torch.testing.assert_close(lse, torch.full_like(lse, math.log(69)))
    k[:, 3, :, 0] = math.inf
    assert flash_attention(q, k, v).isnan().all()
