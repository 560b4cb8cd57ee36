"""reference.quantization rounds to the nearest representable number: all 256 are compared."""

import doctest

import pytest
import torch

from reference import quantization as module
from reference.quantization import LARGEST, dequantize, quantize

PER = {"tensor": (), "head": (3,), "row": (2, 3), "token": (2, 5, 3)}


def make(dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.01, 1.0, 100.0])[:, None]  # heads of very different magnitude
    return (spread * torch.randn(2, 5, 3, 16, generator=rng)).to(dtype)


def spread_out(scale):
    """The scale (…) so that it multiplies x (2, 5, 3, 16)."""
    return scale[:, None, :, None] if scale.ndim == 2 else scale[..., None] if scale.ndim else scale


def all_numbers(dtype):
    """Every finite number of the dtype, from the 256 bit patterns, with its bits."""
    bits = torch.arange(-128, 128, dtype=torch.int8)
    numbers = bits.view(dtype).double()
    keep = numbers.isfinite() & (numbers >= -LARGEST[dtype])
    return numbers[keep], bits[keep].int()


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("dtype", LARGEST, ids=str)
def test_the_nearest_number_is_stored(dtype, per):
    x = make()
    stored, scale = quantize(x, dtype, per)
    assert stored.dtype == dtype and stored.shape == x.shape
    assert scale.dtype == torch.float32 and scale.shape == PER[per]
    spread = spread_out(scale)
    exact = (x / spread).double().flatten()  # the division is in fp32, as in a kernel
    numbers, _ = all_numbers(dtype)
    nearest = (exact[:, None] - numbers).abs().amin(1)
    assert torch.equal((stored.double().flatten() - exact).abs(), nearest)


@pytest.mark.parametrize("dtype", LARGEST, ids=str)
def test_ties_go_to_the_even_one(dtype):
    numbers, bits = all_numbers(dtype)
    order = numbers.unique(return_inverse=False)
    middle = (order[1:] + order[:-1]) / 2
    x = torch.cat([middle, torch.tensor([LARGEST[dtype]], dtype=torch.float64)])[:, None].float()
    stored, scale = quantize(x, dtype)  # the largest number makes the scale 1
    assert scale == 1
    even = {float(n): int(b) % 2 == 0 for n, b in zip(numbers, bits, strict=True)}
    for m, low, high, got in zip(middle, order, order[1:], stored[:-1, 0].double(), strict=False):
        assert float(got) in (float(low), float(high))
        assert even[float(got)], f"{m} became {got}"


@pytest.mark.parametrize("per", PER)
def test_each_group_has_its_own_largest(per):
    x = make()
    _, scale = quantize(x, torch.int8, per)
    parts = {
        "tensor": lambda: x.abs().max(),
        "head": lambda: torch.stack([x[:, :, h].abs().max() for h in range(3)]),
        "row": lambda: torch.stack([x[b].abs().amax((0, 2)) for b in range(2)]),
        "token": lambda: x.abs().max(-1).values,
    }
    torch.testing.assert_close(scale, parts[per]() / 127)


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("dtype", LARGEST, ids=str)
def test_back_again(dtype, per):
    x = make()
    stored, scale = quantize(x, dtype, per)
    back = dequantize(stored, scale)
    spread = spread_out(scale)
    torch.testing.assert_close(back, stored.float() * spread, atol=0, rtol=0)
    # half a step of the grid; fp8: half of 2^-3 (2^-2) of the number, or half the smallest step
    half = {torch.int8: 0.0, torch.float8_e4m3fn: 2**-4, torch.float8_e5m2: 2**-3}[dtype]
    step = {torch.int8: 1.0, torch.float8_e4m3fn: 2**-9, torch.float8_e5m2: 2**-16}[dtype]
    bound = torch.maximum(half * x.abs(), step / 2 * spread)
    assert ((back - x).abs() <= bound * (1 + 1e-5)).all()


def test_dequantize_in_other_dtypes_and_without_a_scale():
    stored, scale = quantize(make(), torch.int8, "head")
    wanted = stored.double() * scale.double()[:, None]
    torch.testing.assert_close(dequantize(stored, scale, torch.float64), wanted, atol=0, rtol=0)
    got = dequantize(stored, scale, torch.bfloat16)
    assert torch.equal(got, dequantize(stored, scale).bfloat16())
    assert torch.equal(dequantize(stored, None), stored.float())
    assert torch.equal(dequantize(stored, torch.tensor([2.0])), 2 * stored.float())


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("dtype", LARGEST, ids=str)
def test_zeros_tiny_numbers_and_nothing(dtype, per):
    stored, scale = quantize(torch.zeros(2, 5, 3, 16), dtype, per)
    assert (stored.float() == 0).all() and (scale == 1).all() and scale.shape == PER[per]
    stored, scale = quantize(torch.full((2, 5, 3, 16), 1e-45), dtype, per)
    assert (scale > 0).all() and dequantize(stored, scale).isfinite().all()
    stored, scale = quantize(torch.zeros(2, 0, 3, 16), dtype, per)
    assert stored.shape == (2, 0, 3, 16) and scale.numel() == (
        0 if per == "token" else len(scale.flatten())
    )


def test_fp16_and_fp64_are_taken():
    for dtype in (torch.float16, torch.float64):
        x = make(dtype)
        got, wanted = quantize(x, torch.int8), quantize(x.float(), torch.int8)
        assert (got[0].int() - wanted[0].int()).abs().max() <= 1
        torch.testing.assert_close(got[1], wanted[1])


@pytest.mark.parametrize(
    "x, dtype, per, error, says",
    [
        (torch.zeros(2, 3), torch.uint8, "head", TypeError, "int8.*uint8"),
        (torch.zeros(2, 3).int(), torch.int8, "head", TypeError, "floating point.*int32"),
        (torch.zeros(3), torch.int8, "head", ValueError, r"\(\.\.\., H, D\); got \(3,\)"),
        (torch.zeros(2, 3), torch.int8, "column", ValueError, "got 'column'"),
        (torch.zeros(5, 2, 3), torch.int8, "row", ValueError, r"\(B, L, H, D\).*got \(5, 2, 3\)"),
        (torch.tensor([[1.0, torch.nan]]), torch.int8, "head", ValueError, "finite"),
        (torch.tensor([[1.0, torch.inf]]), torch.int8, "head", ValueError, "finite"),
    ],
)
def test_misuse(x, dtype, per, error, says):
    with pytest.raises(error, match=says):
        quantize(x, dtype, per)


def test_a_scale_of_another_shape():
    with pytest.raises(ValueError, match=r"\(3,\) or .*\(2, 3\) or .*\(2, 5, 3\).*got \(5,\)"):
        dequantize(torch.zeros(2, 5, 3, 16, dtype=torch.int8), torch.ones(5))


def test_doctests():
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted > 0 and result.failed == 0
