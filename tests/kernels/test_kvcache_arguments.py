"""kernels.kvcache_api: in which forms it takes its arguments, and how it refuses others."""

import math

import numpy as np
import pytest
import torch

from kernels.kvcache_api import flash_attn_with_kvcache
from kernels.runtime import device
from reference.attention import oracle_with_cache

DEVICE = device()
B, LQ, HQ, HKV, D, ROOM = 2, 3, 4, 2, 16, 16


def drawn():
    """q, caches and the arguments of a call that has all of them but pages."""
    rng = torch.Generator().manual_seed(0)
    q = torch.randn(B, LQ, HQ, D, generator=rng)
    caches = torch.randn(2, 4, ROOM, HKV, D, generator=rng)
    given = {
        "cache_seqlens": torch.tensor([5, 9], dtype=torch.int32),
        "cache_batch_idx": torch.tensor([3, 1], dtype=torch.int32),
        "cache_leftpad": torch.tensor([2, 0], dtype=torch.int32),
        "alibi_slopes": torch.rand(B, HQ, generator=rng),
        "causal": True,
    }
    given = {name: x.to(DEVICE) if torch.is_tensor(x) else x for name, x in given.items()}
    return q.to(DEVICE), caches.to(DEVICE), given


def call(q, caches, **given):
    return flash_attn_with_kvcache(q, *caches.clone(), return_softmax_lse=True, **given)


def equal(one, other):
    return all(map(torch.equal, one, other))


def strided(x):
    """The same numbers, the last dimension not contiguous, with wild ones in between."""
    wide = torch.full((*x.shape, 2), 10**6, dtype=x.dtype, device=x.device)
    wide[..., 0] = x
    assert wide[..., 0].stride(-1) == 2
    return wide[..., 0]


@pytest.mark.parametrize(
    "name", ["cache_seqlens", "cache_batch_idx", "cache_leftpad", "alibi_slopes"]
)
def test_a_strided_argument_is_copied(name):
    q, caches, given = drawn()
    assert equal(call(q, caches, **given | {name: strided(given[name])}), call(q, caches, **given))


def test_a_strided_table_of_pages_names_the_pages_that_it_shows():
    q, caches, _ = drawn()
    pages, lengths = caches.reshape(2, 8, 8, HKV, D), torch.tensor([5, 9], dtype=torch.int32)
    table = torch.tensor([[6, 1], [4, 2]], dtype=torch.int32)
    rows = pages[:, table].reshape(2, B, ROOM, HKV, D)
    o_true, lse_true = oracle_with_cache(q.cpu(), *rows.cpu(), lengths, causal=True)
    for given in (strided(table), table.T.contiguous().T):
        where = {"block_table": given.to(DEVICE), "cache_seqlens": lengths.to(DEVICE)}
        o, lse = call(q, pages, causal=True, **where)
        torch.testing.assert_close(o.cpu().double(), o_true, atol=1e-6, rtol=0)
        torch.testing.assert_close(lse.mT.cpu().double(), lse_true, atol=1e-6, rtol=0)


FORMS = {
    "numpy": (np.int32, np.float32, np.bool_),
    "numpy, wide": (np.int64, np.float64, np.bool_),
    "0-d tensors": (torch.tensor, torch.tensor, torch.tensor),
    "0-d arrays": (np.array, np.array, np.array),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_numbers_of_any_make(form):
    whole, real, flag = form
    q, caches, given = drawn()
    del given["cache_batch_idx"]
    given |= {"cache_seqlens": 7, "softmax_scale": 0.75, "softcap": 2.5, "num_splits": 3}
    plain = given | {"window_size": (4, 0), "rotary_interleaved": False}
    odd = {name: whole(given[name]) for name in ("cache_seqlens", "num_splits")}
    odd |= {name: real(given[name]) for name in ("softmax_scale", "softcap")}
    odd |= {"causal": flag(True), "rotary_interleaved": flag(False)}
    odd |= {"window_size": [whole(4), whole(0)]}
    wanted = call(q, caches[:, :B], **plain)
    assert equal(call(q, caches[:, :B], **given | odd), wanted)
    lengths = torch.full((B,), 7, dtype=torch.int32, device=DEVICE)
    assert equal(call(q, caches[:, :B], **plain | {"cache_seqlens": lengths}), wanted)


def test_a_0d_length_goes_with_new_tokens_too_and_is_not_read():
    """On the meta device nothing can be read; a length for all rows is only spread there."""
    from kernels import kvcache_api

    q, caches, _ = drawn()
    new = torch.randn(2, B, LQ, HKV, D, device=DEVICE)
    both = []
    for length in (4, torch.tensor(4)):
        written = caches[:, :B].clone()
        both.append((flash_attn_with_kvcache(q, *written, *new, cache_seqlens=length), written))
    assert equal(*both)
    nowhere = torch.empty((), dtype=torch.int32, device="meta")
    spread = kvcache_api._lengths(nowhere, q.to("meta"), caches[0], None)
    assert spread.shape == (B,) and spread.is_contiguous()


def test_zero_and_one_are_flags_as_in_cpp():
    q, caches, given = drawn()
    wanted = call(q, caches, **given)
    assert equal(call(q, caches, **given | {"causal": 1}), wanted)
    assert not equal(call(q, caches, **given | {"causal": 0}), wanted)


REFUSED = {
    "cache_seqlens, a float": (TypeError, {"cache_seqlens": 4.0}),
    "cache_seqlens, True": (TypeError, {"cache_seqlens": True}),
    "cache_seqlens, below 0": (ValueError, {"cache_seqlens": -1}),
    "cache_seqlens, too large": (ValueError, {"cache_seqlens": 2**31}),
    "cache_seqlens, of floats": (TypeError, {"cache_seqlens": torch.tensor(4.0)}),
    "cache_seqlens, a list": (TypeError, {"cache_seqlens": [5, 9]}),
    "cache_batch_idx, a list": (TypeError, {"cache_batch_idx": [3, 1]}),
    "cache_leftpad, shape": (ValueError, {"cache_leftpad": torch.zeros(3, dtype=torch.int32)}),
    "alibi_slopes, fp64": (TypeError, {"alibi_slopes": torch.zeros(HQ).double()}),
    "softmax_scale, text": (TypeError, {"softmax_scale": "0.5"}),
    "softmax_scale, NaN": (ValueError, {"softmax_scale": math.nan}),
    "softmax_scale, one in a list": (TypeError, {"softmax_scale": torch.tensor([0.5])}),
    "softcap, None": (TypeError, {"softcap": None}),
    "softcap, NaN": (ValueError, {"softcap": np.float32("nan")}),
    "num_splits, a float": (TypeError, {"num_splits": 2.0}),
    "num_splits, None": (TypeError, {"num_splits": None}),
    "window_size, None": (TypeError, {"window_size": None}),
    "window_size, one": (TypeError, {"window_size": (4,)}),
    "window_size, of None": (TypeError, {"window_size": (4, None)}),
    "window_size, of floats": (TypeError, {"window_size": (4.0, 0.0)}),
    "window_size, too large": (ValueError, {"window_size": (2**31, 0)}),
    "causal, None": (TypeError, {"causal": None}),
    "causal, two": (TypeError, {"causal": 2}),
    "causal, text": (TypeError, {"causal": "False"}),
    "rotary_interleaved": (TypeError, {"rotary_interleaved": None}),
}


@pytest.mark.parametrize(("error", "given"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_named_before_anything_is_written(error, given):
    q, caches, plain = drawn()
    del plain["cache_leftpad"], plain["alibi_slopes"]
    (name,) = given
    given = {name: x.to(DEVICE) if torch.is_tensor(x) else x for name, x in given.items()}
    with pytest.raises(error, match=rf"^{name} must .*(; got|on the device)"):
        flash_attn_with_kvcache(q, *caches, **plain | given)
    new, before = torch.randn(2, B, LQ, HKV, D, device=DEVICE), caches.clone()
    if name not in ("cache_leftpad", "alibi_slopes"):  # those are looked at after the append
        with pytest.raises(error, match=name):
            flash_attn_with_kvcache(q, *caches, *new, **plain | given)
        assert torch.equal(caches, before)


def test_strided_rotary_tables_are_refused_by_name():
    q, caches, _ = drawn()
    new, angle = torch.randn(2, B, LQ, HKV, D, device=DEVICE), torch.rand(ROOM, 8, device=DEVICE)
    for which in (0, 1):
        tables = [angle.cos(), angle.sin()]
        tables[which] = strided(tables[which])
        name = ("rotary_cos", "rotary_sin")[which]
        with pytest.raises(ValueError, match=f"{name} must be contiguous"):
            flash_attn_with_kvcache(q, *caches[:, :B], *new, *tables, cache_seqlens=4)


def test_inputs_that_require_grad_are_refused_while_grad_is_enabled():
    q, caches, given = drawn()
    with pytest.raises(ValueError, match="q requires grad"):
        call(q.requires_grad_(), caches, **given)
    with torch.no_grad():
        assert call(q, caches, **given)[0].grad_fn is None


def test_causal_alibi_has_the_o_of_flash_attn_and_an_lse_that_is_slope_times_place_lower():
    """flash-attn adds slope · j to the score of key j where we subtract slope · (p - j)."""
    q, caches, given = drawn()
    caches, slopes = caches[:, :B], given["alibi_slopes"]
    o, lse = call(q, caches, cache_seqlens=9, alibi_slopes=slopes, causal=True)
    k, v = caches[:, :, :9].double().repeat_interleave(HQ // HKV, 3).cpu()
    scores = torch.einsum("bihd,bjhd->bhij", q.cpu().double(), k) * D**-0.5
    scores += slopes.cpu().double()[:, :, None, None] * torch.arange(9)  # theirs
    place = torch.arange(9 - LQ, 9)
    scores = scores.masked_fill(torch.arange(9) > place[:, None], -math.inf)
    theirs = scores.logsumexp(-1), torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v)
    torch.testing.assert_close(o.cpu().double(), theirs[1], atol=1e-6, rtol=0)
    shifted = theirs[0] - slopes.cpu().double()[:, :, None] * place
    torch.testing.assert_close(lse.cpu().double(), shifted, atol=2e-6, rtol=0)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("numbers", ["Python", "numpy"])
def test_odd_arguments_under_compile(numbers, backend):
    """Strided indices stay in the graph; to Dynamo a numpy number is a tensor, and it breaks it."""
    q, caches, given = drawn()
    rows = strided(given.pop("cache_batch_idx"))
    given |= {"num_splits": 2, "window_size": [4, -1], "softmax_scale": 0.5}
    if numbers == "numpy":
        given |= {"num_splits": np.int64(2), "softmax_scale": np.float32(0.5)}

    def step(q, k_cache, v_cache, rows):
        return flash_attn_with_kvcache(q * 2.0, k_cache, v_cache, cache_batch_idx=rows, **given)

    compiled = torch.compile(step, backend=backend, fullgraph=numbers == "Python")
    assert torch.equal(compiled(q, *caches, rows), step(q, *caches, rows))


def test_a_length_that_changes_under_compile():
    """The second length makes it a symbol, which stands for all that follow."""
    q, caches, _ = drawn()
    caches = caches[:, :B]
    compiled = torch.compile(flash_attn_with_kvcache, backend="aot_eager", fullgraph=True)
    for length in (5, 6, 9, torch.tensor(7)):
        wanted = flash_attn_with_kvcache(q, *caches, cache_seqlens=length, softcap=0.5 + length)
        got = compiled(q, *caches, cache_seqlens=length, softcap=0.5 + int(length))
        assert torch.equal(got, wanted)
