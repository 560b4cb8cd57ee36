"""Every feature of decoding, alone and with others, against plain loops over numbers."""

import doctest
import math
from itertools import combinations, permutations

import pytest
import torch
from feature_cases import FEATURES, brute_force, draw_case

from reference import features as module
from reference.attention import attention_with_cache, oracle_with_cache
from reference.closeness import assert_close_to_oracle
from reference.features import Features, row_range
from reference.flash_decoding import flash_decode, row_partials, split_row

# fp64: scores are sums of 8 products, weights sums of at most 25; numbers below 10
FP64 = {"atol": 1e-12, "rtol": 1e-12}
PAIRS = [p for p in combinations(FEATURES, 2) if p != ("cache_batch_idx", "block_table")]


def draw_features(seed):
    """A random choice of features, each with probability ½, with at most one layout."""
    rng = torch.Generator().manual_seed(1000 + seed)
    chosen = [name for name in FEATURES if torch.rand((), generator=rng).item() < 0.5]
    if {"cache_batch_idx", "block_table"} <= set(chosen):
        chosen.remove("cache_batch_idx" if seed % 2 else "block_table")
    return tuple(chosen)


def assert_same(got, wanted, about):
    torch.testing.assert_close(got, wanted, **FP64, msg=lambda text: f"{about}: {text}")


def assert_all_agree(case, splits=(1, 2, 3, 4, 5), sizes=(1, 7, 16)):
    """The oracle and every way of splitting give the same result as the loops."""
    wanted = brute_force(case)
    got = oracle_with_cache(*case.arguments, **case.keywords)
    assert_same(got, wanted, f"{case}")
    for cut in [*({"num_splits": n} for n in splits), *({"split_size": n} for n in sizes)]:
        got = flash_decode(*case.arguments, **case.keywords, **cut, return_lse=True)
        assert_same(got, wanted, f"{case}, {cut}")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("feature", FEATURES)
def test_each_alone(feature, seed):
    assert_all_agree(draw_case(seed, (feature,)))


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_pairs(pair):
    assert_all_agree(draw_case(100, pair), splits=(3,), sizes=(5,))


@pytest.mark.parametrize("seed", range(40))
def test_any_choice(seed):
    assert_all_agree(draw_case(seed, draw_features(seed)), splits=(1 + seed % 5,), sizes=(4,))


def test_none_at_all():
    for seed in range(4):
        assert_all_agree(draw_case(seed, ()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_dtypes(seed, dtype):
    case = draw_case(seed, draw_features(seed), dtype)
    base = attention_with_cache(*case.arguments, **case.keywords, return_lse=True)
    truth = oracle_with_cache(*case.arguments, **case.keywords)
    torch.testing.assert_close(truth, brute_force(case), **FP64)
    assert base[0].dtype == dtype and base[1].dtype == torch.float32
    # scores below 50, rounded a few times: the same error in lse, absolute; in o, relative
    rounding = 4 * 50 * torch.finfo(dtype).eps
    torch.testing.assert_close([x.double() for x in base], [*truth], atol=rounding, rtol=rounding)
    got = flash_decode(*case.arguments, **case.keywords, num_splits=3, return_lse=True)
    assert got[0].dtype == dtype and got[1].dtype == torch.float32
    for name, *three in zip(("o", "lse"), got, base, truth, strict=True):
        assert_close_to_oracle(*three, name=name)


# ---- What must make no difference ------------------------------------------------------------


def both(q, k, v, lengths=None, **keywords):
    """The answer, on which the oracle and the splits must agree."""
    wanted = oracle_with_cache(q, k, v, lengths, **keywords)
    got = flash_decode(q, k, v, lengths, num_splits=3, return_lse=True, **keywords)
    torch.testing.assert_close(got, wanted, **FP64)
    return wanted


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "keywords",
    [
        {"window": 24},
        {"window": (24, 24)},
        {"window": (None, None)},
        {"softcap": 1e7},  # s − c · tanh(s / c) is about s³ / 3c²
        {"sinks": torch.full((2,), -math.inf)},
        {"alibi_slopes": torch.zeros(2)},
        {"mask": torch.ones(3, 3, dtype=torch.bool)},
        {"mask": torch.zeros(3, 3)},
        {"cache_leftpad": torch.zeros(3, dtype=torch.int32)},
        {"cache_batch_idx": torch.arange(3)},
        {"block_table": torch.arange(3)[:, None]},
    ],
    ids=lambda keywords: next(iter(keywords)),
)
def test_a_feature_that_changes_nothing(keywords, causal):
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, n, 2, 8, generator=rng).double() for n in (3, 32, 32))
    lengths = torch.tensor([24, 2, 0])
    plain = oracle_with_cache(q, k, v, lengths, causal=causal)
    torch.testing.assert_close(
        both(q, k, v, lengths, causal=causal, **keywords), plain, atol=1e-11, rtol=0
    )


def test_a_lower_triangle_is_causal():
    q, k, v = (torch.randn(2, n, 2, 8).double() for n in (4, 16, 16))
    lengths = torch.tensor([16, 2])  # the second row holds the last two of four new tokens
    got = both(q, k, v, lengths, causal=False, mask=torch.ones(4, 4).tril().bool())
    torch.testing.assert_close(got, oracle_with_cache(q, k, v, lengths), **FP64)


def test_pages_may_lie_anywhere():
    case = draw_case(2, ("block_table", "sinks", "window"))
    q, k, v, lengths = case.arguments
    rest = {name: x for name, x in case.keywords.items() if name != "block_table"}
    table = case.keywords["block_table"]
    order = torch.randperm(len(k), generator=torch.Generator().manual_seed(0))
    live = (table >= 0) & (table < len(k))
    moved = torch.where(live, order.argsort()[table.where(live, 0)], table)
    wanted = attention_with_cache(q, k, v, lengths, block_table=table, **rest)
    got = attention_with_cache(q, k[order], v[order], lengths, block_table=moved, **rest)
    assert torch.equal(got, wanted)


def test_a_row_without_keys_has_its_sink():
    q, k, v = (torch.randn(1, 3, 2, 8).double() for _ in range(3))
    sinks = torch.tensor([0.25, -math.inf], dtype=torch.bfloat16)
    o, lse = both(q, k, v, torch.tensor([1]), sinks=sinks)
    assert (o[0, :2] == 0).all() and torch.equal(lse[0, :2], sinks.double().expand(2, 2))
    assert lse[0, 2].isfinite().all()


def test_the_sink_is_a_partial_by_itself():
    case = draw_case(4, ("sinks",))
    q, k, v, lengths = case.arguments
    features = Features(sinks=case.keywords["sinks"])
    length = int(lengths[1])
    bounds = split_row(0, length, 2)
    *own, (o, lse) = row_partials(q, k, v, 1, length, bounds, True, None, features)
    plain = row_partials(q, k, v, 1, length, bounds, True, None, Features())
    assert len(own) == 2
    torch.testing.assert_close(own, plain, atol=0, rtol=0)
    assert (o == 0).all() and torch.equal(lse, features.sinks.to(lse.dtype).expand_as(lse))


# ---- Which keys are read ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "leftpad, window, length, Lq, wanted",
    [
        (0, None, 10, 2, (0, 10)),
        (3, None, 10, 2, (3, 10)),
        (0, 4, 10, 2, (4, 10)),  # the first of two queries is at 8 and sees keys from 4 on
        (5, (4, None), 10, 2, (5, 10)),
        (0, (None, 1), 10, 2, (0, 10)),
        (0, 0, 10, 1, (9, 10)),
        (7, 9, 5, 1, (5, 5)),  # all padding
        (0, 9, 3, 5, (0, 3)),
    ],
)
def test_row_range(leftpad, window, length, Lq, wanted):
    features = Features(cache_leftpad=torch.tensor([99, leftpad]), window=window)
    assert row_range(features, 1, length, Lq) == wanted


@pytest.mark.parametrize("start, stop", [(0, 0), (0, 24), (5, 20), (16, 17), (9, 9), (15, 33)])
@pytest.mark.parametrize("size", [1, 8, 16, 100])
def test_split_size_cuts_at_its_multiples(start, stop, size):
    bounds = split_row(start, stop, split_size=size)
    assert [j for first, last in bounds for j in range(first, last)] == [*range(start, stop)]
    assert len(bounds) >= 1 and all(last % size == 0 for _, last in bounds[:-1])
    assert all(last - first <= size for first, last in bounds)


def test_split_size_keeps_the_bits_of_a_row():
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, n, 2, 8, generator=rng) for n in (1, 64, 64))
    lengths = torch.tensor([64, 37, 5])
    o = flash_decode(q, k, v, lengths, split_size=16)
    for order in permutations(range(3), 2):
        rows = list(order)
        got = flash_decode(q[rows], k[rows], v[rows], lengths[rows], split_size=16)
        assert torch.equal(got, o[rows])


def test_doctests():
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted > 0 and result.failed == 0
