"""reference.flash_attention, its backward pass and the traffic counter, against the fp64 oracle."""

import doctest
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import reference.flash_attention as forward
import reference.flash_attention_backward as backward
import reference.traffic as traffic_module
from course.check.guards import guarded
from reference.attention import attention, causal_mask, oracle
from reference.closeness import assert_close_to_oracle
from reference.traffic import Traffic, naive_attention_with_traffic

FORWARDS = {"fa1": forward.flash_attention_1, "fa2": forward.flash_attention}

# name: (B, Lq, Lk, Hq, Hkv, D, block_m, block_n); the name is the reason
SHAPES = {
    "whole tiles": (1, 64, 64, 1, 1, 16, 16, 16),
    "odd tails on both sides": (2, 37, 53, 2, 2, 16, 16, 16),
    "tiles larger than the lengths": (1, 5, 7, 2, 1, 8, 64, 64),
    "one query": (2, 1, 45, 4, 2, 16, 16, 16),
    "one key": (1, 9, 1, 1, 1, 8, 4, 4),
    "more queries than keys": (1, 40, 13, 2, 1, 16, 8, 8),
    "whole query tiles without keys": (1, 40, 6, 1, 1, 8, 8, 4),
    "tiles of one": (1, 6, 7, 1, 1, 4, 1, 1),
    "wide and flat tiles": (1, 33, 29, 1, 1, 8, 3, 17),
    "GQA, G not a power of 2": (2, 11, 19, 6, 2, 8, 4, 8),
    "no keys": (1, 3, 0, 2, 1, 8, 4, 4),
    "no queries": (1, 0, 3, 2, 1, 8, 4, 4),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
causals = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
value_dims = pytest.mark.parametrize("Dv", [None, 3, 24], ids=["Dv = D", "Dv = 3", "Dv = 24"])
both = pytest.mark.parametrize("fn", FORWARDS.values(), ids=FORWARDS.keys())


@pytest.fixture(autouse=True)
def poisoned_empties():
    """torch.empty gives NaN, so a row that is never written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


def draw(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0, Dv: int | None = None
) -> list[Tensor]:
    """q, k, v inside NaN-filled buffers: any read beyond them shows in the result."""
    B, Lq, Lk, Hq, Hkv, D, *_ = shape
    rng = torch.Generator().manual_seed(seed)
    sizes = [(B, Lq, Hq, D), (B, Lk, Hkv, D), (B, Lk, Hkv, Dv or D)]
    return [guarded(torch.randn(*s, generator=rng).to(dtype), row_gap=3).tensor for s in sizes]


@both
@value_dims
@shapes
@causals
def test_forward_is_as_near_to_the_oracle_as_pytorch(fn, shape, causal, Dv):
    q, k, v = draw(shape, Dv=Dv)
    o, lse = fn(q, k, v, causal=causal, return_lse=True, block_m=shape[6], block_n=shape[7])
    base_o, base_lse = attention(q, k, v, causal=causal, return_lse=True)
    true_o, true_lse = oracle(q, k, v, causal=causal)
    assert o.dtype == q.dtype and lse.dtype == torch.float32
    assert o.shape == true_o.shape
    assert_close_to_oracle(o, base_o, true_o)
    assert_close_to_oracle(lse, base_lse, true_lse, name="lse")


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(fn, dtype):
    q, k, v = draw(SHAPES["odd tails on both sides"], dtype)
    o, lse = fn(q, k, v, causal=True, return_lse=True, block_m=16, block_n=16)
    base_o, base_lse = attention(q, k, v, causal=True, return_lse=True)
    assert (o.dtype, lse.dtype) == (dtype, max(dtype, torch.float32, key=lambda d: d.itemsize))
    if dtype == torch.float64:  # both are as exact as the oracle itself
        torch.testing.assert_close((o, lse), (base_o, base_lse), rtol=1e-13, atol=1e-13)
    else:
        true_o, true_lse = oracle(q, k, v, causal=True)
        assert_close_to_oracle(o, base_o, true_o)
        assert_close_to_oracle(lse, base_lse, true_lse, name="lse")


@both
@pytest.mark.parametrize("shift", [-200.0, 200.0])
def test_large_logits_neither_overflow_nor_vanish(fn, shift):
    """Scores near ±200: exp overflows fp32 at 89, and a running max reset to 0 gives 0/0."""
    q, k, v = draw((1, 9, 21, 1, 1, 8))
    q[..., 0], k[..., 0] = 1.0, shift
    o, lse = fn(q, k, v, scale=1.0, return_lse=True, block_m=4, block_n=4)
    base_o, base_lse = attention(q, k, v, scale=1.0, return_lse=True)
    true_o, true_lse = oracle(q, k, v, scale=1.0)
    assert_close_to_oracle(o, base_o, true_o)
    assert_close_to_oracle(lse, base_lse, true_lse, name="lse")


@both
def test_rows_without_keys_are_zero_and_minus_infinity(fn):
    q, k, v = draw((1, 7, 3, 1, 1, 8))
    o, lse = fn(q, k, v, causal=True, return_lse=True, block_m=2, block_n=2)
    assert (o[0, :4] == 0).all() and (lse[0, :4] == -math.inf).all()
    assert lse[0, 4:].isfinite().all()


def test_query_tiles_are_independent():
    """Bit for bit, a query tile computed alone equals the same tile among the others."""
    q, k, v = draw((1, 48, 40, 2, 1, 16))
    whole = forward.flash_attention(q, k, v, block_m=16, block_n=16)
    for start in (32, 0, 16):
        part = forward.flash_attention(q[:, start : start + 16], k, v, block_m=16, block_n=16)
        assert torch.equal(part, whole[:, start : start + 16])


@value_dims
@shapes
def test_traffic_equals_the_formulas(shape, Dv):
    _, Lq, Lk, _, _, D, bm, bn = shape
    q, k, v = draw((1, Lq, Lk, 1, 1, D), Dv=Dv)
    for fn, formula in (
        (forward.flash_attention_1, traffic_module.flash_attention_1_elements),
        (forward.flash_attention, traffic_module.flash_attention_2_elements),
    ):
        counted = Traffic()
        fn(q, k, v, block_m=bm, block_n=bn, traffic=counted)
        assert counted.elements == formula(Lq, Lk, D, bm, bn, Dv=Dv)
        assert counted.bytes_total == 4 * counted.elements
    if Lk:
        counted = Traffic()
        o = naive_attention_with_traffic(q[0, :, 0], k[0, :, 0], v[0, :, 0], counted)
        assert counted.elements == traffic_module.naive_elements(Lq, Lk, D, Dv=Dv)
        torch.testing.assert_close(o, attention(q, k, v)[0, :, 0])


def test_traffic_by_name_bytes_and_heads():
    """Two heads move twice as much; fp16 moves half the bytes, but lse stays fp32."""
    q, k, v = draw((1, 8, 12, 2, 1, 4), torch.float16)
    counted = Traffic()
    forward.flash_attention(q, k, v, block_m=4, block_n=4, traffic=counted)
    assert counted.loads == {"q": 2 * 32, "k": 2 * 2 * 48, "v": 2 * 2 * 48}
    assert counted.stores == {"o": 2 * 32, "lse": 2 * 8}
    assert counted.bytes_total == 2 * (counted.elements - 16) + 4 * 16
    assert "loaded       192  stored         0" in str(counted)


@causals
@settings(max_examples=150, deadline=None)
@given(*[st.integers(1, 7)] * 2, st.integers(1, 20), st.integers(0, 20))
def test_tile_range_by_brute_force(causal, bm, bn, Lq, Lk):
    visible = causal_mask(Lq, Lk) if causal else torch.ones(Lq, Lk, dtype=torch.bool)
    for i in range(math.ceil(Lq / bm)):
        full, stop = forward.tile_range(i, bm, bn, Lq, Lk, causal)
        assert 0 <= full <= stop <= math.ceil(Lk / bn)
        for j in range(math.ceil(Lk / bn)):
            tile = visible[i * bm : (i + 1) * bm, j * bn : (j + 1) * bn]
            assert (j < full) == bool(tile.all())
            assert (j < stop) == bool(tile.any())
            if causal:
                assert torch.equal(forward.tile_mask(i, j, (bm, bn), Lq, Lk), tile)


@both
def test_skipped_tiles_are_not_touched(fn):
    """A causal forward pass must not touch skipped tiles: NaN there would reach the result."""
    q, k, v = draw((1, 8, 8, 1, 1, 4))
    k[:, 4:], v[:, 4:] = math.nan, math.nan
    o = fn(q, k, v, causal=True, block_m=4, block_n=4)
    assert o[:, :4].isfinite().all() and o[:, 4:].isnan().all()


@value_dims
@shapes
@causals
def test_backward_equals_autograd_of_naive_attention(shape, causal, Dv):
    inputs = [x.double().detach().requires_grad_() for x in draw(shape, Dv=Dv)]
    size = (*inputs[0].shape[:3], inputs[2].shape[3])
    do = torch.randn(size, dtype=torch.float64, generator=torch.Generator())
    tiles = {"block_m": shape[6], "block_n": shape[7]}
    o = backward.flash_attention_autograd(*inputs, causal=causal, **tiles)
    got = torch.autograd.grad(o, inputs, do)
    if shape[2]:
        wanted = torch.autograd.grad(attention(*inputs, causal=causal), inputs, do)
    else:  # without keys, o depends on no input
        wanted = [torch.zeros_like(x) for x in inputs]
    for name, x, y in zip("qkv", got, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"d{n} {m}")


@pytest.mark.parametrize("Dv", [3, 2, 4], ids=["Dv = D", "Dv < D", "Dv > D"])
@pytest.mark.parametrize("heads", [(1, 1), (4, 2)], ids=["MHA", "GQA"])
@causals
def test_backward_by_gradcheck(heads, causal, Dv):
    inputs = [x.double().detach().requires_grad_() for x in draw((1, 5, 6, *heads, 3), Dv=Dv)]

    def run(*x: Tensor) -> Tensor:
        return backward.flash_attention_autograd(*x, causal=causal, block_m=2, block_n=4)

    assert torch.autograd.gradcheck(run, inputs)


def test_backward_in_bf16_keeps_dtypes_and_is_near():
    q, k, v = draw((1, 33, 33, 4, 2, 16), torch.bfloat16)
    o, lse = forward.flash_attention(q, k, v, causal=True, return_lse=True)
    do = torch.ones_like(o)
    got = backward.flash_attention_backward(q, k, v, o, lse, do, causal=True)
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    coarse = [x.clone().requires_grad_() for x in (q, k, v)]
    truth = torch.autograd.grad(attention(*exact, causal=True), exact, do.double())
    base = torch.autograd.grad(attention(*coarse, causal=True), coarse, do)
    for name, x, b, t in zip("qkv", got, base, truth, strict=True):
        assert x.dtype == torch.bfloat16
        assert_close_to_oracle(x, b, t, name=f"d{name}")


def test_second_derivative_is_refused():
    """To autograd, lse is a constant: better an error than a wrong number."""
    q, k, v = (x.requires_grad_() for x in draw((1, 3, 3, 1, 1, 4), torch.float64))
    o = backward.flash_attention_autograd(q, k, v)
    (dq,) = torch.autograd.grad((o * o).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dq.sum().backward()


@both
def test_errors_say_what_came(fn):
    q, k, v = draw((1, 4, 4, 2, 2, 8))
    with pytest.raises(ValueError, match=r"block_m and block_n must be at least 1; got 0 and 64"):
        fn(q, k, v, block_m=0)
    with pytest.raises(ValueError, match=r"q must be \(B, L, H, D\).*got \(4, 2, 8\)"):
        fn(q[0], k, v)
    with pytest.raises(ValueError, match=r"multiple of Hkv; got Hq = 2 and Hkv = 3"):
        fn(q, torch.ones(1, 4, 3, 8), torch.ones(1, 4, 3, 8))
    with pytest.raises(TypeError, match=r"must have one dtype"):
        fn(q, k.half(), v)


def test_backward_errors():
    q, k, v = draw((1, 4, 4, 2, 2, 8))
    o, lse = forward.flash_attention(q, k, v, return_lse=True)
    with pytest.raises(ValueError, match=r"lse \(1, 4\)"):
        backward.flash_attention_backward(q, k, v, o, lse[..., 0], o)
    with pytest.raises(ValueError, match=r"Dv\) = \(1, 4, 2, 8\) and .*do \(1, 4, 2, 4\)"):
        backward.flash_attention_backward(q, k, v, o, lse, o[..., :4])
    with pytest.raises(ValueError, match=r"got 64 and -1"):
        backward.flash_attention_backward(q, k, v, o, lse, o, block_n=-1)


@pytest.mark.parametrize("module", [forward, backward, traffic_module], ids=lambda m: m.__name__)
def test_doctests(module):
    outcome = doctest.testmod(module, extraglobs={"torch": torch})
    assert outcome.failed == 0 and (module is backward or outcome.attempted > 0)
