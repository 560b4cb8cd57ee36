"""What the features refuse; the messages say what was expected and what they got."""

import math

import pytest
import torch

from reference.attention import attention_with_cache, oracle_with_cache
from reference.flash_decoding import flash_decode

B, LQ, HQ, HKV, D, CAPACITY = 2, 3, 4, 2, 8, 16


def call(function, *, dtype=torch.float32, lengths=(16, 9), rows=B, page_size=CAPACITY, **keywords):
    q = torch.zeros(B, LQ, HQ, D)
    k, v = (torch.zeros(rows, page_size, HKV, D).to(dtype) for _ in range(2))
    return function(q, k, v, None if lengths is None else torch.tensor(lengths), **keywords)


SHAPED = torch.zeros
TABLE = torch.tensor([[0], [1]])
INT8 = {"dtype": torch.int8}
ONE = torch.ones(())
MISUSE = {
    "unknown": ({"windows": 3}, TypeError, "windows"),
    "window-negative": ({"window": -1}, ValueError, r"None, not −1.*got -1"),
    "window-pair": ({"window": (3, -1)}, ValueError, r"\(3, -1\)"),
    "window-float": ({"window": 2.0}, TypeError, "got 2.0"),
    "window-bool": ({"window": True}, TypeError, "got True"),
    "window-triple": ({"window": (1, 2, 3)}, ValueError, r"pair .*\(1, 2, 3\)"),
    "softcap-zero": ({"softcap": 0.0}, ValueError, "above 0.*got 0.0"),
    "softcap-inf": ({"softcap": math.inf}, ValueError, "finite.*got inf"),
    "softcap-nan": ({"softcap": math.nan}, ValueError, "got nan"),
    "softcap-text": ({"softcap": "50"}, TypeError, "got '50'"),
    "sinks-shape": ({"sinks": SHAPED(HKV)}, ValueError, r"\(Hq,\) = \(4,\); got \(2,\)"),
    "sinks-int": ({"sinks": SHAPED(HQ).int()}, TypeError, "floating point.*int32"),
    "sinks-list": ({"sinks": [0.0] * HQ}, TypeError, "got list"),
    "alibi-shape": ({"alibi_slopes": SHAPED(HQ, B)}, ValueError, r"\(4,\) or \(2, 4\); got \(4, 2"),
    "alibi-half": ({"alibi_slopes": SHAPED(HQ).half()}, TypeError, "float32.*float16"),
    "mask-shape": ({"mask": SHAPED(LQ, CAPACITY)}, ValueError, r"\(3, 3\).*got \(3, 16\)"),
    "mask-rows": ({"mask": SHAPED(3, LQ, LQ)}, ValueError, r"\(2, 3, 3\); got \(3, 3, 3\)"),
    "mask-int": ({"mask": SHAPED(LQ, LQ).int()}, TypeError, "bool.*int32"),
    "leftpad-dtype": ({"cache_leftpad": SHAPED(B)}, TypeError, "cache_leftpad.*float32"),
    "leftpad-shape": ({"cache_leftpad": SHAPED(3).int()}, ValueError, r"\(2,\); got \(3,\)"),
    "leftpad-negative": ({"cache_leftpad": torch.tensor([0, -1])}, ValueError, r"0…16.*\[0, -1\]"),
    "idx-dtype": ({"cache_batch_idx": SHAPED(B)}, TypeError, "cache_batch_idx.*float32"),
    "idx-outside": ({"cache_batch_idx": torch.tensor([0, 2])}, ValueError, r"0…1 .*\[0, 2\]"),
    "idx-and-table": (
        {"cache_batch_idx": torch.tensor([0, 1]), "block_table": TABLE},
        ValueError,
        "give one",
    ),
    "rows": ({"rows": 3, "window": 2}, ValueError, "agree in B and D"),
    "table-dtype": ({"block_table": TABLE.float()}, TypeError, "block_table.*float32"),
    "table-rows": ({"block_table": TABLE[:1]}, ValueError, r"\(2, …\); got \(1, 1\)"),
    "table-flat": ({"block_table": TABLE[:, 0]}, ValueError, r"got \(2,\)"),
    "table-lengths": ({"block_table": TABLE, "lengths": None}, ValueError, "needs cache_seqlens"),
    "table-capacity": ({"block_table": TABLE, "lengths": (17, 9)}, ValueError, r"0…16"),
    "table-live": ({"block_table": torch.tensor([[0], [2]])}, ValueError, r"0…1 .*row 1 reads \[2"),
    "table-live-negative": ({"block_table": torch.tensor([[-1], [0]])}, ValueError, r"row 0.*\[-1"),
    "page-size": (
        {"block_table": TABLE, "page_size": 0, "lengths": (0, 0)},
        ValueError,
        "page_size must be at least 1; got 0",
    ),
    "int8-no-scales": (INT8, ValueError, "int8 cache needs.*neither"),
    "int8-one-scale": ({**INT8, "k_scale": ONE}, ValueError, "needs.*got k_scale"),
    "scale-unquantised": (
        {"v_scale": ONE},
        ValueError,
        "v_scale must be None unless.*got torch.float",
    ),
    "scale-shape": (
        {**INT8, "k_scale": torch.ones(HQ), "v_scale": ONE},
        ValueError,
        r"k_scale must be .*\(2,\) or \(2, 2\) or \(2, 16, 2\); got \(4,\)",
    ),
    "scale-rows": (
        {**INT8, "k_scale": ONE, "v_scale": torch.ones(3, HKV)},
        ValueError,
        r"v_scale must be .* or \(2, 2\) or .*; got \(3, 2\)",
    ),
    "scale-dtype": ({**INT8, "k_scale": ONE.half(), "v_scale": ONE}, TypeError, "float32.*float16"),
    "scale-number": ({**INT8, "k_scale": 1.0, "v_scale": ONE}, TypeError, "got float"),
}


@pytest.mark.parametrize("function", [attention_with_cache, oracle_with_cache, flash_decode])
@pytest.mark.parametrize("keywords, error, message", MISUSE.values(), ids=MISUSE)
def test_misuse(function, keywords, error, message):
    with pytest.raises(error, match=message):
        call(function, **keywords)


@pytest.mark.parametrize("function", [attention_with_cache, flash_decode])
def test_one_dtype(function):
    """The oracle alone takes any: it is wider than all of them."""
    with pytest.raises(TypeError, match=r"must have one dtype.*float16"):
        call(function, dtype=torch.float16, window=2)
    assert call(oracle_with_cache, dtype=torch.float16, window=2)[0].dtype == torch.float64


@pytest.mark.parametrize(
    "cut, message",
    [
        ({"num_splits": 2, "split_size": 16}, "num_splits or split_size; got 2 and 16"),
        ({"split_size": 0}, "split_size must be at least 1; got 0"),
        ({"num_splits": 0, "window": 3}, "num_splits at least 1"),
    ],
)
def test_wrong_splits(cut, message):
    with pytest.raises(ValueError, match=message):
        call(flash_decode, **cut)


def test_two_kinds_of_eight_bits():
    q = torch.zeros(1, 1, 1, 8)
    caches = (torch.zeros(1, 4, 1, 8).to(x) for x in (torch.float8_e4m3fn, torch.float8_e5m2))
    with pytest.raises(TypeError, match=r"alike; got .*e4m3fn and .*e5m2"):
        attention_with_cache(q, *caches)


def test_queries_are_not_quantised():
    q, k, v = (torch.zeros(1, 4, 1, 8).to(torch.float8_e5m2) for _ in range(3))
    with pytest.raises(TypeError, match="q must be fp16, bf16"):
        attention_with_cache(q, k, v)
