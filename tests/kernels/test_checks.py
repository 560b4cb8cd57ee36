"""kernels.checks, through flash_decode: each misuse raises an error that says what it got."""

import math

import numpy as np
import pytest
import torch
from shapes import DecodeShape, decode_inputs

from kernels.flash_decoding import flash_decode
from kernels.runtime import INTERPRETED, device

DEVICE = device()


def good(**change):
    """A call that works, with some of its arguments replaced."""
    q, k, v, lengths = decode_inputs(
        DecodeShape("good", "", B=2, Lk=8, D=16, lengths=(8, 5)), torch.float32, DEVICE
    )
    return {"q": q, "k_cache": k, "v_cache": v, "cache_seqlens": lengths} | change


def zeros(*shape, dtype=torch.float32, where=DEVICE):
    return torch.zeros(shape, dtype=dtype, device=where)


MISUSE = {
    "q is no tensor": ({"q": [1.0]}, TypeError, r"q must be a tensor; got list"),
    "rank of q": ({"q": zeros(2, 4, 16)}, ValueError, r"q must be \(B, Lq, Hq, D\).*\(2, 4, 16\)"),
    "rank of k": ({"k_cache": zeros(2, 8, 16)}, ValueError, r"k_cache must be \(B, Lk, Hkv, D\)"),
    "integers": (
        {"q": zeros(2, 1, 4, 16, dtype=torch.int32)},
        TypeError,
        r"q must be float32.*int32",
    ),
    "fp64": (
        {"v_cache": zeros(2, 8, 2, 16, dtype=torch.float64)},
        TypeError,
        r"k_cache and v_cache must have the dtype of q.*float64",
    ),
    "mixed dtypes": (
        {"v_cache": zeros(2, 8, 2, 16, dtype=torch.float16)},
        TypeError,
        r"the dtype of q.*got q torch.float32, k_cache torch.float32, v_cache torch.float16",
    ),
    "mixed devices": (
        {"k_cache": zeros(2, 8, 2, 16, where="meta")},
        ValueError,
        r"k_cache must be on the device of q, .*; got meta",
    ),
    "k and v differ": (
        {"v_cache": zeros(2, 9, 2, 16)},
        ValueError,
        r"agree in all but D; got .*k_cache \(2, 8, 2, 16\), v_cache \(2, 9, 2, 16\)",
    ),
    "batch": (
        {"q": zeros(3, 1, 4, 16)},
        ValueError,
        r"one batch size B.*; got q \(3, 1, 4, 16\), k_cache \(2",
    ),
    "head dim": ({"q": zeros(2, 1, 4, 32)}, ValueError, r"one head dim D; got q \(2, 1, 4, 32\)"),
    "heads": ({"q": zeros(2, 1, 5, 16)}, ValueError, r"multiple of Hkv; got Hq = 5 and Hkv = 2"),
    "no KV head": (
        {"k_cache": zeros(2, 8, 0, 16), "v_cache": zeros(2, 8, 0, 16)},
        ValueError,
        r"Hq = 4 and Hkv = 0",
    ),
    "D too large": (
        {x: zeros(2, 8, 2, 257) for x in ("q", "k_cache", "v_cache")},
        ValueError,
        r"from 1 to 256, or.*; got q \(2, 8, 2, 257\)",
    ),
    "D is 0": (
        {x: zeros(2, 8, 2, 0) for x in ("q", "k_cache", "v_cache")},
        ValueError,
        r"from 1 to 256",
    ),
    "D not contiguous": (
        {"k_cache": zeros(2, 8, 16, 2).transpose(2, 3)},
        ValueError,
        r"k_cache must be contiguous in its last dimension.*strides \(256, 32, 1, 2\)",
    ),
    "lengths: list": ({"cache_seqlens": [8, 5]}, TypeError, r"cache_seqlens must be a tensor"),
    "lengths: float": (
        {"cache_seqlens": zeros(2)},
        TypeError,
        r"int32 or int64; got torch.float32",
    ),
    "lengths: shape": (
        {"cache_seqlens": zeros(3, dtype=torch.int32)},
        ValueError,
        r"cache_seqlens must be \(B,\) = \(2,\), one per row; got \(3,\)",
    ),
    "lengths: device": (
        {"cache_seqlens": zeros(2, dtype=torch.int32, where="meta")},
        ValueError,
        r"cache_seqlens must be on the device of q.*got meta",
    ),
    "num_splits = 0": ({"num_splits": 0}, ValueError, r"num_splits must be at least 1; got 0"),
    "num_splits = 2.0": ({"num_splits": 2.0}, TypeError, r"num_splits must be an int; got 2.0"),
    "num_splits = True": ({"num_splits": True}, TypeError, r"num_splits must be an int; got True"),
    "scale: text": ({"scale": "1"}, TypeError, r"scale must be a number or None; got '1'"),
    "scale: inf": ({"scale": math.inf}, ValueError, r"scale must be finite in fp32; got inf"),
}


@pytest.mark.parametrize(("change", "error", "says"), MISUSE.values(), ids=MISUSE.keys())
def test_misuse_is_told(change, error, says):
    with pytest.raises(error, match=says):
        flash_decode(**good(**change))


@pytest.mark.parametrize("make", [np.int64, torch.tensor, np.array], ids=["numpy", "0-d", "array"])
@pytest.mark.parametrize(
    "change",
    [{"num_splits": 2}, {"split_size": 128}, {"num_sms": 4}, {"window": 3}, {"window": (3, None)},
     {"scale": 0.5}, {"softcap": 2.0}, {"causal": True}],
    ids=str,
)  # fmt: skip
def test_a_number_in_another_form_is_refused_with_its_remedy(change, make):
    """A tensor's value can be on a GPU, for which the host would wait; so the caller reads it."""
    form = {float: {np.int64: np.float32}, bool: {np.int64: np.bool_}}
    ((name, value),) = change.items()
    number = value[0] if isinstance(value, tuple) else value
    odd = form.get(type(number), {}).get(make, make)(number)
    wrong = (odd, None) if isinstance(value, tuple) else odd
    with pytest.raises(TypeError, match=rf"^{name} must be .*; got .*: call \.item\(\) on it$"):
        flash_decode(**good(**{name: wrong}))
    assert flash_decode(**good(**{name: value})).isfinite().all()


def test_the_good_call_is_good():
    assert flash_decode(**good()).isfinite().all()


@pytest.mark.skipif(not INTERPRETED, reason="values on a GPU are clamped, not checked")
@pytest.mark.parametrize("wrong", [[9, 5], [8, -1]], ids=["beyond the cache", "negative"])
def test_wild_lengths_are_told(wrong):
    lengths = torch.tensor(wrong, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"cache_seqlens must be from 0 to 8; got values from"):
        flash_decode(**good(cache_seqlens=lengths))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes tensors on the CPU")
def test_cpu_tensors_are_told_when_compiled():
    call = {name: x.cpu() for name, x in good().items()}
    with pytest.raises(ValueError, match="must be on cuda; got cpu"):
        flash_decode(**call)
