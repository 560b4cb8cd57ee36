"""kernels.primitives: bit-exact rounding, and the online softmax one tile at a time."""

import math

import pytest
import torch

from kernels.primitives import dot, finalize, online_softmax_step, round_to, to_fp32
from kernels.runtime import device

# isort: split
import triton
import triton.language as tl

DEVICE = device()
N = 4096


@triton.jit
def cast_kernel(x_ptr, wide_ptr, narrow_ptr, N: tl.constexpr):
    offs = tl.arange(0, N)
    wide = to_fp32(tl.load(x_ptr + offs))
    tl.store(wide_ptr + offs, wide)
    tl.store(narrow_ptr + offs, round_to(wide, narrow_ptr.dtype.element_ty))


@triton.jit
def dot_kernel(a_ptr, b_ptr, c_ptr, N: tl.constexpr):
    offs = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    acc = tl.load(c_ptr + offs)
    tl.store(c_ptr + offs, dot(tl.load(a_ptr + offs), tl.load(b_ptr + offs), acc))


@triton.jit
def softmax_tiles_kernel(
    x_ptr, v_ptr, o_ptr, lse_ptr, m_ptr, tiles, M: tl.constexpr, N: tl.constexpr
):
    """o = softmax(x) v, with scores x (M, tiles·N) in base 2 and v (tiles·N, 16), tile by tile."""
    offs_m, offs_d = tl.arange(0, M), tl.arange(0, 16)
    m_log2 = tl.full((M,), float("-inf"), tl.float32)
    l = tl.zeros((M,), tl.float32)
    acc = tl.zeros((M, 16), tl.float32)
    for tile in range(0, tiles):
        offs_n = tile * N + tl.arange(0, N)
        x = tl.load(x_ptr + offs_m[:, None] * (tiles * N) + offs_n[None, :])
        m_log2, l, acc, p = online_softmax_step(m_log2, l, acc, x)
        acc = dot(p, tl.load(v_ptr + offs_n[:, None] * 16 + offs_d[None, :]), acc)
    o, lse = finalize(m_log2, l, acc)
    tl.store(o_ptr + offs_m[:, None] * 16 + offs_d[None, :], o)
    tl.store(lse_ptr + offs_m, lse)
    tl.store(m_ptr + offs_m, m_log2)


def any_bits(dtype: torch.dtype) -> torch.Tensor:
    """N floats of random bits, including subnormal and huge ones, inf and nan."""
    rng = torch.Generator().manual_seed(0)
    if dtype == torch.float32:
        x = torch.randint(-(2**31), 2**31, (N,), generator=rng).int().view(dtype)
        # 0, ±inf, NaN with all its bits set, overflow of bf16, and ties that go down and up
        special = [0.0, -0.0, math.inf, -math.inf, math.nan, 3.4e38, 1 + 2**-8, 1 + 3 * 2**-8]
        x[: len(special)] = torch.tensor(special)
        x[8] = torch.tensor(-1, dtype=torch.int32).view(dtype)
        return x
    return torch.randint(-(2**15), 2**15, (N,), generator=rng).short().view(dtype)


def same(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Bit for bit equal, where all NaNs count as the same."""
    got = got.cpu()
    return got.dtype == wanted.dtype and torch.equal(got.nan_to_num(7), wanted.nan_to_num(7))


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_casts_round_as_torch_does(source, narrow):
    x = any_bits(source)
    if narrow == torch.float16:
        x = x.clamp(-65000, 65000)  # overflow in fp16 is not tested here
    wide = torch.empty(N, device=DEVICE)
    out = torch.empty(N, dtype=narrow, device=DEVICE)
    cast_kernel[(1,)](x.to(DEVICE), wide, out, N=N)
    assert same(wide, x.float()) and same(out, x.float().to(narrow))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dot_accumulates_in_fp32(dtype):
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 64, 64, generator=rng).to(dtype)
    c = torch.randn(64, 64, generator=rng)
    out = c.clone().to(DEVICE)
    dot_kernel[(1,)](a.to(DEVICE), b.to(DEVICE), out, N=64)
    # 64 products of about 1: rounding in fp32 stays below 64 · 2^-24 · (sum of their sizes)
    bound = 64 * 2**-24 * (a.double().abs() @ b.double().abs() + c.abs())
    error = (out.cpu().double() - (a.double() @ b.double() + c)).abs()
    assert (error <= bound).all()


@pytest.mark.parametrize("shift", [0.0, 300.0, -300.0])
def test_tiles_of_softmax(shift):
    """First tile all -inf in row 0, last tile all -inf in row 1, every tile in row 2."""
    rng = torch.Generator().manual_seed(0)
    x = 5 * torch.randn(16, 48, generator=rng) + shift
    x[0, :16], x[1, 32:], x[2] = -math.inf, -math.inf, -math.inf
    v = torch.randn(48, 16, generator=rng)
    o, lse, m = (torch.full(s, math.nan, device=DEVICE) for s in ((16, 16), (16,), (16,)))
    softmax_tiles_kernel[(1,)](x.to(DEVICE), v.to(DEVICE), o, lse, m, 3, M=16, N=16)
    scores = x.double() * math.log(2)
    wanted = torch.softmax(scores, 1).nan_to_num(0) @ v.double()
    torch.testing.assert_close(o.cpu().double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse.cpu().double(), scores.logsumexp(1), rtol=1e-6, atol=1e-6)
    assert torch.equal(m.cpu(), x.amax(1))  # -inf until a real score comes: row 2 keeps it
