"""fp8 in Triton's interpreter: read and written as a GPU does, so that a NaN in a cache is seen."""

import math

import pytest
import torch
from eight_bits import EIGHT_BITS
from poison import dead_poisoned, paged

from course.check.guards import guarded, poisoned
from kernels.append.quantization import round_to_cache
from kernels.flash_decoding import flash_decode
from kernels.primitives import to_fp32, widen
from kernels.runtime import device
from reference.quantization import LARGEST

# isort: split
import triton
import triton.language as tl

DEVICE = device()
FP8 = [dtype for dtype in EIGHT_BITS if dtype.is_floating_point]
WIDE = (torch.float32, torch.float16, torch.bfloat16)


@triton.jit
def widen_kernel(x_ptr, wide_ptr, fp32_ptr, N: tl.constexpr):
    offs = tl.arange(0, N)
    x = tl.load(x_ptr + offs)
    tl.store(wide_ptr + offs, widen(x, wide_ptr.dtype.element_ty))
    tl.store(fp32_ptr + offs, to_fp32(x))


@triton.jit
def narrow_kernel(x_ptr, out_ptr, N: tl.constexpr):
    offs = tl.arange(0, N)
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    tl.store(out_ptr + offs, round_to_cache(tl.load(x_ptr + offs), None, dtype))


def bits_of(x):
    """Bit patterns, all NaNs being the same one: -0 is not 0."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[x.element_size()]
    x = x.cpu()
    return torch.where(x.float().isnan(), -1, x.view(whole).int())


@pytest.mark.parametrize("wide", WIDE, ids=str)
@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_all_256_bytes_are_read_as_torch_reads_them(dtype, wide):
    """NaN, inf, subnormal numbers and -0 included."""
    x = torch.arange(256, dtype=torch.uint8).view(dtype)
    out, fp32 = torch.empty(256, dtype=wide).to(DEVICE), torch.empty(256).to(DEVICE)
    widen_kernel[(1,)](x.to(DEVICE), out, fp32, N=256)
    assert torch.equal(bits_of(out), bits_of(x.to(wide)))
    assert torch.equal(bits_of(fp32), bits_of(x.float()))


def exponents_and_borders(dtype):
    """Numbers of every exponent of fp32, and both neighbours of each border of rounding."""
    grid = torch.arange(128, dtype=torch.uint8).view(dtype).float()
    grid = grid[grid.isfinite()]
    beyond = 2 * grid[-1:] - grid[-2:-1]  # as if the grid went on: the border of saturation
    grid = torch.cat((grid, beyond))
    border = (grid[1:] + grid[:-1]) / 2
    beside = [border.nextafter(torch.tensor(to)) for to in (0.0, math.inf)]
    exponents = 2.0 ** torch.arange(-149, 128).double()
    x = torch.cat((grid, border, *beside, *(exponents.float() * n for n in (1, 1.3, 1.75))))
    x = x[x.isfinite()]
    return torch.cat((x, -x))


@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_finite_numbers_round_to_nearest_even_and_saturate(dtype):
    x = exponents_and_borders(dtype)
    N = triton.next_power_of_2(len(x))
    x = torch.nn.functional.pad(x, (0, N - len(x)))
    out = torch.zeros(N, dtype=torch.uint8).view(dtype).to(DEVICE)
    narrow_kernel[(1,)](x.to(DEVICE), out, N=N)
    wanted = x.clamp(-LARGEST[dtype], LARGEST[dtype]).to(dtype)
    assert torch.equal(out.cpu().float(), wanted.float())


NANS = (0x7FC00000, -1, 0x7F800001, -0x7FFFFF)  # quiet, all bits, signalling, signalling and < 0


@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_nan_and_inf_stay_what_they_are_as_far_as_the_format_goes(dtype):
    x = torch.tensor(NANS * 2, dtype=torch.int32).view(torch.float32)
    x[4:6], x[6:] = math.inf, -math.inf
    out = torch.zeros(8, dtype=torch.uint8).view(dtype).to(DEVICE)
    narrow_kernel[(1,)](x.to(DEVICE), out, N=8)
    infinity = math.inf if dtype == torch.float8_e5m2 else math.nan  # e4m3fn has none
    wanted = torch.tensor([math.nan] * 4 + [infinity] * 2 + [-infinity] * 2)
    assert torch.equal(bits_of(out.float()), bits_of(wanted))


@triton.jit
def sum_kernel(x_ptr, out_ptr, N: tl.constexpr):
    tl.store(out_ptr, tl.sum(to_fp32(tl.load(x_ptr + tl.arange(0, N))), 0))


@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_a_read_past_a_guarded_buffer_is_seen(dtype):
    guard, out = guarded(torch.ones(16).to(DEVICE, dtype)), torch.zeros(1, device=DEVICE)
    sum_kernel[(1,)](guard.tensor, out, N=16)
    assert out.item() == 16
    sum_kernel[(1,)](guard.tensor, out, N=32)  # no mask: 16 numbers too many
    assert out.isnan().all() and guard.intact()


@triton.jit
def copy_kernel(x_ptr, out_ptr, N: tl.constexpr):
    offs = tl.arange(0, N)
    x = to_fp32(tl.load(x_ptr + offs))
    tl.store(out_ptr + offs, round_to_cache(x, None, out_ptr.dtype.element_ty))


@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_poison_of_an_input_written_over_that_of_an_output_is_seen(dtype):
    x = guarded(torch.ones(16).to(DEVICE, dtype))
    for N, intact in ((16, True), (32, False)):  # 32: neither load nor store has a mask
        out = poisoned((16,), dtype, device=DEVICE)
        assert out.tensor.float().isnan().all()
        copy_kernel[(1,)](x.tensor, out.tensor, N=N)
        assert (out.tensor.float() == 1).all() and out.intact() == intact and x.intact()


@pytest.mark.parametrize("q_dtype", WIDE, ids=str)
@pytest.mark.parametrize("dtype", FP8, ids=str)
@pytest.mark.parametrize("which", ["k", "v"])
@pytest.mark.parametrize("G", [1, 4], ids="G={}".format)
def test_poison_poisons(dtype, q_dtype, which, G):
    """Decoding one key too many from a poisoned cache gives NaN, in rows and in pages."""
    rng = torch.Generator().manual_seed(0)
    q = torch.randn(2, 1, G, 16, generator=rng).to(q_dtype)
    caches = {x: torch.randn(2, 32, 1, 16, generator=rng).to(dtype) for x in "kv"}
    live = torch.arange(32) < torch.tensor([[20], [32]])
    caches[which] = dead_poisoned(caches[which], live)
    (*pages,), table = paged(list(caches.values()), live, 16, rng)
    for length, sees in ((20, False), (21, True)):
        lengths = torch.tensor([length, 32])
        for k, v, extra in ((*caches.values(), {}), (*pages, {"block_table": table.to(DEVICE)})):
            o = flash_decode(*(x.to(DEVICE) for x in (q, k, v, lengths)), num_splits=2, **extra)
            assert o[0].isnan().any() == sees and o[1].isfinite().all()
