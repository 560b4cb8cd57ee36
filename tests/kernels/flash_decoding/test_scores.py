"""kernels.flash_decoding: everything that can happen to a score, at its extremes."""

import math

import pytest
import torch
from decode_calls import DEVICE, judge, plain_call, to
from shapes import DTYPES

from kernels.flash_decoding import flash_decode

CUTS = ({"num_splits": 1}, {"num_splits": 4}, {"split_size": 128}, {"planned": True})


def name_of(cut):
    return "-".join(map(str, *cut.items()))


# ---- Window ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS, ids=name_of)
@pytest.mark.parametrize("left", [0, 63, 64, 130])
def test_a_window_that_crosses_blocks_and_splits(left, cut):
    judge(plain_call((300, 65, 0), Lq=2, window=left), **cut)


@pytest.mark.parametrize("window", [(None, 0), (0, 0), (3, 5), (70, 1), (None, 2**31 - 1)], ids=str)
def test_a_window_on_both_sides(window):
    judge(plain_call((150, 64, 3), Lq=5, causal=False, window=window), num_splits=2)


def test_a_window_wider_than_32_bits_is_no_window():
    """In 32 bits, length - Lq - window is a large positive number."""
    call = plain_call((70, 0, 3), Lq=5, causal=False)
    wanted = judge(call, num_splits=2)
    for window in (2**31 - 1, (2**31 - 1, 2**31 - 1)):
        got = judge(plain_call((70, 0, 3), Lq=5, causal=False, window=window), num_splits=2)
        assert all(torch.equal(x, y) for x, y in zip(got, wanted, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shift", [-200.0, 0.0, 200.0])
def test_blocks_wholly_hidden_before_visible_ones(shift, dtype):
    """70 queries and a window of 5: what the first queries see is hidden from the last ones."""
    call = plain_call((150, 90), Lq=70, Hq=1, dtype=dtype, shift=shift, window=5)
    _, lse = judge(call, num_splits=2)
    assert (lse - shift).abs().max() < 20  # the shift took effect


@pytest.mark.parametrize("G", [1, 4], ids=["sum", "dot"])
@pytest.mark.parametrize("shift", [-200.0, 200.0])
def test_hidden_by_a_mask_before_visible_ones(shift, G):
    """Row 0 sees only the last of the 70 new tokens, which lies in another block."""
    mask = torch.zeros(70, 70, dtype=torch.bool)
    mask[:, 69] = True
    call = plain_call((70, 71), Lq=70, Hq=G, causal=False, shift=shift, mask=mask)
    o, _ = judge(call, num_splits=1)
    v = call.arguments[2]
    torch.testing.assert_close(o[0], v[0, 69].expand(70, G, 16))


# ---- Sinks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS, ids=name_of)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_sinks(dtype, cut):
    """A row without keys has o = 0, and its lse is the sink."""
    sinks = torch.tensor([0.5, -math.inf, 200.0]).to(dtype)
    o, lse = judge(plain_call((130, 0, 1), sinks=sinks), **cut)
    assert (o[1] == 0).all()
    torch.testing.assert_close(lse[1, 0], to(sinks.float()), rtol=1e-6, atol=0)
    assert (lse[0, 0, 2] - 200).abs() < 1e-3 and (o[0, 0, 2].abs() < 1e-30).all()


@pytest.mark.parametrize("num_splits", [1, 3])
def test_a_sink_of_minus_infinity_changes_no_bit(num_splits):
    wanted = judge(plain_call((130, 0), Lq=2), num_splits=num_splits)
    call = plain_call((130, 0), Lq=2, sinks=torch.full((3,), -math.inf))
    got = judge(call, num_splits=num_splits)
    assert all(torch.equal(x, y) for x, y in zip(got, wanted, strict=True))


# ---- Softcap ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:overflow")  # in tanh's series, which is unused there
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("softcap", "scale"), [(1e-3, 1e3), (1e-30, 1.0), (50, 1e4), (1e30, 0.1)])
def test_extreme_softcaps(softcap, scale, dtype):
    """Scores far above the cap, where tanh is exactly 1; and far below, where it does nothing."""
    judge(plain_call((130, 3), dtype=dtype, scale=scale, softcap=softcap), num_splits=2)


@pytest.mark.parametrize("softcap", [1.0, 30.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_softcap_keeps_its_digits(sign, softcap):
    """One key: lse is the capped score itself, from 1e-7 to far above the cap.

    Twelve roundings at most, four of them in tanh, and no later step amplifies any of them.
    """
    Hq = 480
    x = sign * torch.logspace(-7, 2, Hq, dtype=torch.float64).float()
    q, k = x.view(1, 1, Hq, 1).to(DEVICE), torch.ones(1, 1, 1, 1, device=DEVICE)
    _, lse = flash_decode(q, k, k, scale=1.0, softcap=softcap, num_splits=1, return_lse=True)
    truth = softcap * torch.tanh(x.double() / softcap)
    error = ((lse.cpu().double().flatten() - truth) / truth).abs()
    assert error.max() < 12 * torch.finfo(torch.float32).eps / 2, error.max()


# ---- ALiBi, masks ----------------------------------------------------------------------------


def test_alibi_looks_both_ways():
    """Not causal: keys after the query count less, too."""
    slopes = torch.tensor([0.5, 2.0, 0.0])
    judge(plain_call((130, 4), Lq=6, causal=False, alibi_slopes=slopes), num_splits=2)


@pytest.mark.parametrize("lengths", [(3, 0, 1), (70, 64, 66)], ids=["short", "long"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_mask_of_the_new_tokens(ndim, causal, lengths):
    """Also of tokens that do not fit in the row: their columns fall before position 0."""
    rng = torch.Generator().manual_seed(ndim)
    shape = (5, 5) if ndim == 2 else (3, 5, 5)
    numbers = torch.randn(shape, generator=rng)
    wide = torch.full((*shape[:-1], 9), math.nan)  # the mask is a view of something wider
    wide[..., 2:7] = numbers.masked_fill(torch.randn(shape, generator=rng) > 1, -math.inf)
    for mask in (numbers > 0, wide.to(DEVICE)[..., 2:7]):
        judge(plain_call(lengths, Lq=5, causal=causal, mask=mask), num_splits=2)


def test_a_tree_of_guesses():
    """Two branches of two tokens each: the same answer as two calls with one branch each."""
    tree = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]).bool()
    call = plain_call((70,), Lq=4, mask=tree)
    o, _ = judge(call, num_splits=1)
    q, k, v, _ = call.arguments
    for queries, keys in (([0, 1], [66, 67]), ([2, 3], [68, 69])):
        places = [*range(66), *keys]
        alone = flash_decode(q[:, queries], k[:, places], v[:, places], num_splits=1)
        torch.testing.assert_close(o[:, queries], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e5, 2.0**31, 2.0**60])
def test_scores_too_large_for_their_digits(scale):
    """fp32 resolves scores of 1e10 only to about 1,000: the largest wins; nothing overflows."""
    judge(plain_call((130, 3), scale=scale), num_splits=2)
