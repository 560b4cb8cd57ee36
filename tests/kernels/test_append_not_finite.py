"""Appending NaN, inf and numbers too large to an eight-bit cache: a table worked out by hand."""

import math

import pytest
import torch
from eight_bits import EIGHT_BITS

from kernels import append as module
from kernels.append import append_kv
from kernels.flash_decoding import flash_decode
from kernels.runtime import INTERPRETED, device
from reference import flash_decoding as reference_decoding
from reference import kv_cache as reference
from reference.quantization import LARGEST, dequantize

DEVICE = device()
NAN, INF = math.nan, math.inf
NEW = (NAN, INF, -INF, 3e38, -3e38, 3.0, 0.25, 0.0)  # divided by 0.5, 3e38 is beyond fp32, too
HALVED = {  # what is stored of them with a scale of 0.5: NaN, ±inf, saturated, exact, a tie
    torch.int8: (-128, -128, -128, 127, -127, 6, 0, 0),
    torch.float8_e4m3fn: (NAN, NAN, NAN, 448, -448, 6, 0.5, 0),
    torch.float8_e5m2: (NAN, INF, -INF, 57344, -57344, 6, 0.5, 0),
}
UNSCALED = {
    torch.float8_e4m3fn: (NAN, NAN, NAN, 448, -448, 3, 0.25, 0),
    torch.float8_e5m2: (NAN, INF, -INF, 57344, -57344, 3, 0.25, 0),
}
GIVEN = {"nothing": None, "tensor": (), "one": (1,), "head": (2,)}


@pytest.fixture
def unlooked(monkeypatch):
    """As on a GPU: nobody looks at the values before the launch."""
    monkeypatch.setattr(module, "check_values", lambda *_: None)
    monkeypatch.setattr(reference, "_check_numbers", lambda *_, **__: None)


def same(got, wanted):
    """Number by number the same, NaN where NaN is wanted."""
    wanted = torch.tensor(wanted, dtype=torch.float32).expand(got.shape)
    return torch.equal(got.cpu().float().nan_to_num(7e30, 8e30, -8e30),
                       wanted.nan_to_num(7e30, 8e30, -8e30))  # fmt: skip


def run(append, dtype, numbers, scales):
    """Append one token, of two heads and with these D numbers, after one that stays 1."""
    device = DEVICE if append is append_kv else "cpu"
    x = torch.tensor(numbers, device=device).expand(1, 1, 2, len(numbers)).contiguous()
    caches = [torch.ones(1, 2, 2, len(numbers), device=device).to(dtype) for _ in "kv"]
    scales = [scale if scale is None else scale.clone().to(device) for scale in scales]
    start = torch.tensor([1], device=device)
    append(*caches, x, x, start, k_scale=scales[0], v_scale=scales[1])
    for cache in caches:
        assert same(cache[:, 0], 1.0)
    return [cache[0, 1] for cache in caches], scales


BOTH = pytest.mark.parametrize("append", [append_kv, reference.append_kv], ids=["kernel", "twin"])
DTYPES = pytest.mark.parametrize("dtype", EIGHT_BITS, ids=str)


@BOTH
@DTYPES
@pytest.mark.filterwarnings("ignore:overflow encountered in divide")
@pytest.mark.parametrize("per", GIVEN)
def test_with_a_given_scale(append, dtype, per, unlooked):
    if per == "nothing" and dtype == torch.int8:
        return
    scale = None if per == "nothing" else torch.full(GIVEN[per], 0.5)
    stored, _ = run(append, dtype, NEW, (scale, scale))
    for x in stored:
        assert same(x, UNSCALED[dtype] if scale is None else HALVED[dtype])


@BOTH
@DTYPES
def test_with_a_scale_per_token(append, dtype):
    """The scale is that of the finite numbers, 2; only int8 must give it up."""
    most = LARGEST[dtype]
    new = (NAN, INF, -INF, 2 * most, -2 * most, 4.0, 1.0, 0.0)
    wanted = {
        torch.int8: (-128, -128, -128, 127, -127, 2, 0, 0),
        torch.float8_e4m3fn: (NAN, NAN, NAN, 448, -448, 2, 0.5, 0),
        torch.float8_e5m2: (NAN, INF, -INF, 57344, -57344, 2, 0.5, 0),
    }[dtype]
    stored, scales = run(append, dtype, new, (torch.full((1, 2, 2), 9.0),) * 2)
    for x, scale in zip(stored, scales, strict=True):
        assert same(x, wanted) and same(scale[0, 0], 9.0)
        assert same(scale[0, 1], NAN if dtype == torch.int8 else 2.0)


@BOTH
@DTYPES
@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_a_token_without_a_finite_number(append, dtype, number):
    stored, scales = run(append, dtype, (number,) * 5, (torch.full((1, 2, 2), 9.0),) * 2)
    kept = -128 if dtype == torch.int8 else number if dtype == torch.float8_e5m2 else NAN
    for x, scale in zip(stored, scales, strict=True):
        assert same(x, kept) and same(scale[0, 1], NAN if dtype == torch.int8 else 1.0)
        read = dequantize(x[None], scale[:, 1].cpu().to(x.device))
        assert read.isinf().all() if kept in (INF, -INF) else read.isnan().all()


@BOTH
@DTYPES
def test_a_largest_number_as_large_as_fp32_goes(append, dtype):
    most = torch.finfo(torch.float32).max
    stored, scales = run(append, dtype, (most, -most, 0.0), (torch.full((1, 2, 2), 9.0),) * 2)
    for x, scale in zip(stored, scales, strict=True):
        assert same(x, (LARGEST[dtype], -LARGEST[dtype], 0)) and scale.isfinite().all()


@BOTH
@pytest.mark.parametrize("name", ["k", "v"])
@pytest.mark.parametrize("number", [NAN, INF, -INF])
@pytest.mark.parametrize("shape", [(), (1,), (2,)], ids=str)
def test_on_the_cpu_int8_with_a_given_scale_is_refused(append, name, number, shape):
    if append is append_kv and not INTERPRETED:
        return
    new = {x: torch.ones(1, 3, 2, 8) for x in "kv"}
    new[name][0, 1, 1, 5:] = number
    caches = [torch.full((1, 3, 2, 8), 77, dtype=torch.int8) for _ in "kv"]
    scale = torch.ones(shape)
    with pytest.raises(ValueError, match=f"{name} must be finite: int8 .* got 3 of 48 numbers"):
        append(*caches, new["k"], new["v"], k_scale=scale, v_scale=scale)
    assert all((cache == 77).all() for cache in caches)


@BOTH
@DTYPES
@pytest.mark.parametrize("scale", [0.0, NAN, INF])
def test_on_the_cpu_a_scale_that_loses_everything_is_refused(append, dtype, scale):
    if append is append_kv and not INTERPRETED:
        return
    new, caches = torch.ones(1, 1, 2, 8), [torch.zeros(1, 1, 2, 8).to(dtype) for _ in "kv"]
    good, bad = torch.ones(2), torch.tensor([1.0, scale])
    with pytest.raises(ValueError, match=r"v_scale must be finite and not 0; got \[1.0, "):
        append(*caches, new, new, k_scale=good, v_scale=bad)


@DTYPES
@pytest.mark.parametrize("which", ["k", "v"])
@pytest.mark.parametrize("decode", ["kernel", "twin"])
def test_decoding_gives_nan_for_the_row_that_has_it_and_no_other(dtype, which, decode):
    """As it would with a cache of 16 bits."""
    rng = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 2, 5, 1, 16, generator=rng)
    (k if which == "k" else v)[0, 3, 0, 2] = NAN
    caches = [torch.zeros(2, 8, 1, 16, device=DEVICE).to(dtype) for _ in "kv"]
    scales = [torch.ones(2, 8, 1, device=DEVICE) for _ in "kv"]
    append_kv(*caches, k.to(DEVICE), v.to(DEVICE), k_scale=scales[0], v_scale=scales[1])
    run = flash_decode if decode == "kernel" else reference_decoding.flash_decode
    q = torch.randn(2, 1, 2, 16, generator=rng).to(DEVICE)
    for length, sees in ((3, False), (5, True)):
        lengths = torch.tensor([length, 5], device=DEVICE)
        o, lse = run(q, *caches, lengths, k_scale=scales[0], v_scale=scales[1], return_lse=True)
        assert o[1].isfinite().all() and lse[1].isfinite().all()
        assert o[0].isnan().any() == sees and lse[0].isnan().any() == (sees and which == "k")
