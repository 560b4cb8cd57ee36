"""Rounding fp32 to the eight-bit dtypes of a cache, identically on every machine.

A compiled cast to fp8 is not the same everywhere: to e4m3 it goes by way of fp16 on sm_89 up to
Triton 3.8, and so rounds twice, and to e5m2 older GPUs have no instruction. So numbers are first
rounded to the dtype's grid in fp32, which leaves the cast nothing to decide. To do so, add
1.5 · 2^23 steps of the grid and subtract them again: in the sum one step is the last bit that fp32
has, and fp32 rounds to nearest even.

    dtype           step at x                   smallest step    largest number
    int8            1                           1                127
    float8_e4m3fn   2^(exponent of x) / 8       2^-9             448
    float8_e5m2     2^(exponent of x) / 4       2^-16            57344

Finite numbers beyond the largest become the largest, with their sign. What is not finite must not
become a number that looks like any other:

    dtype           NaN     ±inf    the scale of a token that has one
    int8            -128    -128    NaN if it is the token's own, so that all of it is read as NaN
    float8_e4m3fn   NaN     NaN     that of its finite numbers
    float8_e5m2     NaN     ±inf    that of its finite numbers

No finite number becomes -128. Where tokens share a scale, that mark is all that int8 can keep;
`append_kv` refuses such numbers on the CPU, where looking at them costs nothing.

NVIDIA's GPUs convert float8_e4m3fn from sm_89 on (Ada, Hopper, Blackwell); before, there is
float8_e5m2, which is the upper half of an fp16, and int8. `kernels.runtime.has_e4m3` knows, and
says what AMD's do.

`reference.quantization` does the same in PyTorch.

Source: Micikevicius et al. 2022, "FP8 formats for deep learning", table 1.
"""

from kernels.primitives import round_to
from kernels.runtime import INTERPRETED

# isort: split
import triton
import triton.language as tl

_INTERPRETED = tl.constexpr(INTERPRETED)


@triton.jit
def largest(dtype: tl.constexpr) -> tl.constexpr:
    """Return the largest number that the dtype holds (int8: not -128, which has no +128)."""
    if dtype == tl.int8:
        return 127.0
    elif dtype == tl.float8e4nv:
        return 448.0
    else:
        return 57344.0


@triton.jit
def scale_of_token(x, dtype: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Return the scale (BLOCK_T,) of each token x (BLOCK_T, BLOCK_D), and the one to store.

    It maps the largest finite |x| to the largest number of the dtype.
    """
    finite = tl.abs(x) < float("inf")  # False for NaN, too
    amax = tl.max(tl.where(finite, tl.abs(x), 0.0), 1)
    scale = tl.maximum(tl.div_rn(amax, largest(dtype)), 2.0**-126)  # no underflow to 0
    scale = tl.where(amax == 0.0, 1.0, scale)
    stored = scale
    if dtype == tl.int8:
        stored += tl.sum(tl.where(finite, 0.0, float("nan")), 1)
    return scale, stored


@triton.jit
def round_to_cache(x, scale, dtype: tl.constexpr) -> tl.tensor:
    """Round fp32 x / scale (None: x) to the dtype of a cache, to nearest, ties to even.

    Eight bits saturate where x is finite, and keep NaN and inf as the table above says.
    """
    if dtype.primitive_bitwidth > 8:
        return round_to(x, dtype)
    finite = tl.abs(x) < float("inf")  # False for NaN, too
    y = tl.where(finite, x, 0.0)
    if scale is not None:
        y = tl.div_rn(y, scale + tl.zeros_like(y))
    y = _on_grid(tl.minimum(tl.maximum(y, -largest(dtype)), largest(dtype)), dtype)
    if dtype == tl.int8:
        return tl.where(finite, y, -128.0).to(dtype)
    if dtype == tl.float8e5:  # the upper half of an fp16: needs no instruction that old GPUs lack
        y = tl.where(finite, y, tl.where(x == x, x, float("nan")))
        bits = y.to(tl.float16).to(tl.uint16, bitcast=True) >> 8
        return bits.to(tl.uint8).to(dtype, bitcast=True)
    y = tl.where(finite, y, float("nan"))
    if _INTERPRETED:  # the same steps backwards as in `kernels.primitives.to_fp32`, by way of fp16
        bits = (y * 2.0**-8).to(tl.float16).to(tl.uint16, bitcast=True)
        bits = tl.where(finite, ((bits >> 8) & 0x80) | ((bits >> 7) & 0x7F), 0x7F)
        return bits.to(tl.uint8).to(dtype, bitcast=True)
    return y.to(dtype)


@triton.jit
def _on_grid(x, dtype: tl.constexpr) -> tl.tensor:
    """Round fp32 numbers within the range of an eight-bit dtype to its numbers, still as fp32."""
    if dtype == tl.int8:
        step = 1.0
    else:
        BITS: tl.constexpr = 3 if dtype == tl.float8e4nv else 2  # after the leading one
        LEAST: tl.constexpr = -6 if dtype == tl.float8e4nv else -14  # below it, all steps are equal
        exponent = (x.to(tl.int32, bitcast=True) >> 23) & 0xFF  # of x, plus 127
        step = ((tl.maximum(exponent, LEAST + 127) - BITS) << 23).to(tl.float32, bitcast=True)
    ruler = 12582912.0 * step  # 1.5 · 2^23
    return (x + ruler) - ruler
