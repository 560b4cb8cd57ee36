"""reference.flash_decoding: any number of splits gives attention, and no input is changed."""

import doctest
import math

import pytest
import torch

from reference import flash_decoding as module
from reference.attention import attention_with_cache, oracle_with_cache
from reference.closeness import assert_close_to_oracle
from reference.flash_decoding import (
    flash_decode,
)

HEADS = [
    pytest.param(4, 4, id="mha"),
    pytest.param(6, 2, id="gqa-3-not-a-power-of-2"),
    pytest.param(4, 1, id="mqa"),
]
LENGTHS = [
    pytest.param([37, 37], id="full"),
    pytest.param([37, 20], id="ragged"),
    pytest.param([1, 2], id="fewer-keys-than-splits"),
    pytest.param([0, 5], id="one-row-empty"),
    pytest.param([0, 0], id="all-rows-empty"),
]


def make(B=2, Lq=1, capacity=37, Hq=4, Hkv=2, D=16, Dv=None, dtype=torch.float32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    shapes = [(B, Lq, Hq, D), (B, capacity, Hkv, D), (B, capacity, Hkv, Dv or D)]
    return [torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype) for shape in shapes]


def poison(cache, lengths):
    """The same cache with NaN in every cell past a row's length."""
    cache = cache.clone()
    for row, n in zip(cache, lengths, strict=True):
        row[n:] = math.nan
    return cache


def assert_decodes(q, k, v, lengths, *, causal, num_splits, dtype=torch.float32, scale=None):
    seqlens = torch.tensor(lengths, dtype=torch.int32)
    o, lse = flash_decode(
        q, poison(k, lengths), poison(v, lengths), seqlens, causal=causal, num_splits=num_splits,
        return_lse=True, scale=scale,
    )  # fmt: skip
    base_o, base_lse = attention_with_cache(
        q, k, v, seqlens, causal=causal, return_lse=True, scale=scale
    )
    true_o, true_lse = oracle_with_cache(q, k, v, seqlens, causal=causal, scale=scale)
    assert o.dtype == dtype and lse.dtype == (
        torch.float64 if dtype == torch.float64 else torch.float32
    )
    assert_close_to_oracle(o, base_o, true_o)
    assert_close_to_oracle(lse, base_lse, true_lse, name="lse")
    return o, lse


@pytest.mark.parametrize("num_splits", range(1, 34))
def test_every_number_of_splits(num_splits):
    q, k, v = make()
    assert_decodes(q, k, v, [37, 20], causal=True, num_splits=num_splits)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("Lq", [1, 3, 8])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("Hq, Hkv", HEADS)
def test_rows_heads_and_queries(Hq, Hkv, lengths, Lq, causal):
    q, k, v = make(Lq=Lq, Hq=Hq, Hkv=Hkv)
    for num_splits in (1, 3, 5):
        assert_decodes(q, k, v, lengths, causal=causal, num_splits=num_splits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(dtype):
    q, k, v = make(dtype=dtype, Lq=2)
    assert_decodes(q, k, v, [37, 20], causal=True, num_splits=4, dtype=dtype)


def test_fp64_is_the_oracle_to_rounding():
    """There is no better baseline to compare with, so a few fp64 roundings are allowed."""
    q, k, v = make(dtype=torch.float64, Lq=2)
    got = flash_decode(q, k, v, num_splits=5, return_lse=True)
    assert got[1].dtype == torch.float64
    torch.testing.assert_close(got, oracle_with_cache(q, k, v), atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("shift", [200.0, -200.0])
def test_scores_far_from_zero(shift):
    """A score near 200 is rounded to eps · 200, and so is the lse that a split passes on.

    Each changes a weight by that much, relatively: a little more than naive attention's error.
    """
    q, k, v = make()
    q[..., 0], k[..., 0] = 4.0, shift  # scale is 1/4: every score moves by `shift`
    o, lse = flash_decode(q, k, v, num_splits=5, return_lse=True)
    true_o, true_lse = oracle_with_cache(q, k, v)
    rounding = torch.finfo(torch.float32).eps * 205  # the scores scatter by about ± 5
    bound = 2 * rounding * v.abs().max().item()
    torch.testing.assert_close(o.double(), true_o, atol=bound, rtol=0)
    torch.testing.assert_close(lse.double(), true_lse, atol=2 * rounding, rtol=0)


def test_a_scale_and_another_value_width():
    q, k, v = make(D=16, Dv=5)
    o, _ = assert_decodes(q, k, v, [37, 20], causal=True, num_splits=3, scale=0.5)
    assert o.shape == (2, 1, 4, 5)


def test_strided_views():
    q, k, v = make()
    apart = [torch.randn(2, 4, 74, 16)[:, ::2, ::2].transpose(1, 2).copy_(x) for x in (k, v)]
    assert not apart[0].is_contiguous()
    wanted = flash_decode(q, k, v, num_splits=3)
    assert torch.equal(flash_decode(q, *apart, num_splits=3), wanted)


def test_empty_rows_say_so():
    q, k, v = make()
    o, lse = assert_decodes(q, k, v, [0, 5], causal=True, num_splits=3)
    assert torch.equal(o[0], torch.zeros(1, 4, 16))
    assert torch.equal(lse[0], torch.full((1, 4), -math.inf))
    assert lse[1].isfinite().all()


def test_more_new_tokens_than_the_row_has_keys():
    """Bottom-right: of four queries over two keys, the first two see nothing."""
    q, k, v = make(Lq=4)
    _, lse = assert_decodes(q, k, v, [2, 2], causal=True, num_splits=2)
    assert torch.equal(lse[0, :, 0] == -math.inf, torch.tensor([True, True, False, False]))


def test_nothing_is_modified_and_the_default_is_four_splits():
    q, k, v = make()
    before = [x.clone() for x in (q, k, v)]
    got = flash_decode(q, k, v)
    assert all(torch.equal(x, y) for x, y in zip((q, k, v), before, strict=True))
    assert torch.equal(got, flash_decode(q, k, v, num_splits=4))


def test_same_bits_again():
    q, k, v = make(capacity=257)
    runs = [flash_decode(q, k, v, num_splits=7, return_lse=True) for _ in range(3)]
    assert all(torch.equal(o, runs[0][0]) and torch.equal(lse, runs[0][1]) for o, lse in runs)


def test_permuting_the_batch_permutes_the_bits():
    q, k, v = make(B=4)
    lengths, order = torch.tensor([37, 0, 12, 5]), torch.tensor([2, 0, 3, 1])
    o, lse = flash_decode(q, k, v, lengths, num_splits=3, return_lse=True)
    moved = flash_decode(
        q[order], k[order], v[order], lengths[order], num_splits=3, return_lse=True
    )
    assert torch.equal(moved[0], o[order]) and torch.equal(moved[1], lse[order])


# ---- Misuse ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, error, says",
    [
        (lambda q, k, v: (q[0], k, v), ValueError, "q must be"),
        (lambda q, k, v: (q[:, :, :3], k, v), ValueError, "multiple of Hkv"),
        (lambda q, k, v: (q[..., :8], k, v), ValueError, "agree in B and D"),
        (lambda q, k, v: (q[:1], k, v), ValueError, "agree in B and D"),
        (lambda q, k, v: (q, k, v[:, :9]), ValueError, "k and v must agree"),
        (lambda q, k, v: (q.half(), k, v), TypeError, "one dtype"),
        (lambda q, k, v: (q.int(), k, v), TypeError, "floating point"),
    ],
    ids=["rank", "heads", "D", "B", "kv", "dtype", "integers"],
)
def test_shapes_and_dtypes_are_checked(change, error, says):
    with pytest.raises(error, match=says):
        flash_decode(*change(*make()))


@pytest.mark.parametrize(
    "seqlens, error",
    [
        (torch.tensor([5, 38]), ValueError),
        (torch.tensor([-1, 5]), ValueError),
        (torch.tensor([5]), ValueError),
        (torch.tensor([5.0, 5.0]), TypeError),
    ],
    ids=["beyond-the-cache", "negative", "wrong-shape", "floats"],
)
def test_lengths_are_checked(seqlens, error):
    with pytest.raises(error, match="cache_seqlens must"):
        flash_decode(*make(), seqlens)


@pytest.mark.parametrize("num_splits", [0, -1])
def test_num_splits_is_checked(num_splits):
    with pytest.raises(ValueError, match="num_splits at least 1"):
        flash_decode(*make(), num_splits=num_splits)


def test_doctests():
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
