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
def softmax_weights(m, scores, scale_log2=None) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Take in one tile of scores (BLOCK_M, BLOCK_N); masked scores are -inf.

    scale_log2: None where scores and m are in base 2; else above 0, (BLOCK_M,) or a number, by
    which both are still to be multiplied. The difference is taken first: near 200 a product would
    be rounded by up to 1e-5, and 2^x turns that into an error of p. The largest p is 1 exactly.

    Returns the new m; alpha (BLOCK_M,), by which sums on the old ruler are multiplied, 0 if nothing
    was seen so far; and p = 2^(score - m) of this tile.
    """
    m_new = tl.maximum(m, tl.max(scores, 1))
    # -inf - (-inf) is NaN: only the subtraction uses a stand-in, the state keeps its -inf.
    ruler = tl.where(m_new == float("-inf"), 0.0, m_new)
    behind, distance = m - ruler, scores - ruler[:, None]
    if scale_log2 is not None:
        behind *= scale_log2
        distance *= scale_log2[:, None]
    return m_new, tl.exp2(behind), tl.exp2(distance)


@triton.jit
def online_softmax_step(
    m_log2, l, acc, scores_log2
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Take in one tile of scores (BLOCK_M, BLOCK_N), in base 2; masked scores are -inf.

    Returns the new m_log2 and l, acc on the new ruler, and p = 2^(score - m) of this tile. The
    kernel then only has to do `acc += p @ v`.
    """
    m_log2, alpha, p = softmax_weights(m_log2, scores_log2)
    return m_log2, l * alpha + tl.sum(p, 1), acc * alpha[:, None], p


@triton.jit
def finalize(m_log2, l, acc) -> tuple[tl.tensor, tl.tensor]:
    """Return o = acc / l and lse = ln sum exp(score); a row that saw no key gets (0, -inf)."""
    l_safe = tl.where(l == 0.0, 1.0, l)  # l is 0 only where no key was seen; then acc is 0 too
    return acc / l_safe[:, None], (m_log2 + tl.log2(l_safe)) * _LN_2
