"""Rounding fp32 to the eight-bit dtypes of a cache, identically on every machine.

On most GPUs a compiled cast to fp8 goes through fp16 and so rounds twice, and Triton's interpreter
loses the carry into the exponent. So numbers are first rounded to the dtype's grid in fp32, which
leaves the cast nothing to decide. To do so, add 1.5 · 2^23 steps of the grid and subtract them
again: in the sum one step is the last bit that fp32 has, and fp32 rounds to nearest even.

    dtype           step at x                   smallest step    largest number
    int8            1                           1                127
    float8_e4m3fn   2^(exponent of x) / 8       2^-9             448
    float8_e5m2     2^(exponent of x) / 4       2^-16            57344

`reference.quantization` does the same in PyTorch.

Source: Micikevicius et al. 2022, "FP8 formats for deep learning", table 1.
"""

from kernels.primitives import round_to

# isort: split
import triton
import triton.language as tl


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
def round_to_cache(x, dtype: tl.constexpr) -> tl.tensor:
    """Round fp32 to the dtype of a cache, to nearest, ties to even; eight bits saturate."""
    if dtype.primitive_bitwidth > 8:
        return round_to(x, dtype)
    x = tl.minimum(tl.maximum(x, -largest(dtype)), largest(dtype))
    if dtype == tl.int8:
        step = 1.0
    else:
        BITS: tl.constexpr = 3 if dtype == tl.float8e4nv else 2  # after the leading one
        LEAST: tl.constexpr = -6 if dtype == tl.float8e4nv else -14  # below it, all steps are equal
        exponent = (x.to(tl.int32, bitcast=True) >> 23) & 0xFF  # of x, plus 127
        step = ((tl.maximum(exponent, LEAST + 127) - BITS) << 23).to(tl.float32, bitcast=True)
    ruler = 12582912.0 * step  # 1.5 · 2^23
    x = (x + ruler) - ruler
    if dtype == tl.float8e5:  # the upper half of an fp16: needs no instruction that old GPUs lack
        bits = x.to(tl.float16).to(tl.uint16, bitcast=True) >> 8
        return bits.to(tl.uint8).to(dtype, bitcast=True)
    return x.to(dtype)
