"""kernels.flash_decoding: attention over a cache, for any shape, number of splits and dtype."""

import math

import pytest
import torch
from shapes import (
    DECODE_SHAPES,
    DTYPES,
    HEAD_DIMS,
    SPLITS,
    DecodeShape,
    decode_inputs,
)

from course.check.guards import empty_is_nan
from kernels import heuristics
from kernels.flash_decoding import flash_decode
from kernels.heuristics import Launch, next_power_of_2
from kernels.runtime import INTERPRETED, device
from reference.attention import attention_with_cache, oracle_with_cache
from reference.closeness import assert_close_to_oracle

DEVICE = device()


def judge(q, k, v, lengths, *, causal=True, scale=None, num_splits=None):
    """Run flash_decode on poisoned scratch memory and compare o and lse with the fp64 oracle."""
    arguments = {"causal": causal, "scale": scale}
    with empty_is_nan():
        o, lse = flash_decode(q, k, v, lengths, num_splits=num_splits, return_lse=True, **arguments)
    assert o.shape == q.shape and o.dtype == q.dtype
    assert lse.shape == q.shape[:3] and lse.dtype == torch.float32
    o_base, lse_base = attention_with_cache(q, k, v, lengths, return_lse=True, **arguments)
    o_true, lse_true = oracle_with_cache(q, k, v, lengths, **arguments)
    assert_close_to_oracle(o, o_base, o_true)
    assert_close_to_oracle(lse, lse_base, lse_true, name="lse")
    return o, lse


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 16 keys, so that few keys make many blocks (a GPU keeps its own table)."""
    if not INTERPRETED:
        yield
        return

    def choose(*, rows, head_dim, **_):
        block_m = 1 if rows == 1 else max(16, next_power_of_2(rows))
        block_d = max(16, next_power_of_2(head_dim))
        return Launch(block_m, 16, block_d, 4, 3, block_dv=block_d)

    monkeypatch.setattr(heuristics, "choose_decode_launch", choose)
    heuristics.choose_decode.cache_clear()  # it remembers what it chose
    yield
    heuristics.choose_decode.cache_clear()


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "all"])
@pytest.mark.parametrize("shape", DECODE_SHAPES, ids=str)
def test_every_shape(shape, causal):
    judge(*decode_inputs(shape, torch.float32, DEVICE), causal=causal, num_splits=shape.num_splits)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("shape", DECODE_SHAPES, ids=str)
def test_every_shape_in_16_bits(shape, dtype):
    judge(*decode_inputs(shape, dtype, DEVICE), num_splits=shape.num_splits)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("G", [1, 4], ids=["sum", "dot"])
@pytest.mark.parametrize("D", HEAD_DIMS)
def test_every_head_dim(D, G, dtype):
    shape = DecodeShape("D", "", B=2, Hq=G, Hkv=1, Lk=70, D=D, lengths=(70, 9))
    judge(*decode_inputs(shape, dtype, DEVICE), num_splits=2)


@pytest.mark.parametrize("num_splits", SPLITS)
def test_the_answer_does_not_depend_on_the_splits(num_splits, small_blocks):
    shape = DecodeShape("S", "", B=2, Lq=2, Hq=2, Hkv=1, Lk=150, D=16, lengths=(150, 37))
    judge(*decode_inputs(shape, torch.float32, DEVICE), num_splits=num_splits)


@pytest.mark.parametrize("Lq", [1, 3, 20])
def test_the_diagonal_in_small_blocks(Lq, small_blocks):
    shape = DecodeShape("Lq", "", B=3, Lq=Lq, Hq=2, Hkv=1, Lk=70, D=16, lengths=(70, 33, 16))
    judge(*decode_inputs(shape, torch.bfloat16, DEVICE), num_splits=3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shift", [-200.0, 200.0])
@pytest.mark.parametrize("G", [1, 4], ids=["sum", "dot"])
def test_shifted_logits(G, shift, dtype):
    """All scores are shifted by ±200: their exp() over- or underflows in fp32."""
    shape = DecodeShape("shift", "", B=2, Hq=G, Hkv=1, Lk=70, lengths=(70, 5))
    q, k, v, lengths = decode_inputs(shape, dtype, DEVICE)
    q[..., 0], k[..., 0] = 16.0, shift / 2  # 16 · shift/2 · 1/√64 = shift
    _, lse = judge(q, k, v, lengths, num_splits=2)
    assert (lse - shift).abs().max() < 20  # the shift took effect


@pytest.mark.parametrize("scale", [0.0, 1.0, -0.3])
def test_scale(scale):
    shape = DecodeShape("scale", "", Lk=70, D=16)
    judge(*decode_inputs(shape, torch.float32, DEVICE), scale=scale, num_splits=2)


@pytest.mark.parametrize("G", [1, 3], ids=["sum", "dot"])
def test_strided_views(G):
    """Heads before keys in memory, every other row of a batch, a slice of a longer cache."""
    rng = torch.Generator().manual_seed(0)
    shape = (4, 2, 90, 40)  # (2·B, Hkv, more than Lk, D)
    k, v = (torch.full(shape, math.nan) for _ in "kv")
    for cache in (k, v):
        cache[::2, :, 5:75] = torch.randn(2, 2, 70, 40, generator=rng)
    k, v = (cache.to(DEVICE).transpose(1, 2)[::2, 5:75] for cache in (k, v))
    v = v.flip(0).contiguous().flip(0)  # other strides than k
    q = torch.randn(2, 2 * G, 3, 40, generator=rng).to(DEVICE).transpose(1, 2)
    assert not (k.is_contiguous() or q.is_contiguous()) and k.stride() != v.stride()
    judge(q, k, v, None, num_splits=2)


@pytest.mark.parametrize("axis", ["row", "key", "head"])
def test_offsets_beyond_32_bits(axis):
    """A view spanning more than 2^31 elements. On a CPU, only the pages touched take memory."""
    step, B, Lk, Hkv = 2**30, *{"row": (3, 5, 1), "key": (1, 5, 1), "head": (1, 5, 3)}[axis]
    strides = {"row": (step, 64, 64), "key": (64, step // 2, 64), "head": (64, 64, step)}[axis]
    rng = torch.Generator().manual_seed(0)
    buffer = torch.empty(2**31 + 2**20, dtype=torch.float16, device=DEVICE)
    k = buffer.as_strided((B, Lk, Hkv, 16), (*strides, 1))
    k.copy_(torch.randn(k.shape, generator=rng))
    q = torch.randn(B, 1, Hkv, 16, generator=rng).to(DEVICE, torch.float16)
    judge(q, k, k, None, num_splits=1)


def test_a_wrong_kernel_would_be_seen():
    """The judge itself: an lse off by a hair, or another row's o, is not close to the oracle."""
    shape = DecodeShape("judge", "", B=2, Lk=70)
    q, k, v, _ = decode_inputs(shape, torch.float32, DEVICE)
    o, lse = flash_decode(q, k, v, return_lse=True)
    o_true, lse_true = oracle_with_cache(q, k, v)
    for got, baseline, true in [(lse + 1e-4, lse, lse_true), (o.flip(0), o, o_true)]:
        with pytest.raises(AssertionError):
            assert_close_to_oracle(got, baseline, true)
