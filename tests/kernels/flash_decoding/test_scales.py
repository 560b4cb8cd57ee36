"""kernels.flash_decoding: a scale per row and head, (B, Hkv), as FlashAttention-3 passes it."""

import math

import pytest
import torch
from decode_calls import DEVICE, Call, judge, plain_call, to
from poison import paged

from kernels.cascade import cascade_decode
from kernels.flash_decoding import flash_decode, flash_decode_plan, workspace_bytes

B, LK, HKV, D = 3, 130, 2, 16
CUTS = [{"num_splits": 1}, {"num_splits": 3}, {"split_size": 64}, {"planned": True}]


def numbers(*shape, seed=0):
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(seed))


def inputs(Lq=1, G=2, rows=B, dtype=torch.int8):
    """q, caches of small whole numbers, and scales (B, Hkv) far from each other."""
    q = torch.randn(B, Lq, G * HKV, D, generator=torch.Generator().manual_seed(1))
    k, v = numbers(2, rows, LK, HKV, D).to(dtype)
    k_scale = torch.tensor([[0.1, 0.02], [0.03, 0.2], [0.05, 0.01]])
    v_scale = torch.tensor([[1.0, 100.0], [0.01, 3.0], [7.0, 0.5]])
    return q, k, v, k_scale, v_scale


def truth(q, k, v, k_scale, v_scale, lengths, causal=True):
    """fp64 and a loop over rows and heads; k, v (B, Lk, Hkv, D): the keys of each row of q."""
    o = torch.zeros(*q.shape[:3], v.shape[3]).double()
    lse = torch.full(q.shape[:3], -math.inf).double()
    G, Lq = q.shape[2] // k.shape[2], q.shape[1]
    for b, length in enumerate(lengths):
        for h in range(q.shape[2]):
            keys = k[b, :length, h // G].double() * k_scale[b, h // G].double()
            values = v[b, :length, h // G].double() * v_scale[b, h // G].double()
            for i in range(Lq):
                n = length - Lq + i + 1 if causal else length
                if n > 0:
                    scores = keys[:n] @ q[b, i, h].double() / q.shape[3] ** 0.5
                    lse[b, i, h] = scores.logsumexp(0)
                    o[b, i, h] = scores.softmax(0) @ values[:n]
    return o, lse


def assert_right(got, wanted):
    """fp32 sums of at most 130 products: a few dozen roundings, relative to the head's largest."""
    o, lse = (x.cpu().double() for x in got)
    room = 1e-5 * wanted[0].abs().amax((1, 3), keepdim=True)
    assert ((o - wanted[0]).abs() <= room).all()
    torch.testing.assert_close(lse, wanted[1], rtol=1e-5, atol=1e-5)


def test_by_hand():
    """q = 0: o is the mean of the values, all 2, times v_scale; one key: lse is its score."""
    q = torch.zeros(2, 1, 4, 4)
    twos = torch.full((2, 5, 2, 4), 2).to(torch.int8)
    v_scale = torch.tensor([[1.0, 0.5], [4.0, 0.25]])
    scales = {"k_scale": to(torch.ones(2, 2)), "v_scale": to(v_scale)}
    o = flash_decode(to(q), to(twos), to(twos), **scales, num_splits=1)
    assert o[:, 0, :, 0].tolist() == [[2, 2, 1, 1], [8, 8, 0.5, 0.5]]
    scales = {"k_scale": to(v_scale), "v_scale": to(torch.ones(2, 2))}
    lengths = torch.tensor([1, 1], device=DEVICE)
    arguments = (to(q + 1), to(twos), to(twos), lengths)
    _, lse = flash_decode(*arguments, **scales, scale=1.0, return_lse=True)  # 4 · 1 · 2 · k_scale
    torch.testing.assert_close(
        lse[:, 0].cpu(), torch.tensor([[8.0, 8, 4, 4], [32, 32, 2, 2]]), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize(("Lq", "G"), [(1, 1), (1, 4), (5, 2)], ids=str)
def test_each_row_has_its_own(Lq, G, cut):
    """Rows in fp32 and in all dtypes of eight bits; one is empty, and its scale NaN."""
    lengths = [LK, 0, 70]
    for dtype in (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2):
        q, k, v, k_scale, v_scale = inputs(Lq, G, dtype=dtype)
        k_scale[1] = v_scale[1] = math.nan
        features = {"k_scale": to(k_scale), "v_scale": to(v_scale)}
        call = Call((to(q), to(k), to(v), to(torch.tensor(lengths))), features, {})
        wide = (x.float() for x in (k, v))
        assert_right(judge(call, **cut), truth(q, *wide, k_scale, v_scale, lengths))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_queries_of_sixteen_bits(dtype):
    q, k, v, k_scale, v_scale = inputs(Lq=2, G=4)
    features = {"k_scale": to(k_scale), "v_scale": to(v_scale), "softcap": 5.0}
    judge(Call((to(q.to(dtype)), to(k), to(v), None), features, {}), num_splits=2)


def test_they_belong_to_rows_of_q_not_of_the_cache():
    """Five rows in the cache, one of them read twice, with different scales."""
    q, k, v, k_scale, v_scale = inputs(rows=5)
    index = torch.tensor([4, 1, 4])
    features = {"cache_batch_idx": to(index), "k_scale": to(k_scale), "v_scale": to(v_scale)}
    got = judge(Call((to(q), to(k), to(v), None), features, {}), num_splits=2)
    wide = (x[index].float() for x in (k, v))
    assert_right(got, truth(q, *wide, k_scale, v_scale, [LK] * B))


@pytest.mark.parametrize("size", [1, 3, 48, 64, 100, 128, 528])
def test_in_pages(size):
    lengths = torch.tensor([LK, 0, 70])
    q, k, v, k_scale, v_scale = inputs()
    live = torch.arange(LK) < lengths[:, None]
    (k_pages, v_pages), table = paged([k, v], live, size, torch.Generator().manual_seed(size))
    features = {"block_table": to(table), "k_scale": to(k_scale), "v_scale": to(v_scale)}
    got = judge(Call((to(q), to(k_pages), to(v_pages), to(lengths)), features, {}), planned=True)
    wide = (x.float() for x in (k, v))
    assert_right(got, truth(q, *wide, k_scale, v_scale, lengths.tolist()))


def test_a_row_of_padding_has_no_scale():
    """It has keys by its length, but all of them are padding: o = 0, lse = -inf, whatever is there.

    So does a query before the first key, in a row that does have keys."""
    q, k, v, k_scale, v_scale = inputs(Lq=3)
    pads = torch.tensor([128, 0, 70])
    k_scale[2] = v_scale[2] = math.nan
    features = {"cache_leftpad": to(pads), "k_scale": to(k_scale), "v_scale": to(v_scale)}
    lengths = to(torch.tensor([129, LK, 70]))
    for cut in CUTS:
        o, lse = judge(Call((to(q), to(k), to(v), lengths), dict(features), {}), **cut)
        hidden = lse == -math.inf
        assert hidden[2].all() and hidden[0, :2].all() and not hidden[0, 2].any()
        assert (o[hidden] == 0).all()


def test_one_scale_in_every_shape_gives_the_same_bits():
    q, k, v, *_ = (to(x) for x in inputs(Lq=2))
    wanted = None
    for shape in ((), (1,), (HKV,), (B, HKV)):
        scale = torch.full(shape, 0.05, device=DEVICE)
        got = flash_decode(q, k, v, k_scale=scale, v_scale=scale, num_splits=2, return_lse=True)
        wanted = wanted or got
        assert all(torch.equal(x, y) for x, y in zip(got, wanted, strict=True)), shape


def test_any_strides():
    """Expanded from one number, as vLLM passes them; transposed; a column of something wider."""
    q, k, v, k_scale, v_scale = inputs()
    one = torch.tensor([0.05], device=DEVICE)
    arguments = (to(q), to(k), to(v), None)
    got = judge(
        Call(arguments, {"k_scale": one.expand(B, HKV), "v_scale": one.expand(B, HKV)}, {}),
        num_splits=2,
    )
    wanted = flash_decode(*arguments, k_scale=one, v_scale=one, num_splits=2, return_lse=True)
    assert all(torch.equal(x, y) for x, y in zip(got, wanted, strict=True))
    wide = torch.full((B, HKV, 3), math.nan)
    wide[..., 1] = v_scale
    features = {"k_scale": to(k_scale.t().contiguous()).t(), "v_scale": to(wide)[..., 1]}
    got = judge(Call(arguments, features, {}), num_splits=2)
    assert_right(got, truth(q, k.float(), v.float(), k_scale, v_scale, [LK] * B))


@pytest.mark.parametrize("k_per", ["tensor", "row", "token"])
@pytest.mark.parametrize("v_per", ["head", "row", "token"])
def test_keys_and_values_need_not_agree(k_per, v_per):
    q, k, v, k_scale, v_scale = inputs()
    token = torch.rand(B, LK, HKV, generator=torch.Generator().manual_seed(2))
    shapes = {"tensor": token[0, 0, 0], "head": v_scale[0], "token": token / 10}
    features = {"k_scale": shapes.get(k_per, k_scale), "v_scale": shapes.get(v_per, v_scale)}
    features = {name: to(x) for name, x in features.items()}
    judge(Call((to(q), to(k), to(v), None), features, {}), num_splits=2)


def test_a_latent():
    """MLA: keys and values are the same numbers, each with its scale of the row."""
    call = plain_call((70, 0, 9), Hq=16, D=576)
    q, _, _, lengths = call.arguments
    k = to(numbers(3, 75, 1, 576).to(torch.int8))
    scales = torch.tensor([[0.01], [0.5], [0.03]])
    features = {"k_scale": to(scales), "v_scale": to(3 * scales.flip(0))}
    judge(Call((q, k, k[..., :512], lengths), features, {"scale": 0.05}), num_splits=2)


def test_plan_and_workspace_take_them():
    q, k, v, k_scale, v_scale = inputs()
    lengths, tensors = torch.tensor([LK, 3, 70]), [to(x) for x in (q, k, v)]
    features = {"k_scale": to(k_scale), "v_scale": to(v_scale)}
    plan = flash_decode_plan(*tensors, to(lengths), **features)
    size = workspace_bytes(*tensors, cache_seqlens=to(lengths), plan=plan, **features)
    cut = {"plan": plan, "workspace": torch.full((size // 4,), math.nan, device=DEVICE)}
    got = flash_decode(*tensors, to(lengths), **cut, **features, return_lse=True)
    assert_right(got, truth(q, k.float(), v.float(), k_scale, v_scale, lengths.tolist()))


def test_the_rows_after_a_shared_prefix():
    q, k, v, k_scale, v_scale = inputs()
    prefix = torch.randn(2, 20, HKV, D, generator=torch.Generator().manual_seed(3))
    scales = {"k_scale": to(k_scale), "v_scale": to(v_scale)}
    got = cascade_decode(to(q), *to(prefix), to(k), to(v), **scales, return_lse=True)
    wide = [
        torch.cat([x[None].expand(B, -1, -1, -1), y * scale[:, None, :, None]], 1)
        for x, y, scale in zip(prefix, (k, v), (k_scale, v_scale), strict=True)
    ]
    ones = torch.ones(B, HKV)
    assert_right(got, truth(q, *wide, ones, ones, [20 + LK] * B))


@pytest.mark.parametrize("shape", [(HKV, B), (B, 1), (B, LK), (1, HKV), (5, HKV), (B, HKV, 1)])
def test_what_is_said_of_other_shapes(shape):
    """The rows are those of q; the cache has five."""
    q, k, v, k_scale, _ = (to(x) for x in inputs(rows=5))
    features = {"cache_batch_idx": to(torch.tensor([4, 1, 4])), "k_scale": k_scale}
    wanted = r"v_scale must be \(\), \(1,\), \(Hkv,\) = \(2,\), \(B, Hkv\) = \(3, 2\) or one per"
    for op in (flash_decode, workspace_bytes):
        with pytest.raises(ValueError, match=wanted):
            op(q, k, v, **features, v_scale=torch.ones(shape, device=DEVICE))
