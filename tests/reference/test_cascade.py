"""reference.cascade: attention over the concatenation; the parts of any partition merge to it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.attention import attention_with_cache, oracle, oracle_with_cache
from reference.cascade import cascade_decode
from reference.closeness import assert_close_to_oracle
from reference.online_softmax import merge_states

FP64 = {"atol": 1e-12, "rtol": 1e-12}
B, HQ, HKV, D, DV, CAPACITY = 3, 4, 2, 8, 5, 20
FEATURES = {
    "none": {},
    "not-causal": {"causal": False, "scale": 0.5},
    "softcap": {"softcap": 0.7},
    "sinks": {"sinks": torch.tensor([0.5, -1.0, 3.0, -math.inf])},
    "alibi": {"alibi_slopes": torch.tensor([0.5, 0.1, 0.0, 1.0])},
    "alibi-rows": {"alibi_slopes": torch.arange(B * HQ).view(B, HQ) / 10},
    "window": {"window": 9},
    "window-inside-the-suffix": {"window": 1},
    "window-both": {"window": (12, 1), "causal": False},
}
LENGTHS = [
    pytest.param(13, 1, [20, 7, 1], id="decode"),
    pytest.param(6, 3, [3, 20, 9], id="several-new-tokens"),
    pytest.param(0, 2, [5, 20, 2], id="no-prefix"),
    pytest.param(9, 2, [0, 1, 20], id="new-tokens-in-the-prefix"),
    pytest.param(4, 1, [0, 0, 0], id="only-the-prefix"),
]


def make(Lp, Lq, lengths, dtype=torch.float64, seed=0):
    """q, the prefix, and caches with NaN past each row's length."""
    rng = torch.Generator().manual_seed(seed)
    shapes = [(B, Lq, HQ, D), (Lp, HKV, D), (Lp, HKV, DV), (B, CAPACITY, HKV, D)]
    shapes += [(B, CAPACITY, HKV, DV)]
    q, pk, pv, k, v = (torch.randn(*s, generator=rng).to(dtype) for s in shapes)
    for b, n in enumerate(lengths):
        k[b, n:] = v[b, n:] = math.nan
    return q, pk, pv, k, v


def concatenated(q, pk, pv, k, v, lengths, *, function=oracle_with_cache, **keywords):
    whole = [torch.cat([p.expand(B, *p.shape), x], 1) for p, x in ((pk, k), (pv, v))]
    return function(q, *whole, torch.tensor(lengths) + len(pk), **keywords)


@pytest.mark.parametrize("keywords", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("Lp, Lq, lengths", LENGTHS)
def test_attention_over_the_concatenation(Lp, Lq, lengths, keywords):
    tensors = make(Lp, Lq, lengths)
    wanted = concatenated(*tensors, lengths, **keywords)
    for num_splits in (1, 3):
        got = cascade_decode(
            *tensors, torch.tensor(lengths), num_splits=num_splits, return_lse=True, **keywords
        )
        torch.testing.assert_close(got, wanted, **FP64)


def test_mask_of_the_new_tokens():
    lengths = [5, 20, 3]
    tensors = make(7, 3, lengths)
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]]).bool()
    got = cascade_decode(*tensors, torch.tensor(lengths), mask=mask, return_lse=True)
    torch.testing.assert_close(got, concatenated(*tensors, lengths, mask=mask), **FP64)


def test_suffixes_in_pages():
    q, pk, pv, k, v = make(7, 2, [CAPACITY] * 3)
    pages = [x.reshape(B * 5, 4, HKV, -1) for x in (k, v)]
    table = torch.arange(B * 5).view(B, 5).flip(0)
    lengths = torch.tensor([20, 11, 3])
    got = cascade_decode(q, pk, pv, *pages, lengths, block_table=table, return_lse=True)
    wanted = concatenated(q, pk, pv, k.flip(0), v.flip(0), [20, 11, 3])
    torch.testing.assert_close(got, wanted, **FP64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dtypes(dtype):
    lengths = [20, 7, 1]
    tensors = make(13, 1, lengths, dtype)
    o, lse = cascade_decode(*tensors, torch.tensor(lengths), return_lse=True)
    assert o.dtype == dtype and lse.dtype == torch.float32
    truth = concatenated(*tensors, lengths)
    base = concatenated(*tensors, lengths, function=attention_with_cache, return_lse=True)
    for name, *three in zip(("o", "lse"), (o, lse), base, truth, strict=True):
        assert_close_to_oracle(*three, name=name)
    assert torch.equal(cascade_decode(*tensors, torch.tensor(lengths)), o)


@pytest.mark.parametrize(
    "change, error, says",
    [
        (lambda q, pk, pv, k, v: (q, pk[:, :1], pv, k, v), ValueError, r"prefix_k .*\(…, 2, 8\)"),
        (lambda q, pk, pv, k, v: (q, pk, pv[None], k, v), ValueError, r"prefix_v .*\(…, 2, 5\)"),
        (lambda q, pk, pv, k, v: (q, pk[1:], pv, k, v), ValueError, "Lp; got 5 and 6"),
        (lambda q, pk, pv, k, v: (q, pk.half(), pv, k, v), TypeError, "dtype of q.*float16"),
    ],
)
def test_misuse(change, error, says):
    with pytest.raises(error, match=says):
        cascade_decode(*change(*make(6, 1, [CAPACITY] * 3)))


def test_a_mask_wants_the_new_tokens_in_the_cache():
    with pytest.raises(ValueError, match=r"at least Lq = 3 own keys; got \[2, 9, 9\]"):
        cascade_decode(*make(6, 3, [2, 9, 9]), torch.tensor([2, 9, 9]), mask=torch.zeros(3, 3))


# ---- merge_states ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 2**31 - 1))
def test_any_partition_merges_to_the_whole(sizes, seed):
    rng = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, n, 2, 4, generator=rng).double() for n in (3, *[sum(sizes)] * 2))
    parts = [oracle(q, *x) for x in zip(k.split(sizes, 1), v.split(sizes, 1), strict=True)]
    os, lses = zip(*parts, strict=True)
    torch.testing.assert_close(merge_states(os, lses), oracle(q, k, v), **FP64)
    torch.testing.assert_close(
        merge_states(torch.stack(os), torch.stack(lses)), oracle(q, k, v), **FP64
    )


def test_merge_states_computes_in_fp32_and_rounds_once():
    rng = torch.Generator().manual_seed(0)
    o, lse = (torch.randn(*shape, generator=rng).bfloat16() for shape in ((5, 3, 8), (5, 3)))
    merged, total = merge_states(o, lse)
    wanted, wanted_lse = merge_states(o.float(), lse.float())
    assert merged.dtype == torch.bfloat16 and torch.equal(merged, wanted.bfloat16())
    assert total.dtype == torch.float32 and torch.equal(total, wanted_lse)
    assert torch.equal(merge_states(o, lse, torch.float32)[0], wanted)


def test_merging_one_or_only_empty_states():
    o, lse = torch.tensor([[1.0, 2.0]]), torch.tensor([0.5])
    assert torch.equal(merge_states([o], [lse])[0], o)
    empty = torch.zeros(2, 1, 2), torch.full((2, 1), -math.inf)
    o, lse = merge_states(*empty)
    assert (o == 0).all() and (lse == -math.inf).all()


def test_merge_states_refuses():
    with pytest.raises(ValueError, match="at least one partial"):
        merge_states([], [])
    with pytest.raises(ValueError, match=r"\(S, \.\.\., D\)"):
        merge_states(torch.zeros(3, 4, 5), torch.zeros(2, 4))
