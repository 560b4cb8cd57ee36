"""kernels.flash_decoding: attention over a cache, whatever the shape, the splits and the dtype."""

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
    poisoned_memory,
)

from kernels import flash_decoding as module
from kernels.combine import combine
from kernels.flash_decoding import flash_decode
from kernels.heuristics import Launch, choose_decode_launch, next_power_of_2
from kernels.runtime import INTERPRETED, device
from kernels.split import partial_attention
from reference.attention import attention_with_cache, oracle, oracle_with_cache
from reference.closeness import assert_close_to_oracle
from reference.flash_decoding import combine as reference_combine

DEVICE = device()


def judge(q, k, v, lengths, *, causal=True, scale=None, num_splits=None):
    """Run flash_decode on poisoned scratch and hold o and lse against the fp64 oracle."""
    arguments = {"causal": causal, "scale": scale}
    with poisoned_memory():
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
    if INTERPRETED:

        def choose(*, rows, head_dim, **_):
            block_m = 1 if rows == 1 else max(16, next_power_of_2(rows))
            return Launch(block_m, 16, max(16, next_power_of_2(head_dim)), 4, 3)

        monkeypatch.setattr(module, "choose_decode_launch", choose)


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
    """All scores shifted by ±200: exp() of them over- or underflows in fp32."""
    shape = DecodeShape("shift", "", B=2, Hq=G, Hkv=1, Lk=70, lengths=(70, 5))
    q, k, v, lengths = decode_inputs(shape, dtype, DEVICE)
    q[..., 0], k[..., 0] = 16.0, shift / 2  # 16 · shift/2 · 1/√64 = shift
    _, lse = judge(q, k, v, lengths, num_splits=2)
    assert (lse - shift).abs().max() < 20  # the shift did arrive


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
    """A view that spans more than 2^31 elements. Only the pages touched take memory on a CPU."""
    step, B, Lk, Hkv = 2**30, *{"row": (3, 5, 1), "key": (1, 5, 1), "head": (1, 5, 3)}[axis]
    strides = {"row": (step, 64, 64), "key": (64, step // 2, 64), "head": (64, 64, step)}[axis]
    rng = torch.Generator().manual_seed(0)
    buffer = torch.empty(2**31 + 2**20, dtype=torch.float16, device=DEVICE)
    k = buffer.as_strided((B, Lk, Hkv, 16), (*strides, 1))
    k.copy_(torch.randn(k.shape, generator=rng))
    q = torch.randn(B, 1, Hkv, 16, generator=rng).to(DEVICE, torch.float16)
    judge(q, k, k, None, num_splits=1)


def test_lengths_as_int64_and_none():
    shape = DecodeShape("lengths", "", B=2, Lk=70, lengths=(70, 70))
    q, k, v, lengths = decode_inputs(shape, torch.float32, DEVICE)
    wanted = flash_decode(q, k, v, lengths)
    assert torch.equal(flash_decode(q, k, v, lengths.long()), wanted)
    assert torch.equal(flash_decode(q, k, v), wanted)


def test_runs_repeat_to_the_bit():
    shape = DecodeShape("bits", "", B=2, Lq=2, Lk=150, lengths=(150, 71))
    inputs = decode_inputs(shape, torch.bfloat16, DEVICE)
    o, lse = flash_decode(*inputs, num_splits=3, return_lse=True)
    again = flash_decode(*inputs, num_splits=3, return_lse=True)
    assert torch.equal(o, again[0]) and torch.equal(lse, again[1])


def test_permuting_the_batch_permutes_the_bits():
    shape = DecodeShape("batch", "", B=4, Lk=130, lengths=(130, 0, 64, 3))
    q, k, v, lengths = decode_inputs(shape, torch.float16, DEVICE)
    order = torch.tensor([2, 0, 3, 1], device=DEVICE)
    o, lse = flash_decode(q, k, v, lengths, num_splits=3, return_lse=True)
    o_permuted, lse_permuted = flash_decode(
        q[order], k[order], v[order], lengths[order], num_splits=3, return_lse=True
    )
    assert torch.equal(o_permuted, o[order]) and torch.equal(lse_permuted, lse[order])


def test_room_in_the_cache_changes_no_bit():
    """Splits are cut from a row's length, not from the capacity of the cache."""
    shape = DecodeShape("room", "", B=2, Lk=300, lengths=(70, 65))
    q, k, v, lengths = decode_inputs(shape, torch.float32, DEVICE)
    wanted = flash_decode(q, k, v, lengths, num_splits=2)
    assert torch.equal(flash_decode(q, k[:, :70], v[:, :70], lengths, num_splits=2), wanted)


def test_neighbouring_programs_do_not_meet():
    """Every query head reads its own KV head and no other: V tells them apart."""
    q = torch.randn(2, 3, 6, 16, device=DEVICE)
    k = torch.randn(2, 70, 2, 16, device=DEVICE)
    v = torch.arange(4.0, device=DEVICE).view(2, 1, 2, 1).expand(2, 70, 2, 16).contiguous()
    o = flash_decode(q, k, v, num_splits=2)
    wanted = v[:, :1].repeat_interleave(3, 2).expand(2, 3, 6, 16)
    torch.testing.assert_close(o, wanted, rtol=1e-6, atol=0)


def test_partials_are_attention_over_their_own_keys():
    """Splits are contiguous, cut in whole blocks, and cover [0, length); an empty one says so."""
    lengths, num_splits = (150, 70, 3, 0), 3
    shape = DecodeShape("partials", "", B=4, Lk=160, D=16, lengths=lengths)
    q, k, v, seqlens = decode_inputs(shape, torch.float32, DEVICE)
    launch = choose_decode_launch(rows=2, head_dim=16, element_size=4, interpreted=INTERPRETED)
    with poisoned_memory():
        o, lse = partial_attention(
            q, k, v, seqlens, num_splits=num_splits, causal=True, scale=0.25, launch=launch
        )
    for b, length in enumerate(lengths):
        chunk = math.ceil(math.ceil(length / launch.block_n) / num_splits) * launch.block_n
        seen = 0
        for s in range(num_splits):
            start, stop = min(s * chunk, length), min((s + 1) * chunk, length)
            wanted, wanted_lse = oracle(
                q[b : b + 1], k[b : b + 1, start:stop], v[b : b + 1, start:stop]
            )
            torch.testing.assert_close(o[s, b : b + 1].double(), wanted, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(lse[s, b : b + 1].double(), wanted_lse, rtol=1e-5, atol=1e-5)
            seen += stop - start
        assert seen == length


@pytest.mark.parametrize("S", [1, 2, 16, 17, 40])
def test_combine_is_the_reference_combine(S):
    rng = torch.Generator().manual_seed(S)
    o = torch.randn(S, 2, 3, 40, generator=rng)
    lse = 50 * torch.randn(S, 2, 3, generator=rng)
    lse[torch.rand(S, 2, 3, generator=rng) < 0.3] = -math.inf  # empty splits
    lse[:, 1, 2] = -math.inf  # and a row without any key
    o[lse == -math.inf] = 0.0
    with poisoned_memory():
        got, got_lse = combine(o.to(DEVICE), lse.to(DEVICE))
    wanted, wanted_lse = reference_combine(o.double(), lse.double())
    baseline, baseline_lse = reference_combine(o, lse)
    assert_close_to_oracle(got.cpu(), baseline, wanted)
    assert_close_to_oracle(got_lse.cpu(), baseline_lse, wanted_lse, name="lse")


def test_nothing_to_do():
    k = torch.randn(2, 8, 2, 16, device=DEVICE)
    for shape in [(2, 0, 4, 16), (2, 3, 0, 16)]:
        o, lse = flash_decode(torch.empty(shape, device=DEVICE), k, k, return_lse=True)
        assert o.shape == shape and lse.shape == shape[:3]
    assert flash_decode(k[:0], k[:0], k[:0]).shape == (0, 8, 2, 16)


def test_inputs_are_left_alone():
    shape = DecodeShape("inputs", "", B=2, lengths=(100, 3))
    inputs = decode_inputs(shape, torch.bfloat16, DEVICE)
    before = [x.clone() for x in inputs]
    flash_decode(*inputs)
    assert all(
        torch.equal(x.nan_to_num(7), y.nan_to_num(7)) for x, y in zip(inputs, before, strict=True)
    )


def test_needs_no_grad():
    shape = DecodeShape("grad", "", Lk=8)
    q, k, v, _ = decode_inputs(shape, torch.float32, DEVICE)
    k.requires_grad_()
    with pytest.raises(ValueError, match="k requires grad, but these kernels have no backward"):
        flash_decode(q, k, v)
    with torch.no_grad():
        judge(q, k, v, None, num_splits=1)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter checks lengths instead of clamping them")
def test_lengths_are_clamped_on_a_gpu():
    shape = DecodeShape("clamp", "", B=3, Lk=70, lengths=(70, 0, 70))
    q, k, v, lengths = decode_inputs(shape, torch.float16, DEVICE)
    wild = torch.tensor([71, -5, 2**30], dtype=torch.int32, device=DEVICE)
    assert torch.equal(flash_decode(q, k, v, wild), flash_decode(q, k, v, lengths))


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
    "rank of k": ({"k_cache": zeros(2, 8, 16)}, ValueError, r"k must be \(B, Lk, Hkv, D\)"),
    "integers": (
        {"q": zeros(2, 1, 4, 16, dtype=torch.int32)},
        TypeError,
        r"q must be float32.*int32",
    ),
    "fp64": (
        {"v_cache": zeros(2, 8, 2, 16, dtype=torch.float64)},
        TypeError,
        r"v must be.*float64",
    ),
    "mixed dtypes": (
        {"v_cache": zeros(2, 8, 2, 16, dtype=torch.float16)},
        TypeError,
        r"one dtype; got torch.float32, torch.float32 and torch.float16",
    ),
    "mixed devices": (
        {"k_cache": zeros(2, 8, 2, 16, where="meta")},
        ValueError,
        r"on one device; got .*meta",
    ),
    "k and v differ": (
        {"v_cache": zeros(2, 9, 2, 16)},
        ValueError,
        r"one shape; got k \(2, 8, 2, 16\) and v \(2, 9, 2, 16\)",
    ),
    "batch": (
        {"q": zeros(3, 1, 4, 16)},
        ValueError,
        r"batch size B; got q \(3, 1, 4, 16\) and k \(2",
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
        r"from 1 to 256; got q \(2, 8, 2, 257\)",
    ),
    "D is 0": (
        {x: zeros(2, 8, 2, 0) for x in ("q", "k_cache", "v_cache")},
        ValueError,
        r"from 1 to 256",
    ),
    "D not contiguous": (
        {"k_cache": zeros(2, 8, 16, 2).transpose(2, 3)},
        ValueError,
        r"k must be contiguous in D.*strides \(256, 32, 1, 2\)",
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
        r"\(B,\) = \(2,\), a length a row; got \(3,\)",
    ),
    "lengths: device": (
        {"cache_seqlens": zeros(2, dtype=torch.int32, where="meta")},
        ValueError,
        r"on the device of the cache.*got meta",
    ),
    "num_splits = 0": ({"num_splits": 0}, ValueError, r"num_splits must be at least 1; got 0"),
    "num_splits = 2.0": ({"num_splits": 2.0}, TypeError, r"must be an int or None; got 2.0"),
    "num_splits = True": ({"num_splits": True}, TypeError, r"must be an int or None; got True"),
    "scale: text": ({"scale": "1"}, TypeError, r"scale must be a number or None; got '1'"),
    "scale: inf": ({"scale": math.inf}, ValueError, r"scale must be finite; got inf"),
}


@pytest.mark.parametrize(("change", "error", "says"), MISUSE.values(), ids=MISUSE.keys())
def test_misuse_is_told(change, error, says):
    with pytest.raises(error, match=says):
        flash_decode(**good(**change))


def test_the_good_call_is_good():
    assert flash_decode(**good()).isfinite().all()


@pytest.mark.skipif(not INTERPRETED, reason="values on a GPU are clamped, not looked at")
@pytest.mark.parametrize("wrong", [[9, 5], [8, -1]], ids=["beyond the cache", "negative"])
def test_wild_lengths_are_told(wrong):
    lengths = torch.tensor(wrong, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"from 0 to 8.*\(2, 8, 2, 16\).*lengths from"):
        flash_decode(**good(cache_seqlens=lengths))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes tensors on the CPU")
def test_cpu_tensors_are_told_when_compiled():
    call = {name: x.cpu() for name, x in good().items()}
    with pytest.raises(ValueError, match="must be on cuda; got cpu"):
        flash_decode(**call)


def test_combine_misuse_is_told():
    with pytest.raises(ValueError, match=r"S ≥ 1; got \(2, 3, 4\) and \(3, 3\)"):
        combine(zeros(2, 3, 4), zeros(3, 3))
    with pytest.raises(ValueError, match=r"o_partial must be contiguous fp32; got torch\.float16"):
        combine(zeros(2, 3, 4, dtype=torch.float16), zeros(2, 3))


def test_a_wrong_kernel_would_be_seen():
    """The judge itself: an lse off by a hair, an o of another row, are not close to the oracle."""
    shape = DecodeShape("judge", "", B=2, Lk=70)
    q, k, v, _ = decode_inputs(shape, torch.float32, DEVICE)
    o, lse = flash_decode(q, k, v, return_lse=True)
    o_true, lse_true = oracle_with_cache(q, k, v)
    for got, baseline, true in [(lse + 1e-4, lse, lse_true), (o.flip(0), o, o_true)]:
        with pytest.raises(AssertionError):
            assert_close_to_oracle(got, baseline, true)
