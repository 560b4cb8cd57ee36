"""kernels.append.checks, through append_kv: each misuse raises an error that says what it got."""

import pytest
import torch
from appends import Append, arguments

from kernels import append
from kernels.append import append_kv
from kernels.runtime import INTERPRETED, device

DEVICE = device()


def good(page=0, **change):
    given, buffers = arguments(Append("good", "", Ln=2, Lq=2, page=page), torch.float32, DEVICE)
    return given | change, buffers


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype, device=DEVICE)


def table(*rows, dtype=torch.int32):
    return torch.tensor(rows, dtype=dtype, device=DEVICE)


NO_PLACE = {
    "row full": ({"cache_seqlens": table(11, 0)}, r"room for 12 tokens; .*\[11, 0\] and 2 new"),
    "negative length": ({"cache_seqlens": table(-1, 0)}, r"\[-1, 0\]"),
    "no such row": (
        {"cache_batch_idx": table(0, 2)},
        "a row of the cache, from 0 to 1; got 0 to 2",
    ),
    "no such page": ({"page": 4, "block_table": table([0, 9, 0], [0, 0, 0])}, "of row 0.*got 9"),
    "no angle": (
        {"rotary_cos": zeros(6, 8), "rotary_sin": zeros(6, 8)},
        "must have at least 7 positions; got 6. Nothing was written",
    ),
}


@pytest.mark.skipif(not INTERPRETED, reason="not checked on a GPU: the host would have to wait")
@pytest.mark.parametrize("cache", ["cold", "warm"])
@pytest.mark.parametrize(("change", "message"), NO_PLACE.values(), ids=NO_PLACE)
def test_a_place_that_does_not_exist(change, message, cache, monkeypatch):
    given, buffers = good(**change)
    if cache == "warm":  # the same call, where there is a place
        fine = good(change.get("page", 0))[0]
        if "cache_batch_idx" in change:
            fine["cache_batch_idx"] = table(0, 1)
        if "rotary_cos" in change:
            fine |= {"rotary_cos": zeros(6, 8), "rotary_sin": zeros(6, 8)}
            fine["cache_seqlens"] = table(0, 0)
        append_kv(**fine)
        monkeypatch.setattr(append, "check_tokens", lambda _: pytest.fail("checked once more"))
    with pytest.raises(ValueError, match=message):
        append_kv(**given)
    assert all(buffer.isnan().all() for buffer in buffers)  # nothing was written


MISUSE = {
    "no tensor": ({"k": [1.0]}, TypeError, "k must be a tensor; got list"),
    "rank": ({"v": zeros(2, 2, 16)}, ValueError, r"v must have four.*\(2, 2, 16\)"),
    "heads of v": ({"v": zeros(2, 2, 1, 16)}, ValueError, r"v must be.*got \(2, 2, 1, 16\)"),
    "heads": ({"k_cache": zeros(2, 12, 3, 16)}, ValueError, r"k_cache must be.*\(2, 12, 3, 16\)"),
    "Dv": ({"v_cache": zeros(2, 12, 2, 8)}, ValueError, "v_cache must be as k_cache"),
    "strides": ({"k": zeros(2, 2, 16, 2).transpose(2, 3)}, ValueError, "contiguous in its last"),
    "grad": ({"k": zeros(2, 2, 2, 16).requires_grad_()}, ValueError, "k requires grad"),
    "dtype": ({"k": zeros(2, 2, 2, 16).half()}, TypeError, "both be float32.*float16"),
    "fp64": ({"k": zeros(2, 2, 2, 16).double(), "v": zeros(2, 2, 2, 16).double()},
             TypeError, "float64"),
    "cache dtype": ({"k_cache": zeros(2, 12, 2, 16).half()},
                    TypeError, "as k, or an eight-bit dtype"),
    "dtype of q": ({"q": zeros(2, 2, 4, 16).half()}, TypeError, "q must have the dtype of k"),
    "head dim of q": ({"q": zeros(2, 2, 4, 8)}, ValueError, "q must be.*got"),
    "batch": ({"k_cache": zeros(3, 12, 2, 16), "v_cache": zeros(3, 12, 2, 16)},
              ValueError, "batch of k, 2, unless"),
    "lengths": ({"cache_seqlens": table(1)}, ValueError,
                r"cache_seqlens must be \(B,\) = \(2,\), one per row; got \(1,\)"),
    "float lengths": ({"cache_seqlens": zeros(2)}, TypeError, "int32 or int64; got torch.float32"),
    "both": ({"page": 4, "cache_batch_idx": table(0, 1)}, ValueError,
             "both say where a row lies: give one"),
    "page size": ({"block_table": table([0], [1]), "k_cache": zeros(2, 0, 2, 16),
                   "v_cache": zeros(2, 0, 2, 16)}, ValueError, r"at least 1; got \(2, 0, 2, 16\)"),
    "table": ({"page": 4, "block_table": table(0, 1)}, ValueError,
              r"\(B, max_pages\) = \(2, …\); got \(2,\)"),
    "one table": ({"rotary_sin": None}, TypeError, "rotary_sin must be a tensor; got NoneType"),
    "R > D": ({"rotary_cos": zeros(20, 9), "rotary_sin": zeros(20, 9)}, ValueError, "R ≤ D = 16"),
    "fp64 table": ({"rotary_cos": zeros(20, 8).double()}, TypeError, "rotary_cos.*float64"),
    "rotate_at": ({"rotate_at": "last"}, ValueError, "'last'"),
    "scale": ({"k_scale": zeros()}, ValueError,
              "k_scale must be None unless the cache is int8 or fp8; got"),
    "no scale": ({"k_cache": zeros(2, 12, 2, 16, dtype=torch.int8),
                  "v_cache": zeros(2, 12, 2, 16, dtype=torch.int8)}, ValueError, "needs k_scale"),
}  # fmt: skip


@pytest.mark.parametrize("cache", ["cold", "warm"])
@pytest.mark.parametrize(("change", "error", "message"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_told(change, error, message, cache):
    if cache == "warm":
        for page in (0, 4):
            append_kv(**good(page=page)[0])
    with pytest.raises(error, match=message):
        append_kv(**good(**change)[0])


@pytest.mark.parametrize("shape", [(3,), (2, 12), (3, 2), (2, 1), (2, 12, 2, 1)], ids=str)
def test_the_shape_of_a_scale(shape):
    caches = {x: zeros(2, 12, 2, 16, dtype=torch.int8) for x in ("k_cache", "v_cache")}
    given, _ = good(**caches, k_scale=zeros(*shape), v_scale=zeros())
    with pytest.raises(ValueError, match=r"k_scale must be \(\), \(1,\).* \(B, Hkv\) = \(2, 2\)"):
        append_kv(**given)
    given |= {"k_scale": zeros(2, 12, 2)}
    with pytest.raises(ValueError, match="both hold a scale per token, or neither"):
        append_kv(**given)
