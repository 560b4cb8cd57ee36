"""kernels.flash_decoding.eight_bits: every pair of bytes, and queries that become fp16."""

import re

import numpy as np
import pytest
import torch

from kernels.flash_decoding import eight_bits
from kernels.flash_decoding.eight_bits import powers_of_2, scale_to_fp16, unpack
from kernels.flash_decoding.features import come_in_pairs
from kernels.runtime import device

# isort: split
import triton
import triton.language as tl

DEVICE = device()
DTYPES = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)
ASSEMBLY = dict(zip(DTYPES, (eight_bits._INT8, eight_bits._E4M3, eight_bits._E5M2), strict=True))
PAIRS = 2**16


@triton.jit
def unpack_kernel(x_ptr, even_ptr, odd_ptr, N: tl.constexpr):
    offs = tl.arange(0, N)
    pairs = tl.load(x_ptr.to(tl.pointer_type(tl.int16), bitcast=True) + offs)
    even, odd = unpack(pairs, x_ptr.dtype.element_ty)
    tl.store(even_ptr + offs, even)
    tl.store(odd_ptr + offs, odd)


@triton.jit
def to_fp16_kernel(x_ptr, rest_ptr, y_ptr, down_ptr, M: tl.constexpr, N: tl.constexpr):
    offs_m = tl.arange(0, M)
    offs = offs_m[:, None] * N + tl.arange(0, N)[None, :]
    x = tl.load(x_ptr + offs)
    up, down = powers_of_2(x, tl.load(rest_ptr + offs))
    tl.store(y_ptr + offs, scale_to_fp16(x, up))
    tl.store(down_ptr + offs_m, down)


def every_pair() -> torch.Tensor:
    """(65536, 2) bytes."""
    low, high = torch.arange(PAIRS) % 256, torch.arange(PAIRS) // 256
    return torch.stack((low, high), 1).to(torch.uint8)


def same(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Bit for bit, with the sign of zero; all NaNs count as one."""
    got, nan = got.cpu(), wanted.isnan()
    bits = torch.equal(got[~nan].view(torch.int16), wanted[~nan].view(torch.int16))
    return bits and bool(got[nan].isnan().all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_pair_is_unpacked_exactly(dtype):
    if dtype == torch.float8_e4m3fn and not eight_bits.INTERPRETED:
        from kernels.runtime import has_e4m3

        if not has_e4m3(DEVICE):
            pytest.skip("this GPU has no e4m3")
    x = every_pair().view(dtype)
    even, odd = (torch.empty(PAIRS, dtype=torch.float16, device=DEVICE) for _ in "eo")
    unpack_kernel[(1,)](x.to(DEVICE), even, odd, N=PAIRS)
    wanted = x.to(torch.float16)
    assert torch.equal(wanted[~wanted.isnan()].double(), x.double()[~wanted.isnan()])  # exact
    assert same(even, wanted[:, 0].contiguous()) and same(odd, wanted[:, 1].contiguous())


# ---- What is compiled: the assembly, instruction by instruction ---------------------------------


def run(assembly: str, registers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Execute the few instructions of PTX that unpack; return $0 and $1 for $2 = registers."""
    at = {"$2": registers, "$3": np.full_like(registers, 0x64806480)}  # 1152 twice
    for line in filter(None, map(str.strip, assembly.strip(" {}\n").split(";"))):
        op, rest = line.split(None, 1)
        if op == ".reg":
            continue
        if unpacked := re.fullmatch(r"{(\w+), (\w+)}, (\w+)", rest):
            low, high, source = unpacked.groups()
            at[low], at[high] = at[source] & 0xFFFF, at[source] >> 16
            continue
        to, *names = (name.strip() for name in rest.split(","))
        at[to] = EXECUTE[op](*(at[x] if x in at else np.uint32(int(x, 0)) for x in names))
    return at["$0"], at["$1"]


def prmt(a, b, selector) -> np.ndarray:
    a, b = np.broadcast_arrays(a, b)
    source = np.concatenate([np.ascontiguousarray(x)[:, None].view(np.uint8) for x in (a, b)], 1)
    chosen = [int(selector) >> 4 * i & 7 for i in range(4)]
    return np.ascontiguousarray(source[:, chosen]).view(np.uint32)[:, 0]


def converted(pair) -> np.ndarray:
    bytes_ = torch.from_numpy(pair.astype(np.uint16).view(np.uint8)).view(torch.float8_e4m3fn)
    return bytes_.to(torch.float16).numpy().view(np.uint32)


EXECUTE = {
    "prmt.b32": prmt,
    "and.b32": np.bitwise_and,
    "xor.b32": np.bitwise_xor,
    "sub.rn.f16x2": lambda a, b: (a.view(np.float16) - b.view(np.float16)).view(np.uint32),
    "cvt.rn.f16x2.e4m3x2": converted,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_assembly_unpacks_every_pair(dtype):
    """Two pairs a register: every pair stands once in the lower half, and once in the upper."""
    wanted = every_pair().view(dtype).to(torch.float16)
    others = torch.randperm(PAIRS, generator=torch.Generator().manual_seed(0))
    registers = np.arange(PAIRS, dtype=np.uint32) | others.numpy().astype(np.uint32) << 16
    for found, column in zip(run(ASSEMBLY[dtype].value, registers), (0, 1), strict=True):
        found = torch.from_numpy(found.view(np.float16).reshape(-1, 2).copy())
        assert same(found, torch.stack((wanted[:, column], wanted[others, column]), 1))


def test_the_emulation_tells_a_wrong_byte():
    """So the test above says something: another selector, another answer."""
    assembly, four = ASSEMBLY[torch.float8_e5m2].value, np.array([0x44332211], np.uint32)
    assert run(assembly, four) == (0x33001100, 0x44002200)
    assert run(assembly.replace("0x2404", "0x2414"), four)[0] == 0x33002200


# ---- Queries -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_queries_fit_into_fp16(dtype):
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(8, 16, generator=rng)
    x *= torch.tensor([1.0, 2.0**100, 2.0**-60, 2.0**-90, 3e-5, 60000.0, 1.0, 1e-30])[:, None]
    x[6, 1:] = 2.0**-20  # far below the largest of its row, and still exact
    x, rest = x.to(torch.bfloat16).to(dtype), torch.zeros(8, 16, dtype=dtype)
    y = torch.empty(8, 16, dtype=torch.float16, device=DEVICE)
    down = torch.empty(8, device=DEVICE)
    to_fp16_kernel[(1,)](x.to(DEVICE), rest.to(DEVICE), y, down, M=8, N=16)
    got = y.cpu().double() * down.cpu().double()[:, None]
    assert torch.equal(got[6], x[6].double())
    largest = x.double().abs().amax(1, keepdim=True)
    assert ((got - x.double()).abs() <= largest * 2.0**-39).all()
    assert (y.cpu().double().abs().amax(1) >= 2.0**14).all() and y.isfinite().all()


def test_rows_of_zeros_inf_and_nan_keep_them():
    x = torch.ones(4, 16)
    x[0], x[1, 3], x[2, 5] = 0.0, float("inf"), float("nan")
    rest = torch.zeros(4, 16)
    rest[3, 0] = 2.0**20  # the rest counts as part of the row
    y = torch.empty(4, 16, dtype=torch.float16, device=DEVICE)
    down = torch.empty(4, device=DEVICE)
    to_fp16_kernel[(1,)](x.to(DEVICE), rest.to(DEVICE), y, down, M=4, N=16)
    assert (y[0] == 0).all() and y[1, 3] == float("inf") and y[2, 5].isnan()
    assert y[3, 0] == 2.0**-6 and down[3] == 2.0**6
    assert down.isfinite().all() and (down > 0).all()


# ---- Which caches ------------------------------------------------------------------------------


def test_odd_strides_and_addresses_are_read_one_by_one():
    q = torch.empty(1, 1, 2, 16, dtype=torch.float16)
    k = torch.empty(1, 8, 2, 16, dtype=torch.int8)
    wide, shifted = torch.empty(1, 8, 2, 17, dtype=torch.int8), torch.empty(273, dtype=torch.int8)
    assert come_in_pairs(q, k, k) and come_in_pairs(q, k, None)
    assert not come_in_pairs(q.float(), k, k)
    assert not come_in_pairs(q, wide, wide)
    for odd in (wide[..., :16], shifted[1:257].view(1, 8, 2, 16)):
        assert not come_in_pairs(q, odd, k) and not come_in_pairs(q, k, odd)
