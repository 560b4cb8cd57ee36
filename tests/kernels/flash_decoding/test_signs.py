"""kernels.flash_decoding: scales of every sign, and how exact a weight is where scores are large.

The kernel looks for the largest q·k before it multiplies by a scale: with one below 0, the least
q·k is the largest score, and with one of 0 all keys count the same, hidden ones not at all.
"""

import math

import pytest
import torch
from decode_calls import DEVICE, Call, judge, plain_call, to

from kernels.flash_decoding import flash_decode

B, LK, HKV, D = 3, 130, 2, 16
SIGNS = torch.tensor([[0.03, -0.02], [-0.05, 0.0], [0.0, 0.04]])  # (B, Hkv)
LENGTHS = torch.tensor([LK, 70, 33])
DTYPES = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [-0.25, 0.0], ids=str)
@pytest.mark.parametrize(
    "features",
    [{}, {"window": (40, 3)}, {"softcap": 2.0}, {"alibi_slopes": torch.tensor([0.1, 0.5, 1.0])}],
    ids=lambda x: next(iter(x), "plain"),
)
def test_the_softmax_scale(features, scale, dtype):
    """Causal, with rows of which some are empty: there are scores of -inf to be multiplied."""
    call = plain_call((150, 64, 0, 3), Lq=5, dtype=dtype, scale=scale, **features)
    o, lse = judge(call, num_splits=2)
    assert not o.isnan().any() and not lse.isnan().any()
    if scale == 0 and not features:  # so it is the mean of what each query sees
        v = call.arguments[2]
        assert (lse[3, -1] - math.log(3)).abs().max() < 1e-6
        torch.testing.assert_close(
            o[3, -1].float(), v[3, :3].float().mean(0).expand(3, D), rtol=1e-2, atol=1e-2
        )


@pytest.mark.parametrize("kind", ["head", "row", "token"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("wide", [torch.float32, torch.bfloat16], ids=str)
def test_the_scale_of_a_cache(wide, dtype, kind):
    rng = torch.Generator().manual_seed(2)
    q = torch.randn(B, 2, 4 * HKV, D, generator=rng).to(wide)
    k, v = torch.randint(-9, 10, (2, B, LK, HKV, D), generator=rng).to(dtype)
    k_scale = SIGNS[0] if kind == "head" else SIGNS
    if kind == "token":
        signs = torch.randint(-1, 2, (B, LK, HKV), generator=rng)
        k_scale = 0.05 * signs * torch.rand(B, LK, HKV, generator=rng)
    features = {"k_scale": to(k_scale), "v_scale": to(-0.5 * k_scale.abs())}
    features["window"] = (40, 0)
    o, lse = judge(Call((to(q), to(k), to(v), to(LENGTHS)), features, {}), num_splits=2)
    assert not o.isnan().any() and not lse.isnan().any()


@pytest.mark.parametrize("shift", [-200.0, 200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8], ids=str)
def test_a_weight_is_exact_where_scores_are_large(dtype, shift):
    """Ten keys that score near ±200, each with a value of its own: o lists the weights.

    2^x is off by what x is: a product near 200 · log2(e), rounded, by 2^-16, which is 1e-5 of a
    weight. Subtracted first, only the difference is rounded, by 2^-24 of at most 6, twice.
    """
    q, k = torch.zeros(1, 1, 16, D), torch.zeros(1, 10, 1, D)
    steps = torch.arange(10) / 2
    scale = shift / 101 if dtype == torch.int8 else 0.3
    if dtype == torch.int8:  # q·k = 92 … 101, and scores 182 … 200
        q[..., 0], k[0, :, 0, 0] = 1.0, 101.0 - torch.arange(10)
    else:  # exact in fp16
        q[..., 0], k[0, :, 0, 0] = 1.0, shift / 0.3 // 1 + steps
    v = torch.eye(10, D)[None, :, None]
    wide = torch.float16 if dtype == torch.int8 else dtype
    arguments = [to(x.to(kind)) for x, kind in zip((q, k, v), (wide, dtype, dtype), strict=True)]
    one = {"k_scale": torch.ones(1, device=DEVICE), "v_scale": torch.ones(1, device=DEVICE)}
    o = flash_decode(*arguments, scale=scale, num_splits=1, **(one if dtype == torch.int8 else {}))
    got = o[0, 0, 0, :10].cpu().double()
    scores = k[0, :, 0, 0].double() * torch.tensor(scale, dtype=torch.float32).double()
    wanted = scores.softmax(0)
    if dtype == torch.float32:
        assert ((got - wanted).abs() <= 7e-7 * wanted).all()
    else:  # o and p are rounded to fp16, whose least step is 2^-24
        assert ((got - wanted).abs() <= 2.0**-10 * wanted + 2.0**-24).all()
