"""kernels.primer and kernels.softmax: the first kernels, with poison around every buffer."""

import math

import pytest
import torch
from shapes import DTYPES

from course.check.guards import empty_is_nan, guarded, poisoned
from kernels import softmax as softmax_module
from kernels.primer import matmul, matmul_kernel, vector_add, vector_add_kernel
from kernels.runtime import device
from kernels.softmax import MAX_BLOCK, WIDE_BLOCK, softmax, softmax_kernel, softmax_wide_kernel
from reference.attention import safe_softmax
from reference.closeness import assert_close_to_oracle

DEVICE = device()
COLUMNS = (1, 2, 63, 64, 65, 1000, MAX_BLOCK, MAX_BLOCK + 1, 5 * WIDE_BLOCK)  # last: no tail
MATRICES = {  # M, N, K
    "one": (1, 1, 1),
    "K=0": (3, 5, 0),
    "tiles": (64, 128, 64),
    "one-over": (65, 65, 65),
    "odd": (37, 91, 203),
    "row": (1, 100, 70),
    "column": (100, 1, 70),
}


def random(*shape, dtype=torch.float32, gap=0, seed=0):
    """Normally distributed numbers in a buffer of NaN."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return guarded(x.to(DEVICE, dtype), row_gap=gap).tensor


@pytest.mark.parametrize("n", [1, 2, 1023, 1024, 1025, 5000])
def test_vector_add(n):
    x, y = random(n), random(n, seed=1)
    with empty_is_nan():
        assert torch.equal(vector_add(x, y), x + y)


def test_vector_add_takes_any_shape():
    x, y = random(3, 5, 7), random(3, 5, 7, seed=1)
    assert torch.equal(vector_add(x, y), x + y)
    assert vector_add(x[:0], y[:0]).shape == (0, 5, 7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", MATRICES.values(), ids=MATRICES)
def test_matmul(sizes, dtype):
    M, N, K = sizes
    a, b = random(M, K, dtype=dtype, gap=8), random(K, N, dtype=dtype, gap=8, seed=1)
    with empty_is_nan():
        c = matmul(a, b)
    assert c.dtype == dtype and c.is_contiguous()
    assert_close_to_oracle(c, a @ b, a.double() @ b.double(), name="c")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matmul_of_transposed_matrices(dtype):
    a, b = random(70, 45, dtype=dtype, gap=3), random(90, 70, dtype=dtype, gap=5, seed=1)
    assert_close_to_oracle(matmul(a.T, b.T), a.T @ b.T, a.T.double() @ b.T.double(), name="c")


def test_matmul_sums_in_fp32():
    ones = torch.ones(1, 4096, dtype=torch.float16, device=DEVICE)
    assert matmul(ones, ones.T).item() == 4096  # an fp16 sum of ones stops at 2048


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cols", COLUMNS)
def test_softmax(cols, dtype):
    x = random(3, cols, dtype=dtype, gap=40)
    with empty_is_nan():
        p = softmax(x)
    assert p.dtype == dtype and p.is_contiguous()
    assert_close_to_oracle(p, x.softmax(1), x.double().softmax(1), name="p")
    # Each weight is off by at most eps/2, so their sum, 1, is too; fp32 before adds a little.
    rounding = torch.finfo(dtype).eps / 2 + 4 * torch.finfo(torch.float32).eps
    if dtype == torch.float16:
        rounding += cols * 2**-25  # weights below 2^-14 are 2^-24 apart
    assert ((p.double().sum(1) - 1).abs() <= rounding).all()


@pytest.fixture(params=["one block", "a loop"])
def both_kernels(request, monkeypatch):
    """Run a test with each kernel, whatever the width."""
    if request.param == "a loop":
        launch = (softmax_wide_kernel, 32, 4)
        monkeypatch.setattr(softmax_module, "_launch", lambda cols: launch)


@pytest.mark.parametrize("shift", [-200.0, 200.0])
def test_softmax_does_not_care_about_a_shift(shift, both_kernels):
    x = random(4, 101, gap=3)
    shifted = (x + shift).contiguous()
    p = softmax(shifted)
    assert_close_to_oracle(p, shifted.softmax(1), shifted.double().softmax(1), name="p")


def test_softmax_with_minus_infinities(both_kernels):
    x = random(4, 101).clone()
    x[1, 40:] = x[2, :70] = x[3] = -math.inf  # the end, leading blocks, everything
    p = softmax(x)
    assert_close_to_oracle(p, safe_softmax(x)[0], safe_softmax(x.double())[0], name="p")
    assert (p[3] == 0).all() and (p[2, :70] == 0).all()


def test_softmax_of_a_rising_and_a_falling_row(both_kernels):
    rising = torch.arange(101.0, device=DEVICE)
    x = torch.stack([rising, rising.flip(0)])  # a new maximum in every block; only in the first
    p = softmax(x)
    assert_close_to_oracle(p, x.softmax(1), x.double().softmax(1), name="p")
    torch.testing.assert_close(p[0], p[1].flip(0))


def test_softmax_of_nothing():
    assert softmax(torch.zeros(0, 5, device=DEVICE)).shape == (0, 5)
    assert softmax(torch.zeros(5, 0, device=DEVICE)).shape == (5, 0)


def test_nothing_is_written_outside():
    x, y = random(1000), random(1000, seed=1)
    out = poisoned((1000,), device=DEVICE)
    vector_add_kernel[(1,)](x, y, out.tensor, 1000, BLOCK=1024)
    assert out.intact() and torch.equal(out.tensor, x + y)

    a, b = random(20, 24), random(24, 40, seed=1)
    c = poisoned((20, 40), row_gap=24, device=DEVICE)
    strides = (*a.stride(), *b.stride(), *c.tensor.stride())
    tile = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 16}
    matmul_kernel[(2, 2)](a, b, c.tensor, 20, 40, 24, *strides, **tile)
    assert c.intact()
    torch.testing.assert_close(c.tensor, a @ b)

    x = random(3, 100, gap=28)
    for kernel, block in ((softmax_kernel, 128), (softmax_wide_kernel, 32)):
        p = poisoned((3, 100), row_gap=28, device=DEVICE)
        kernel[(3,)](x, p.tensor, 100, x.stride(0), p.tensor.stride(0), BLOCK=block)
        assert p.intact()
        torch.testing.assert_close(p.tensor, x.softmax(1))


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(*shape, dtype=dtype, device=DEVICE)


WRONG = {
    "add: shapes": (ValueError, r"\(3,\), \(4,\)", vector_add, (zeros(3), zeros(4))),
    "add: strides": (ValueError, "contiguous", vector_add, (zeros(4, 4).T[:2], zeros(2, 4))),
    "add: fp16": (TypeError, "float16", vector_add, [zeros(3, dtype=torch.float16)] * 2),
    "add: device": (ValueError, "must be on", vector_add, (zeros(3), zeros(3).to("meta"))),
    "matmul: inner": (ValueError, r"\(3, 4\), \(5, 6\)", matmul, (zeros(3, 4), zeros(5, 6))),
    "matmul: rank": (ValueError, r"\(3,\), \(3, 1\)", matmul, (zeros(3), zeros(3, 1))),
    "matmul: mixed": (TypeError, "same", matmul, (zeros(2, 2), zeros(2, 2, dtype=torch.float16))),
    "matmul: int": (TypeError, "int64", matmul, [zeros(2, 2, dtype=torch.int64)] * 2),
    "softmax: rank": (ValueError, r"\(rows, cols\); got \(3,\)", softmax, (zeros(3),)),
    "softmax: stride": (ValueError, r"stride 1", softmax, (zeros(3, 4).T,)),
    "softmax: fp64": (TypeError, "float64", softmax, (zeros(3, 4, dtype=torch.float64),)),
    "softmax: device": (ValueError, "must be on", softmax, (zeros(3, 4).to("meta"),)),
}


@pytest.mark.parametrize(("error", "says", "function", "given"), WRONG.values(), ids=WRONG)
def test_misuse_is_told(error, says, function, given):
    with pytest.raises(error, match=says):
        function(*given)
