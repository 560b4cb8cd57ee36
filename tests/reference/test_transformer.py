"""reference.transformer: a cache changes the work but not the logits, whatever attends."""

import doctest
from dataclasses import replace

import pytest
import torch
from small_models import TINY, small_model, some_tokens

from course.check.guards import empty_is_nan
from reference import transformer as module
from reference.attention import attention, attention_with_cache
from reference.closeness import assert_close_to_oracle
from reference.flash_attention import flash_attention
from reference.flash_decoding import flash_decode
from reference.flash_decoding_cpu import flash_decode_threads
from reference.kv_cache import append_kv
from reference.transformer import Config, KVCache, RMSNorm, Transformer, over_prefix

CHUNKINGS = [(33,), (1,) * 33, (32, 1), (1, 32), (7, 1, 1, 20, 4)]


def read_in_chunks(model, tokens, chunks, attend=attention_with_cache, **cache):
    kept = KVCache(
        model.config, len(tokens), tokens.shape[1], dtype=model.norm.weight.dtype, **cache
    )
    logits = [model(part, kept, attend) for part in tokens.split(chunks, dim=1)]
    assert kept.lengths.tolist() == [tokens.shape[1]] * len(tokens) and kept.room == 0
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("chunks", CHUNKINGS, ids=str)
def test_logits_with_and_without_cache_are_equal(chunks):
    """All fp64 but the angles, which are the same either way: only the order of sums differs."""
    model, tokens = small_model(), some_tokens(2, 33)
    with empty_is_nan():
        got = read_in_chunks(model, tokens, chunks)
    wanted = model(tokens)
    assert wanted.std() > 0.5  # the logits say something
    assert (got - wanted).abs().max() < 1e-12 * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_cache_costs_no_precision(dtype):
    rounded, tokens = small_model(dtype=dtype), some_tokens(2, 33)
    truth = small_model()
    truth.load_state_dict(rounded.state_dict())
    with empty_is_nan():
        got = read_in_chunks(rounded, tokens, (30, 1, 1, 1))
    assert got.dtype == dtype
    assert_close_to_oracle(got, rounded(tokens), truth(tokens), name="logits")


@pytest.mark.parametrize(
    "attend",
    [flash_decode, flash_decode_threads, over_prefix(flash_attention), over_prefix(attention)],
    ids=["flash_decode", "threads", "flash_attention", "attention"],
)
def test_any_attention_drives_it(attend):
    model, tokens = small_model(dtype=torch.float32), some_tokens(2, 33)
    naive, truth = model(tokens), small_model()(tokens)
    with empty_is_nan():
        got = read_in_chunks(model, tokens, (30, 1, 1, 1), attend)
    assert_close_to_oracle(got, naive, truth, name="logits")
    assert_close_to_oracle(model(tokens, attend=attend), naive, truth, name="logits")


def test_rows_of_unequal_length_decode_together():
    model, tokens, lengths = small_model(), some_tokens(3, 12), (11, 1, 6)
    cache = KVCache(TINY, 3, 12, dtype=torch.float64)
    cache.k.fill_(torch.nan), cache.v.fill_(torch.nan)
    wanted = []
    for b, length in enumerate(lengths):
        row = KVCache(TINY, 1, 12, dtype=torch.float64)
        model(tokens[b : b + 1, :length], row)
        cache.k[:, b, :length], cache.v[:, b, :length] = row.k[:, 0, :length], row.v[:, 0, :length]
        cache.lengths[b] = length
        wanted.append(model(tokens[b : b + 1, : length + 1])[:, -1:])
    new = torch.stack([tokens[b, length : length + 1] for b, length in enumerate(lengths)])
    got = model(new, cache, flash_decode)
    assert (got - torch.cat(wanted)).abs().max() < 1e-12 * got.abs().max()
    assert cache.lengths.tolist() == [12, 2, 7] and cache.room == 0
    with pytest.raises(ValueError, match=r"equally long; got lengths \[2, 2, 2, 3\]"):
        x = torch.zeros(4, 1, 2, 4)
        over_prefix(attention)(x, x, x, torch.tensor([2, 2, 2, 3]), causal=True)


def test_the_past_does_not_see_the_future():
    model, tokens = small_model(), some_tokens(1, 20)
    before = model(tokens)
    tokens[0, 12] = (tokens[0, 12] + 1) % 256
    after = model(tokens)
    assert torch.equal(before[:, :12], after[:, :12])
    assert (before[:, 12:] != after[:, 12:]).any(-1).all()


def test_the_order_of_the_past_matters():
    """Attention alone, a sum, would not notice; with the rotary embedding it does."""
    model, tokens = small_model(), some_tokens(1, 20)
    swapped = tokens[:, [1, 0, *range(2, 20)]]
    assert (model(tokens)[0, -1] - model(swapped)[0, -1]).abs().max() > 1e-3


def test_an_error_leaves_the_cache_as_it_was():
    model, tokens = small_model(), some_tokens(1, 9)
    cache = KVCache(TINY, 1, 9, dtype=torch.float64)
    model(tokens[:, :5], cache)

    def broken(*_, **__):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        model(tokens[:, 6:7], cache, broken)
    assert cache.lengths.tolist() == [5]
    got = model(tokens[:, 5:], cache)
    assert (got - model(tokens)[:, 5:]).abs().max() < 1e-12 * got.abs().max()


def test_the_cache_is_written_by_the_function_it_is_given():
    calls = []

    def noting(*args, **kwargs):
        calls.append(args[4].tolist())
        return append_kv(*args, **kwargs)

    read_in_chunks(small_model(), some_tokens(1, 6), (4, 2), append=noting)
    assert calls == [[0], [0], [4], [4]]  # two layers, two passes


def test_norm_and_sizes():
    x = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(RMSNorm(2)(x), x / (12.5 + 1e-5) ** 0.5, rtol=1e-6)
    x = x.double() / 3
    wanted = x / (12.5 / 9 + 1e-5) ** 0.5
    assert torch.allclose(RMSNorm(2).double()(x), wanted, rtol=1e-15, atol=0)  # not through fp32
    model = Transformer()
    assert sum(w.numel() for w in model.parameters()) == 738_432
    cache = KVCache(model.config, capacity=10)
    stored = cache.k.numel() + cache.v.numel()
    assert model.config.kv_bytes_per_token() * 10 == 4 * stored
    assert model.config.kv_bytes_per_token(2) * 10 == 2 * stored


def test_sizes_that_other_models_have():
    """A rope base, a norm epsilon and an output matrix of their own: each changes the logits."""
    tokens, plain = some_tokens(1, 20), small_model()
    for changes in ({"rope_base": 100.0}, {"norm_eps": 0.1}):
        other = small_model(replace(TINY, **changes))
        assert (other(tokens) - plain(tokens))[0, -1].abs().max() > 1e-2
        assert (read_in_chunks(other, tokens, (19, 1)) - other(tokens)).abs().max() < 1e-11
    x = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(RMSNorm(2, 0.5)(x), x / 13**0.5, rtol=1e-6)
    cos, sin = Transformer(replace(TINY, rope_base=100.0)).angles
    assert torch.allclose(torch.atan2(sin[1], cos[1]), torch.tensor([1.0, 0.1]))
    other = small_model(replace(TINY, tied=False))
    assert not torch.equal(other.head.weight, other.embedding.weight)
    with torch.no_grad():
        before = other(tokens)
        other.head.weight *= 2
    assert torch.allclose(other(tokens), 2 * before, rtol=1e-12)


def test_a_configuration_prints_what_is_not_the_default():
    assert repr(Config(layers=2)).endswith("layers=2, width=128, Hq=8, Hkv=2, D=16, hidden=352, "
                                           "context=512)")  # fmt: skip
    assert repr(replace(TINY, rope_base=5e5, tied=False)).endswith(
        "context=40, rope_base=500000.0, tied=False)"
    )


def test_angles_are_not_rounded_with_the_weights():
    model = Transformer().half()
    assert model.angles[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"Hq": 6, "Hkv": 4}, "multiple of Hkv; got 6 and 4"),
        ({"D": 5}, "D must be even"),
        ({"layers": 0}, "layers must be at least 1; got 0"),
        ({"rope_base": 0.0}, "rope_base must be above 0 and finite; got 0.0"),
        ({"norm_eps": float("inf")}, "norm_eps must be above 0 and finite; got inf"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        Config(**sizes)


def test_misuse():
    model, cache = small_model(), KVCache(TINY, 1, 4, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"int64; got torch\.int32"):
        model(some_tokens(1, 3).int())
    with pytest.raises(ValueError, match=r"\(B, L\) with L ≥ 1; got \(1, 0\)"):
        model(some_tokens(1, 0))
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        model(some_tokens(1, 3)[0])
    with pytest.raises(ValueError, match="40 places; got 41 tokens"):
        model(some_tokens(1, 41))
    with pytest.raises(ValueError, match="holds 1 rows; got tokens for 2"):
        model(some_tokens(2, 3), cache)
    model(some_tokens(1, 3), cache)
    with pytest.raises(ValueError, match="room for 1 more tokens; got 2"):
        model(some_tokens(1, 2), cache)
    assert cache.lengths.tolist() == [3]
    for B, capacity in ((0, 4), (1, 0), (1, 41)):
        with pytest.raises(ValueError, match="capacity 1…40"):
            KVCache(TINY, B, capacity)


def test_examples():
    assert doctest.testmod(module).failed == 0
