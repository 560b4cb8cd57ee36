"""Flash-Decoding on CPU threads against the fp64 oracle, with poisoned cache tails."""

import doctest

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keys import roundings

from reference import flash_decoding_cpu
from reference.attention import attention_with_cache, oracle_with_cache
from reference.closeness import assert_close_to_oracle
from reference.flash_decoding_cpu import flash_decode_threads

CASES = {  # (B, Lq, Hq, Hkv, D, lengths, num_splits, causal)
    "one query, many chunks": (1, 1, 8, 2, 64, [1300], None, True),
    "one row of one head: the padded half-precision row": (1, 1, 1, 1, 64, [1100], None, True),
    "shorter than a chunk": (1, 1, 4, 4, 32, [5], None, True),
    "one key": (1, 1, 4, 2, 16, [1], None, True),
    "ragged with an empty row": (4, 1, 6, 2, 40, [0, 1, 130, 700], None, True),
    "more splits than keys": (2, 1, 4, 2, 16, [3, 2], 33, True),
    "given splits, odd tail": (2, 1, 4, 1, 16, [101, 64], 7, True),
    "several queries, causal": (2, 5, 6, 3, 16, [601, 130], None, True),
    "several queries, all visible": (2, 5, 6, 3, 16, [601, 130], 3, False),
    "a tail of one key, for one of two queries": (1, 2, 4, 2, 32, [65], None, True),
    "a tail that all queries but one do not see": (1, 5, 6, 2, 16, [12], 3, True),
    "tails behind several full chunks": (2, 3, 4, 2, 32, [1026, 514], None, True),
    "more queries than keys": (2, 6, 4, 2, 16, [3, 0], None, True),
    "as many queries as a chunk": (1, 70, 2, 1, 16, [130], 2, True),
}


def draw(B, Lq, Hq, Hkv, D, lengths, dtype):
    capacity = max(max(lengths), 1) + 3
    q = torch.randn(B, Lq, Hq, D).to(dtype)
    k, v = (torch.randn(B, capacity, Hkv, D).to(dtype) for _ in "kv")
    for b, n in enumerate(lengths):
        k[b, n:], v[b, n:] = torch.nan, torch.nan
    return q, k, v, torch.tensor(lengths, dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_close_to_oracle(case, dtype):
    *dims, lengths, num_splits, causal = case
    q, k, v, n = draw(*dims, lengths, dtype)
    o, lse = flash_decode_threads(q, k, v, n, causal=causal, num_splits=num_splits, return_lse=True)
    o64, lse64 = oracle_with_cache(q, k, v, n, causal=causal)
    base_o, base_lse = attention_with_cache(q, k, v, n, causal=causal, return_lse=True)
    assert o.dtype == dtype and lse.dtype == torch.float32
    assert_close_to_oracle(o, base_o, o64)
    assert_close_to_oracle(lse, base_lse, lse64, name="lse")


@settings(max_examples=150, deadline=None)
@given(
    Lq=st.integers(1, 9),
    length=st.one_of(st.integers(0, 40), st.integers(60, 300)),
    num_splits=st.one_of(st.none(), st.integers(1, 12)),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    causal=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
@example(2, 65, None, (4, 2), True, torch.float32)  # the tail is one key, seen by one of two
@example(5, 12, 3, (3, 1), True, torch.float32)  # the tail hides from all queries but the last
def test_any_cut_between_what_some_queries_see(Lq, length, num_splits, heads, causal, dtype):
    """Also where a query sees no key of the last piece: it must take no part in the merge.

    Derived as in `keys`: a score is a sum of D products, and its error counts once more in p.
    """
    q, k, v, n = draw(1, Lq, *heads, 16, [length], dtype)
    o, lse = flash_decode_threads(q, k, v, n, causal=causal, num_splits=num_splits, return_lse=True)
    o64, lse64 = oracle_with_cache(q, k, v, n, causal=causal)
    assert torch.equal(lse == -torch.inf, lse64 == -torch.inf)
    v = v[:, :length]
    largest, top = (x.abs().max().item() if x.numel() else 0.0 for x in (v, q))
    of_scores = 16 * (16**0.5 * top * k[:, :length].abs().amax().item() if length else 0.0)
    off = roundings(length, num_splits or 5, dtype) + 2 * of_scores * torch.finfo(dtype).eps
    assert (o.double() - o64).abs().max() <= off * largest
    seen = lse64 > -torch.inf
    assert ((lse.double() - lse64)[seen].abs() <= off).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_row_that_sees_no_key_of_a_call_is_empty(dtype):
    """(0, -inf), as every partial result is; PyTorch's own lse is 0.0 there."""
    q, k, v = torch.randn(3, 1, 2, 4, 16).to(dtype)
    visible = torch.tensor([[False] * 4, [False, True, False, True], [False] * 4])
    q = q[:, :, :3]
    o, lse = flash_decoding_cpu._flash(q, k, v, visible, 1.0)
    assert not o[:, :, [0, 2]].any() and (lse[:, :, [0, 2]] == -torch.inf).all()
    scores = torch.einsum("bhd,bhnd->bhn", q[:, :, 1].double(), k.double())[..., [1, 3]]
    torch.testing.assert_close(lse[:, :, 1].double(), scores.logsumexp(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shift", [-200.0, 200.0])
def test_shifted_logits(shift):
    q, k, v, n = draw(1, 1, 4, 2, 16, [600], torch.float32)
    k[..., 0], q[..., 0] = shift, 4.0  # every score moves by shift · 4 / √16
    o64, lse64 = oracle_with_cache(q, k[:, :600], v[:, :600])
    o, lse = flash_decode_threads(q, k, v, n, return_lse=True)
    base = attention_with_cache(q, k, v, n, return_lse=True)
    assert_close_to_oracle(o, base[0], o64)
    assert_close_to_oracle(lse, base[1], lse64, name="lse")


def test_any_strides_and_bits_repeat():
    q, k, v, _ = draw(2, 1, 4, 2, 16, [700, 700], torch.float32)
    k, v = k[:, :700], v[:, :700]
    wide = torch.full((2, 2, 703, 20), torch.nan)  # head-major, padded rows, NaN in between
    wide[:, :, :700, :16] = k.transpose(1, 2)
    strided = wide.transpose(1, 2)[:, :700, :, :16]
    want = flash_decode_threads(q, k, v)
    assert torch.equal(flash_decode_threads(q, strided, v), want)
    assert torch.equal(flash_decode_threads(q, k, v), want)


def test_no_copy_of_the_cache():
    k = torch.randn(1, 1024, 2, 16)
    folded = flash_decoding_cpu.fold_splits(k, 0, 0, 2, 512)
    assert folded.data_ptr() == k.data_ptr()
    assert torch.equal(folded[1, 1], k[0, 512:, 1])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"q": torch.zeros(1, 4, 16)}, ValueError, "four dimensions"),
        ({"q": torch.zeros(1, 1, 3, 16)}, ValueError, "multiple of Hkv"),
        ({"q": torch.zeros(1, 1, 4, 16).half()}, TypeError, "one dtype"),
        ({"v": torch.zeros(1, 8, 2, 8)}, ValueError, "one head dim"),
        ({"k": torch.zeros(1, 8, 16, 2).transpose(2, 3)}, ValueError, "contiguous"),
        ({"num_splits": 0}, ValueError, "num_splits"),
        ({"n": torch.tensor([9])}, ValueError, r"0…8"),
        ({"n": torch.tensor([-1])}, ValueError, r"0…8"),
        ({"n": torch.tensor([1.0])}, TypeError, "int32"),
        ({"n": torch.tensor([1, 2])}, ValueError, r"\(B,\)"),
        ({"q": torch.zeros(1, 1, 4, 16, device="meta")}, ValueError, "on the CPU"),
    ],
)
def test_errors(change, error, says):
    given = {
        "q": torch.zeros(1, 1, 4, 16),
        "k": torch.zeros(1, 8, 2, 16),
        "v": torch.zeros(1, 8, 2, 16),
        "n": None,
        "num_splits": None,
    } | change
    with pytest.raises(error, match=says):
        flash_decode_threads(
            given["q"], given["k"], given["v"], given["n"], num_splits=given["num_splits"]
        )


def test_examples_in_docstrings():
    assert doctest.testmod(flash_decoding_cpu).failed == 0
