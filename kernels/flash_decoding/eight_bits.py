"""Numbers of eight bits, unpacked in registers: two neighbours of a row are loaded as one int16.

Tensor cores multiply 16-bit numbers, and bring them from shared memory in units of 16 bits, in the
order in which they want them (`ldmatrix`). So a tile of K or V is loaded, kept and brought as pairs
of columns, and every pair is taken apart on the way into a product:

    memory      column   0    1    2    3    4    5   …        int16 i holds columns 2i and 2i + 1
                       ┌────┬────┬────┬────┬────┬────┐
                       │ b0 │ b1 │ b2 │ b3 │ b4 │ b5 │ …
                       └────┴────┴────┴────┴────┴────┘
    a register            two int16: b0 b1 b2 b3
                        even ╱                 ╲ odd
                    fp16(b0) fp16(b2)      fp16(b1) fp16(b3)

    q kᵀ = q[:, even] k[:, even]ᵀ + q[:, odd] k[:, odd]ᵀ        p v: columns even, columns odd

fp16, whatever the queries are: it holds every int8 and fp8 exactly, and a few instructions make it.
The bytes are numbered from the lowest:

    e5m2    the upper half of an fp16: a shift         0  b0        and       0  b1
    int8    0x6400 + u is 1024 + u in fp16. With u = b + 128, made by flipping b's sign bit,
            1024 + u - 1152 = b, exactly: -128 … 127 are far from where fp16 rounds
    e4m3    one instruction converts two neighbours, NaN to NaN (sm_89 and later)

Instructions per four bytes: 2, 5, 3. Interpreted, the same numbers are cast one by one.

Source: the trick with 1024 is that of Kim, Henry, Fahim & Hassan Awadalla 2022, "Who says elephants
can't run".
"""

from kernels.primitives import round_to, to_fp32, widen
from kernels.runtime import INTERPRETED

# isort: split
import triton
import triton.language as tl

_INTERPRETED = tl.constexpr(INTERPRETED)

# $0: the even ones, $1: the odd ones, $2: four bytes. "=&r" keeps an output off the input's
# register where it is written before the input was read for the last time.
_E5M2 = tl.constexpr("""
    prmt.b32 $0, $2, 0, 0x2404;
    and.b32  $1, $2, 0xFF00FF00;
""")
_INT8 = tl.constexpr("""{
    .reg .b32 flipped;
    xor.b32 flipped, $2, 0x80808080;
    prmt.b32 $0, flipped, 0x64646464, 0x4240;
    prmt.b32 $1, flipped, 0x64646464, 0x4341;
    sub.rn.f16x2 $0, $0, $3;
    sub.rn.f16x2 $1, $1, $3;
}""")
_E4M3 = tl.constexpr("""{
    .reg .b32 sorted;
    .reg .b16 even, odd;
    prmt.b32 sorted, $2, 0, 0x3120;
    mov.b32 {even, odd}, sorted;
    cvt.rn.f16x2.e4m3x2 $0, even;
    cvt.rn.f16x2.e4m3x2 $1, odd;
}""")


@triton.jit
def unpack(pairs, dtype: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Return the even and the odd columns of int8 or fp8 numbers as fp16, exactly.

    pairs: int16, each two neighbours as they lie in memory.
    """
    if _INTERPRETED:
        bits = pairs.to(tl.uint16, bitcast=True)
        even, odd = (bits & 0xFF).to(tl.uint8), (bits >> 8).to(tl.uint8)
        even, odd = even.to(dtype, bitcast=True), odd.to(dtype, bitcast=True)
        even, odd = widen(even, tl.float16), widen(odd, tl.float16)
    elif dtype == tl.float8e5:
        even, odd = tl.inline_asm_elementwise(
            _E5M2, "=&r,=r,r", [pairs], (tl.float16, tl.float16), is_pure=True, pack=2
        )
    elif dtype == tl.float8e4nv:
        even, odd = tl.inline_asm_elementwise(
            _E4M3, "=&r,=r,r", [pairs], (tl.float16, tl.float16), is_pure=True, pack=2
        )
    else:
        bias = tl.full(pairs.shape, 1152.0, tl.float16)
        even, odd = tl.inline_asm_elementwise(
            _INT8, "=&r,=&r,r,r", [pairs, bias], (tl.float16, tl.float16), is_pure=True, pack=2
        )
    return even, odd


@triton.jit
def powers_of_2(x, rest) -> tuple[tl.tensor, tl.tensor]:
    """Return 2^e and 2^-e (BLOCK_M,) for rows x and their rest: 2^e · max |x| is 2^14 to 2^15.

    So a row of bf16 queries fits into fp16: what is less than 2^-28 of its largest number loses
    digits, by 2^-39 of that number at most, far less than fp32 loses in the sum. The score has to
    be multiplied by 2^-e. Rows below 2^-112 are treated as if they reached it.
    """
    largest = tl.maximum(tl.max(tl.abs(to_fp32(x)), 1), tl.max(tl.abs(to_fp32(rest)), 1))
    exponent = tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 15)  # the bits of an fp32
    up = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
    return up, ((exponent - 14) << 23).to(tl.float32, bitcast=True)


@triton.jit
def scale_to_fp16(x, power) -> tl.tensor:
    """Return x (BLOCK_M, BLOCK_D) times power (BLOCK_M,), as fp16."""
    return round_to(to_fp32(x) * power[:, None], tl.float16)
