"""What every attention kernel is made of: casts, one dot, the online-softmax update, finalize.

State of the online softmax for the BLOCK_M rows of a tile, all fp32:

    m_log2  (BLOCK_M,)          largest score so far, in base 2; -inf until the first real score
    l       (BLOCK_M,)          sum of 2^(score - m)
    acc     (BLOCK_M, BLOCK_D)  sum of 2^(score - m) · v

Scores are multiplied once by `scale · log2(e)`, so that exp(x) = 2^(x · log2 e) costs one `exp2`,
the instruction that GPUs have. Names in base 2 end in `_log2`; every logarithm that leaves a
kernel is natural.

Sources: Milakov & Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3; Dao
2023, "FlashAttention-2", algorithm 1.

Three facts about Triton's interpreter shape the casts below; compiled, only e5m2 to bf16 is wrong.
Arithmetic on bf16 works on the raw 16 bits there and gives nonsense without a warning. The cast to
bf16 truncates the low bits instead of rounding to nearest even. And fp8 has no special values
there: NaN is read as 480 or 114688, inf as 65536. So kernels never compute in bf16 or fp8: they
load, `dot` or `to_fp32`, and store through `round_to`; fp8 through `kernels.append.quantization`.
"""

import math

from kernels.runtime import INTERPRETED  # before triton: it decides the mode

# isort: split
import triton
import triton.language as tl

LOG2_E = math.log2(math.e)  # on the host: scale_log2 = scale * LOG2_E
_INTERPRETED = tl.constexpr(INTERPRETED)
_LN_2 = tl.constexpr(math.log(2.0))


@triton.jit
def to_fp32(x) -> tl.tensor:
    """Widen to fp32, exactly: a bf16 is the upper half of an fp32, an e5m2 that of an fp16."""
    if _INTERPRETED:
        if x.dtype == tl.bfloat16:
            bits = x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
            return bits.to(tl.float32, bitcast=True)
        if x.dtype == tl.float8e5:
            bits = x.to(tl.uint8, bitcast=True).to(tl.uint16) << 8
            return bits.to(tl.float16, bitcast=True).to(tl.float32)
        if x.dtype == tl.float8e4nv:
            bits = x.to(tl.uint8, bitcast=True).to(tl.uint32)
            # Four bits of exponent where fp32 has eight: its bias is 127, not 7.
            wide = (((bits & 0x80) << 24) | ((bits & 0x7F) << 20)).to(tl.float32, bitcast=True)
            return tl.where((bits & 0x7F) == 0x7F, float("nan"), wide * 2.0**120)
    return x.to(tl.float32)


@triton.jit
def round_to(x, dtype: tl.constexpr) -> tl.tensor:
    """Round fp32 to `dtype`, to nearest, ties to even."""
    if _INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)  # carries into the upper half where it should
        bits = tl.where(x == x, bits, 0x7FC00000)  # a NaN stays a NaN
        return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(dtype)


@triton.jit
def widen(x, dtype: tl.constexpr) -> tl.tensor:
    """Return int8 or fp8 numbers as `dtype` (fp16, bf16 or fp32), exactly; others unchanged.

    A significand of eleven or eight bits holds any int8 and any fp8, and fp16 has the exponent
    range of e5m2.
    """
    if x.dtype == dtype:
        return x
    if _INTERPRETED:
        return round_to(to_fp32(x), dtype)
    if x.dtype == tl.float8e5 and dtype == tl.bfloat16:
        # Triton's own cast shifts and multiplies: it makes 65536 of inf, 114688 of NaN. In fp32
        # the lower half of such a number is 0, so cutting it off rounds nothing.
        bits = x.to(tl.float16).to(tl.float32).to(tl.uint32, bitcast=True) >> 16
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(dtype)


@triton.jit
def dot(a, b, acc) -> tl.tensor:
    """Return acc + a @ b, accumulated in fp32; fp32 inputs are not cut to TF32.

    a (M, K) and b (K, N) have the same dtype; acc is (M, N) fp32. Products of two 16-bit floats are
    exact in fp32, so widening first changes only the order of the sums.
    """
    if _INTERPRETED:
        return tl.dot(to_fp32(a), to_fp32(b), acc, input_precision="ieee")
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def product(a, b) -> tuple[tl.tensor, tl.tensor]:
    """Return a · b in fp32, and what rounding took off: their sum is the exact product.

    A fused multiply-add rounds once, so it gives a · b - round(a · b) exactly (Dekker 1971).
    Interpreted, `tl.fma` rounds twice up to Triton 3.8; there, fp64 holds any product of two fp32.
    """
    rounded = a * b
    if _INTERPRETED:
        lost = (a.to(tl.float64) * b - rounded).to(tl.float32)
    else:
        lost = tl.fma(a, b, -rounded)
    return rounded, lost


@triton.jit
def online_softmax_step(
    m_log2, l, acc, scores_log2, lost=None
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Take in one tile of scores (BLOCK_M, BLOCK_N); masked scores are -inf.

    lost: what rounding took off each of scores_log2, if the caller knows (`product`). Near 200 a
    rounding error is as large as 1e-5; so small a number counts only once m is subtracted.

    Returns the new m_log2 and l, acc on the new ruler, and p = 2^(score - m) of this tile. The
    kernel then only has to do `acc += p @ v`.
    """
    m_new_log2 = tl.maximum(m_log2, tl.max(scores_log2, 1))
    # -inf - (-inf) is NaN: only the subtraction uses a stand-in, the state keeps its -inf.
    ruler_log2 = tl.where(m_new_log2 == float("-inf"), 0.0, m_new_log2)
    alpha = tl.exp2(m_log2 - ruler_log2)  # old ruler → new ruler; 0 if nothing seen so far
    distance_log2 = scores_log2 - ruler_log2[:, None]
    if lost is not None:  # for a score beyond 2^31 it passes 128, and 2^lost overflows
        distance_log2 += tl.minimum(tl.maximum(lost, -64.0), 64.0)
    p = tl.exp2(distance_log2)
    return m_new_log2, l * alpha + tl.sum(p, 1), acc * alpha[:, None], p


@triton.jit
def finalize(m_log2, l, acc) -> tuple[tl.tensor, tl.tensor]:
    """Return o = acc / l and lse = ln sum exp(score); a row that saw no key gets (0, -inf)."""
    l_safe = tl.where(l == 0.0, 1.0, l)  # l is 0 only where no key was seen; then acc is 0 too
    return acc / l_safe[:, None], (m_log2 + tl.log2(l_safe)) * _LN_2
