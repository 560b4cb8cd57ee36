"""reference.quantized_cache: what is read back, in every format, and by whom it is read."""

import doctest
from dataclasses import replace
from itertools import product

import pytest
import torch
from small_models import TINY, small_model, some_tokens

from course.check.guards import empty_is_nan
from reference import quantized_cache as module
from reference.attention import attention_with_cache
from reference.flash_decoding import flash_decode
from reference.flash_decoding_cpu import flash_decode_threads
from reference.kv_cache import append_kv
from reference.quantization import LARGEST, dequantize, quantize
from reference.quantized_cache import (
    STATIC,
    Format,
    QuantizedKVCache,
    cached_keys_and_values,
    calibrate,
)
from reference.transformer import KVCache

WIDE = [Format(torch.float32), Format(torch.bfloat16)]
EIGHT = [Format(*x) for x in product(LARGEST, (*STATIC, "token"))]


def cache_of(model, tokens, k, v, **sizes):
    scales = calibrate(model, tokens, k, v, attention_with_cache)
    return QuantizedKVCache(model.config, k, v, scales=scales, **sizes)


@pytest.mark.parametrize("format", WIDE + EIGHT, ids=str)
def test_attention_reads_the_rounded_keys_and_values(format):
    """The same as rounding the whole of K and V afterwards, by `quantize` where it can do so."""
    model, tokens = small_model(), some_tokens(1, 20)
    k, v = cached_keys_and_values(model, tokens[0], attention_with_cache)
    with empty_is_nan():
        cache = cache_of(model, tokens, format, format, capacity=24)
    model(tokens, cache, attention_with_cache)
    for x, part in ((k[0], cache.k), (v[0], cache.v)):  # layer 0: what comes in is not yet rounded
        got = part.read(0, 20, torch.float64)[0]
        if format.per in ("tensor", "head", "token"):
            wanted = dequantize(*quantize(x, format.dtype, format.per), torch.float64)
        elif format.per == "channel":  # one head of one number each
            wanted = dequantize(
                *quantize(x.flatten(1)[..., None], format.dtype, "head"), torch.float64
            )
            wanted = wanted.view(x.shape)
        else:
            wanted = x.to(format.dtype).double()
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("format", EIGHT, ids=str)
@pytest.mark.parametrize("chunks", [(33,), (1,) * 33, (7, 1, 1, 20, 4)], ids=str)
def test_one_pass_reads_what_single_steps_read(format, chunks):
    """What `token_losses` relies on: a query in a long pass sees rounded keys, its own included."""
    model, tokens = small_model(), some_tokens(2, 33)
    caches = [cache_of(model, tokens, format, format, B=2, capacity=33) for _ in range(2)]
    wanted = model(tokens, caches[0], attention_with_cache)
    parts = [model(part, caches[1], attention_with_cache) for part in tokens.split(chunks, dim=1)]
    got = torch.cat(parts, 1)
    assert caches[1].lengths.tolist() == [33, 33] and caches[1].room == 0
    # fp64 sums in another order may move a number across a rounding boundary, if hardly ever
    assert (got - wanted).abs().max() < 1e-9 * wanted.abs().max()


@pytest.mark.parametrize("dtype", LARGEST, ids=str)
def test_flash_decode_reads_the_same_from_eight_bits(dtype):
    """Multiplied out here, folded there; stored here and by `append_kv`: one result."""
    model, tokens = small_model(dtype=torch.float32), some_tokens(1, 12)
    seen = []

    def attend(q, k, v, lengths, *, causal):
        seen.append((q, k, v))
        return attention_with_cache(q, k, v, lengths, causal=causal)

    format = Format(dtype, "token")
    cache = QuantizedKVCache(model.config, format, format, capacity=12)
    model(tokens, cache, attend)
    q, k, v = seen[0]
    stored = [part.numbers[0] for part in (cache.k, cache.v)]
    scales = dict(
        zip(("k_scale", "v_scale"), (p.scales[0] for p in (cache.k, cache.v)), strict=True)
    )
    lengths = torch.tensor([12], dtype=torch.int32)
    folded = flash_decode(q, *stored, lengths, **scales)
    torch.testing.assert_close(folded, attention_with_cache(q, k, v, lengths), rtol=1e-5, atol=1e-6)
    new = [torch.randn(1, 3, TINY.Hkv, TINY.D) for _ in "kv"]
    appended = [torch.zeros(1, 3, TINY.Hkv, TINY.D, dtype=dtype) for _ in "kv"]
    theirs = [torch.zeros(1, 3, TINY.Hkv) for _ in "kv"]
    append_kv(*appended, *new, k_scale=theirs[0], v_scale=theirs[1])
    for x, numbers, scale, part in zip(new, appended, theirs, (cache.k, cache.v), strict=True):
        part.write(0, 0, 0, x[0])
        assert torch.equal(part.numbers[0, :, :3].float(), numbers.float())
        assert torch.equal(part.scales[0, :, :3], scale)


def test_a_wide_cache_changes_nothing():
    model, tokens = small_model(dtype=torch.float32), some_tokens(2, 30)
    fp32 = Format(torch.float32)
    got = model(tokens, QuantizedKVCache(TINY, fp32, fp32, B=2), flash_decode_threads)
    assert torch.equal(got, model(tokens, KVCache(TINY, B=2), flash_decode_threads))


def test_rows_of_unequal_lengths_keep_to_themselves():
    model, tokens = small_model(), some_tokens(2, 9)
    format = Format(torch.int8, "token")
    both = QuantizedKVCache(TINY, format, format, B=2)
    model(tokens[:, :5], both, attention_with_cache)
    both.lengths[1] = 2  # three tokens taken back
    got = model(tokens[:, 5:], both, attention_with_cache)
    alone = QuantizedKVCache(TINY, format, format)
    model(tokens[1:, :2], alone, attention_with_cache)
    wanted = model(tokens[1:, 5:], alone, attention_with_cache)
    torch.testing.assert_close(got[1:], wanted, rtol=1e-9, atol=1e-9)


def test_a_static_scale_clamps_what_calibration_did_not_see():
    format = Format(torch.int8, "head")
    part = module.Stored(format, TINY, 1, 4, torch.full((TINY.layers, TINY.Hkv), 0.5))
    x = torch.zeros(1, TINY.Hkv, TINY.D)
    x[0, 0, 0], x[0, 1, 1] = 1000.0, -1000.0
    part.write(1, 0, 2, x)
    got = part.read(1, 3, torch.float32)[0, 2]
    assert got[0, 0] == 63.5 and got[1, 1] == -63.5 and got.abs().sum() == 127


def test_calibration_takes_the_largest_of_all_windows():
    model = small_model()
    windows = [w[0] for w in some_tokens(3, 8).split(1)]
    for per in STATIC:
        format = Format(torch.float8_e5m2, per)
        found = calibrate(model, windows, format, format, attention_with_cache)
        single = [calibrate(model, [w], format, format, attention_with_cache) for w in windows]
        for i in range(2):
            assert torch.equal(found[i], torch.stack([pair[i] for pair in single]).amax(0))
            assert any(not torch.equal(pair[i], found[i]) for pair in single)
    assert calibrate(model, windows[:1], *WIDE, attention_with_cache) == (None, None)


def test_bytes_are_those_of_the_tensors():
    for format in WIDE + EIGHT:
        scales = torch.ones(
            {"tensor": (2,), "head": (2, 2), "channel": (2, 2, 4)}.get(format.per, 0)
        )
        scales = scales if format.per in STATIC else None
        cache = QuantizedKVCache(TINY, format, WIDE[1], scales=(scales, None), capacity=8)
        tensors = [cache.k.numbers, cache.v.numbers]
        tensors += [cache.k.scales] if format.per == "token" else []
        assert cache.bytes_per_token() * 8 == sum(x.nbytes for x in tensors)


def test_what_does_not_fit_is_refused():
    int8 = Format(torch.int8, "head")
    with pytest.raises(TypeError, match=r"dtype must be one of .*; got torch.int32"):
        Format(torch.int32)
    with pytest.raises(ValueError, match=r"per must be one of \(None,\) for torch.bfloat16"):
        Format(torch.bfloat16, "head")
    with pytest.raises(ValueError, match=r"per must be one of .*'token'.* got None"):
        Format(torch.int8)
    with pytest.raises(ValueError, match=r"int8 per head needs scales \(2, 2\).*; got None"):
        QuantizedKVCache(TINY, int8, int8)
    with pytest.raises(ValueError, match=r"needs scales \(2, 2\).*; got \(2,\)"):
        QuantizedKVCache(TINY, int8, int8, scales=(torch.ones(2, 2), torch.ones(2)))
    with pytest.raises(ValueError, match=r"bf16 has no static scales; got \(2,\)"):
        QuantizedKVCache(TINY, WIDE[1], WIDE[1], scales=(torch.ones(2), None))
    with pytest.raises(ValueError, match="the capacity 1…40; got 1 and 41"):
        QuantizedKVCache(TINY, *WIDE, capacity=41)
    with pytest.raises(ValueError, match="at least one window"):
        calibrate(small_model(), [], int8, int8, attention_with_cache)
    cache = QuantizedKVCache(replace(TINY, context=4), *WIDE)
    with pytest.raises(ValueError, match="room for 4 more tokens; got 5"):
        small_model()(some_tokens(1, 5), cache)


def test_examples():
    assert doctest.testmod(module).attempted and not doctest.testmod(module).failed
