"""Exercise 13.3: the split kernel reads an int8 cache, and folds the scales of its tokens."""

from dataclasses import replace

from course.check.draw import integer
from course.check.kernel_inputs import EPS
from course.check.lesson_13.quantized_kernel_inline import the_softmax_inline
from course.check.lesson_13.quantized_kernel_mistakes import (
    FOLDING,
    HIDDEN,
    OF_K,
    OF_V,
    SHAPES,
    TOKENS,
)
from course.check.lesson_13.quantized_launch import ask
from course.check.spec import Exercise, also_right, holds, right, slip
from kernels.primitives import dot, finalize, online_softmax_step

# isort: split
import triton
import triton.language as tl


@right
@triton.jit
def quantized_kernel(
    q_ptr, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr, lengths_ptr, o_ptr, lse_ptr,
    stride_b, stride_n, stride_h, stride_sb, stride_sn, stride_sh,
    scale_log2, G, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    split, kv_head, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    S, Hkv, B = tl.num_programs(0), tl.num_programs(1), tl.num_programs(2)
    length = tl.load(lengths_ptr + b)
    chunk = tl.cdiv(tl.cdiv(length, BLOCK_N), S) * BLOCK_N
    start = tl.minimum(split * chunk, length)
    stop = tl.minimum(start + chunk, length)
    offs_m, offs_d = tl.arange(0, BLOCK_M)[:, None], tl.arange(0, D)[None, :]
    row = (b * Hkv + kv_head) * G + offs_m  # of the B · Hq query rows
    q = tl.load(q_ptr + row * D + offs_d, mask=offs_m < G, other=0.0)
    m_log2 = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l, acc = tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, D), tl.float32)
    no_scores = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start_n in range(start, stop, BLOCK_N):
        offs_n = start_n + tl.arange(0, BLOCK_N)
        mask_n = offs_n < stop
        cells = b * stride_b + offs_n[:, None] * stride_n + kv_head * stride_h + offs_d
        k = tl.load(k_ptr + cells, mask=mask_n[:, None], other=0).to(tl.float32)
        v = tl.load(v_ptr + cells, mask=mask_n[:, None], other=0).to(tl.float32)
        tokens = b * stride_sb + offs_n * stride_sn + kv_head * stride_sh
        k_scale = tl.load(k_scale_ptr + tokens, mask=mask_n, other=0.0)
        v_scale = tl.load(v_scale_ptr + tokens, mask=mask_n, other=0.0)
        scores_log2 = dot(q, tl.trans(k), no_scores) * scale_log2 * k_scale[None, :]
        scores_log2 = tl.where(mask_n[None, :], scores_log2, float("-inf"))
        m_log2, l, acc, p = online_softmax_step(m_log2, l, acc, scores_log2)
        acc = dot(p * v_scale[None, :], v, acc)
    o, lse = finalize(m_log2, l, acc)
    place = split * (B * Hkv * G) + row
    tl.store(o_ptr + place * D + offs_d, o, mask=offs_m < G)
    tl.store(lse_ptr + place, lse[:, None], mask=offs_m < G)


also_right(the_softmax_inline)


@holds("one head, one row, one split; whole blocks")
def one_program(answer, rng):
    return ask(answer, rng, lengths=[48])


@holds("the keys' scales differ, all those of the values are 1/64", see=FOLDING)
def scales_of_keys(answer, rng):
    return ask(answer, rng, lengths=[48], G=2, v_scale=[1 / 64])


@holds("the values' scales differ, all those of the keys are 1/64", see=FOLDING)
def scales_of_values(answer, rng):
    return ask(answer, rng, lengths=[48], G=2, k_scale=[1 / 64])


@holds("the last block is not full; NaN after the last scale")
def a_ragged_end(answer, rng):
    """With room for a whole block after the last key, and with none. Elsewhere blocks are full."""
    return [ask(answer, rng, lengths=[integer(rng, 33, 47)], room=room) for room in (20, 0)]


@holds("three rows of different lengths, one of them empty", see=SHAPES)
def batch_and_lengths(answer, rng):
    return ask(answer, rng, lengths=[32, 0, 48])


@holds("keys and values of zeros count, whatever their scales", see=FOLDING)
def zeros(answer, rng):
    """Their scores are 0 where k or its scale is: so are those of keys that don't exist."""
    return [
        ask(answer, rng, lengths=[48], G=2, zeros={"k": [1.0, 1.0]}),
        ask(answer, rng, lengths=[48], G=2, zeros={"k": [0.0, 0.0]}),
        ask(answer, rng, lengths=[48], G=2, zeros={"v": [0.0, 0.0]}),
    ]


@holds("two KV heads; gaps in the scales, and another layout", see=SHAPES)
def heads_and_strides(answer, rng):
    return [
        ask(answer, rng, lengths=[16, 32], Hkv=2, G=2, gap=4),
        ask(answer, rng, lengths=[16, 32], Hkv=2, G=2, gap=3, heads_first=True),
    ]


@holds("as many query heads in the tile as keys in a block", see=FOLDING)
def square_tiles(answer, rng):
    return ask(answer, rng, lengths=[48], G=16)


@holds("each split its own keys; several D and BLOCK_N")
def splits(answer, rng):
    return [
        ask(answer, rng, lengths=[128, 64], S=3, G=2),
        ask(answer, rng, lengths=[32, 16], S=5, Hkv=2),
        ask(answer, rng, lengths=[96], S=2, D=32, block_n=32),
    ]


@holds("scales a million times as large as others", see=FOLDING)
def far_apart(answer, rng):
    return [
        ask(answer, rng, lengths=[48], G=3, k_scale=[1.0, 1e-6, 0.02], v_scale=[1e-6, 1.0]),
        ask(answer, rng, lengths=[48], G=3, k_scale=[1e-6, 1.0], v_scale=[0.01, 0.3, 1e-6]),
    ]


@holds("a single key, whose score is far below 0: o is its value")
def far_below_zero(answer, rng):
    """Its weight is 1 and the others' are 0, so o is off by a rounding or two. lse is not shown."""
    seen = ask(answer, rng, lengths=[1], k_scale=[1e33], opposite=True)
    o, wanted = seen.got[:1], seen.wanted[:1]
    return replace(seen, got=o, wanted=wanted, names=("o",), atol=0.0, rtol=4 * EPS)


@holds("16 keys of nearly the same weight: what rounds to 16 bits is seen")
def in_fp32(answer, rng):
    """Scores near 0: then fp32 alone is so exact that nothing hides behind its own rounding."""
    return ask(answer, rng, lengths=[16], G=16, q=0.01)


@holds("all of it at once: rows, heads, splits, and ends that are not full")
def all_at_once(answer, rng):
    return ask(answer, rng, lengths=[integer(rng, 17, 31), 1], S=5, Hkv=2, G=2)


# Where the scales lie, how they are loaded, and which keys there are. What is done with them:
# quantized_kernel_mistakes.

slip(
    "rows of the batch forgotten",
    "All rows use the scales of **row 0**. Row b begins b · stride_sb entries later.",
    ("b * stride_sb + ", ""),
    see=SHAPES,
)
slip(
    "the first KV head's scales",
    "All programs read the scales of **the first KV head**.",
    (" + kv_head * stride_sh", ""),
    see=SHAPES,
)
slip(
    "the strides of the keys",
    "The scales are looked up with **the strides of K and V**. A scale serves D numbers, so theirs "
    "lie closer together: stride_sb, stride_sn, stride_sh.",
    (TOKENS, "b * stride_b + offs_n * stride_n + kv_head * stride_h"),
    see=SHAPES,
)
slip(
    "scales side by side",
    "The scales of neighbouring tokens are taken to be **neighbours**. Between them are other "
    "heads, or gaps: use stride_sn.",
    ("offs_n * stride_sn", "offs_n"),
    see=SHAPES,
)
slip(
    "heads closely packed",
    "The scales of neighbouring heads are taken to be **neighbours**. In another layout they are "
    "not: use stride_sh.",
    ("kv_head * stride_sh", "kv_head"),
    see=SHAPES,
)
slip(
    "closely packed",
    "The scales are taken to lie **closely packed**, (B, Lk, Hkv). There may be gaps, or another "
    "order: use the strides.",
    ("offs_n * stride_sn", "offs_n * Hkv"),
    ("kv_head * stride_sh", "kv_head"),
    see=SHAPES,
)
slip(
    "strides of token and head swapped",
    "The strides are **swapped**: stride_sn leads from token to token, stride_sh from head to "
    "head.",
    ("offs_n * stride_sn", "offs_n * stride_so"),
    ("kv_head * stride_sh", "kv_head * stride_sn"),
    ("stride_so", "stride_sh"),
    see=SHAPES,
)
slip(
    "counted from the block",
    "Every block reads the scales of **the first tokens of the row**. offs_n are the places in "
    "the row; what a block counts for itself begins at 0.",
    ("offs_n * stride_sn", "tl.arange(0, BLOCK_N) * stride_sn"),
)
slip(
    "counted from the split",
    "The scales are counted **from the start of the split**. They lie by their place in the row, "
    "as the keys do.",
    ("offs_n * stride_sn", "(offs_n - start) * stride_sn"),
)
slip(
    "a scale per block",
    "Each block has **one scale**, that of its first token. Each token has its own.",
    ("offs_n * stride_sn", "(start_n + 0 * offs_n) * stride_sn"),
    see=SHAPES,
)
slip(
    "a scale per head",
    "All tokens have the scale of **the first token** of their head. Each has its own.",
    ("offs_n * stride_sn", "0 * offs_n"),
    see=SHAPES,
)
slip(
    "as long as this row",
    "The place of a scale is worked out **by hand**, as if every row had as many tokens as this "
    "one has keys. There is room for more, and there may be gaps: use the strides.",
    (TOKENS, "(b * length + offs_n) * Hkv + kv_head"),
    see=SHAPES,
)
slip(
    "row and head swapped",
    "Two strides are **swapped**: stride_sb leads from row to row of the batch, stride_sh from "
    "head to head.",
    (TOKENS, "kv_head * stride_sb + offs_n * stride_sn + b * stride_sh"),
    see=SHAPES,
)
slip(
    "the split for the row",
    "The **split's** number is taken for that of the row. Splits divide the keys of each row; "
    "b says which row of the batch this program works on.",
    ("b * stride_sb", "split * stride_sb"),
    see=SHAPES,
)
slip(
    "counted in query heads",
    "The head is counted **in query heads**, G for each KV head. A scale belongs to a KV head, as "
    "K and V do.",
    ("kv_head * stride_sh", "kv_head * G * stride_sh"),
    see=SHAPES,
)
slip(
    "the block added twice",
    "The start of the **block** is added twice: offs_n are places in the row already.",
    ("offs_n * stride_sn", "(start_n + offs_n) * stride_sn"),
)
slip(
    "the split added twice",
    "The start of the **split** is added twice: offs_n are places in the row already.",
    ("offs_n * stride_sn", "(start + offs_n) * stride_sn"),
)
slip(
    "rows counted in heads",
    "The place of a row is **b · Hkv heads** further, each stride_sh long. That holds in one "
    "layout only: rows have a stride of their own, stride_sb.",
    (TOKENS, "(b * Hkv + kv_head) * stride_sh + offs_n * stride_sn"),
    see=SHAPES,
)
slip(
    "the loads' mask inverted",
    "The mask of the loads is **inverted**: the scales of keys that exist become 0, and those past "
    "the end are read. A load reads where its mask is true.",
    ("mask=mask_n, other", "mask=~mask_n, other"),
)
slip(
    "masked by D",
    "The scales are loaded with the mask **offs_n < D**. D counts the numbers of one key; offs_n "
    "counts keys, and mask_n says which of them exist.",
    ("mask=mask_n, other", "mask=offs_n < D, other"),
)
slip(
    "hidden where the score is 0",
    "A key is taken not to exist because **its score is 0**. A key of zeros has that score, too, "
    "and it counts: mask_n says which keys exist.",
    (HIDDEN, HIDDEN.replace("mask_n[None, :]", "scores_log2 != 0.0")),
)
slip(
    "hidden where k_scale is 0",
    "A key is taken not to exist because **its k_scale is 0**. Such a key has the score 0, and it "
    "counts: mask_n says which keys exist.",
    (HIDDEN, HIDDEN.replace("mask_n[None, :]", "k_scale[None, :] != 0.0")),
)
slip(
    "hidden where v_scale is 0",
    "A key is taken not to exist because **its v_scale is 0**. Its value is 0 then, but its weight "
    "counts: mask_n says which keys exist.",
    (HIDDEN, HIDDEN.replace("mask_n[None, :]", "v_scale[None, :] != 0.0")),
)
slip(
    "keys that do not exist",
    "Keys past the end **take part, with a score of 0**: its power of 2 is 1, and l counts it. "
    "Their score must be -∞ before the step.",
    (HIDDEN, ""),
)
slip(
    "a large negative number",
    "Keys past the end get **a large negative number** for a score. Where all keys score lower "
    "still, those that do not exist win. Nothing is lower than -∞.",
    ('float("-inf"))\n', "-1e9)\n"),
)
slip(
    "the mask down the rows",
    "The mask is laid along **the query heads**, [:, None]. It belongs to the keys, the columns of "
    "the scores. Where BLOCK_M is BLOCK_N, nothing but wrong numbers shows it.",
    ("tl.where(mask_n[None, :]", "tl.where(mask_n[:, None]"),
)
slip(
    "v_scale not masked",
    "The scales of V are loaded **past the end**, or with a mask and no finite `other`. p is 0 "
    "there, but a scale that nobody has written may be NaN, and 0 · NaN is NaN. Look at the load "
    "of K's scales, too.",
    (OF_V, "v_scale = tl.load(v_scale_ptr + tokens)"),
)
slip(
    "k_scale not masked",
    "Scales are loaded **past the end of the tensor**, where a GPU may refuse to read. A "
    "`tl.where` comes too late for that: by then they have been loaded. Mask the loads "
    "themselves, of K's scales and of V's.",
    (OF_K, "k_scale = tl.load(k_scale_ptr + tokens)"),
)

QUANTIZED_KERNEL = Exercise.of(
    __name__,
    "13.3 quantized kernel",
    title="Fold the scales in the kernel",
    section=FOLDING,
    needs=("triton",),
    trials=1,
    seconds=60.0,
)
