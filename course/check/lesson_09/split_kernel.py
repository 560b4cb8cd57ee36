"""Exercise 9.5: the split kernel, from the program ids to the partial result."""

import torch

from course.check.draw import integer
from course.check.lesson_09.split_in_base_2 import in_base_2
from course.check.lesson_09.split_kernel_mistakes import KEYS, QUERIES
from course.check.lesson_09.split_launch import ask
from course.check.spec import Exercise, also_right, holds, right, slip

# isort: split
import triton
import triton.language as tl

LOOP = "4 · The split kernel, retyped"


@right
@triton.jit
def split_kernel(
    q_ptr, k_ptr, v_ptr, lengths_ptr, o_ptr, lse_ptr,
    stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    scale, G, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    split, kv_head, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    S, Hkv, B = tl.num_programs(0), tl.num_programs(1), tl.num_programs(2)
    # 1. Which keys
    length = tl.load(lengths_ptr + b)
    chunk = tl.cdiv(tl.cdiv(length, BLOCK_N), S) * BLOCK_N
    start = tl.minimum(split * chunk, length)
    stop = tl.minimum(start + chunk, length)
    # 2. Which queries
    offs_m, offs_d = tl.arange(0, BLOCK_M), tl.arange(0, D)
    mask_m = offs_m < G
    row = (b * Hkv + kv_head) * G + offs_m  # of the B · Hq query rows
    q = tl.load(q_ptr + row[:, None] * D + offs_d[None, :], mask=mask_m[:, None], other=0.0)
    # 3. The loop
    k_ptr += b.to(tl.int64) * stride_kb + kv_head * stride_kh
    v_ptr += b.to(tl.int64) * stride_vb + kv_head * stride_vh
    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l, acc = tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, D), tl.float32)
    for start_n in range(start, stop, BLOCK_N):
        offs_n = start_n + tl.arange(0, BLOCK_N)
        mask_n = offs_n < stop
        offs_k = offs_n[:, None] * stride_kn + offs_d[None, :]
        offs_v = offs_n[:, None] * stride_vn + offs_d[None, :]
        k = tl.load(k_ptr + offs_k, mask=mask_n[:, None], other=0.0)
        v = tl.load(v_ptr + offs_v, mask=mask_n[:, None], other=0.0)
        scores = scale * tl.dot(q, tl.trans(k), input_precision="ieee")
        scores = tl.where(mask_n[None, :], scores, float("-inf"))
        m_new = tl.maximum(m, tl.max(scores, 1))  # finite: every block has a key
        alpha = tl.exp(m - m_new)
        p = tl.exp(scores - m_new[:, None])
        l = l * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None] + tl.dot(p, v, input_precision="ieee")
        m = m_new
    # 4. What is left
    l_safe = tl.where(l == 0.0, 1.0, l)  # an empty split: o = 0, lse = -inf
    place = split * (B * Hkv * G) + row
    o_ptrs = o_ptr + place[:, None] * D + offs_d[None, :]
    tl.store(o_ptrs, acc / l_safe[:, None], mask=mask_m[:, None])
    tl.store(lse_ptr + place, m + tl.log(l_safe), mask=mask_m)


also_right(in_base_2)


@holds("one head, one row, one split; whole blocks")
def one_program(answer, rng):
    return ask(answer, rng, lengths=[48])


@holds("the last block is not full; NaN after the last key", see=KEYS)
def a_ragged_end(answer, rng):
    return ask(answer, rng, lengths=[integer(rng, 33, 47)])


@holds("scores near 200 and near -200, maxima that rise and fall", see=LOOP)
def far_from_zero(answer, rng):
    shifts = (200.0,), (-200.0,), (200.0, -200.0, 200.0)
    return [ask(answer, rng, lengths=[40], scale=0.5, shift=shift) for shift in shifts]


@holds("three rows of different lengths, one of them empty", see=KEYS)
def batch_and_lengths(answer, rng):
    return ask(answer, rng, lengths=[integer(rng, 17, 31), 0, integer(rng, 33, 50)])


@holds("two KV heads; another layout of the cache, gaps after its rows", see=QUERIES)
def heads_and_strides(answer, rng):
    return [
        ask(answer, rng, lengths=[20, 33], Hkv=2, gap=(4, 12)),
        ask(answer, rng, lengths=[20, 33], Hkv=2, gap=(8, 0), heads_first=True),
    ]


@holds("three, then 17 query heads share a KV head: one tile, K and V read once", see=QUERIES)
def packed(answer, rng):
    return [
        ask(answer, rng, lengths=[20, 18], Hkv=2, G=3),
        ask(answer, rng, lengths=[20], Hkv=1, G=17),
    ]


@holds("each split its own keys; several D, BLOCK_N and scales", see=KEYS)
def partials(answer, rng):
    """Room for whole blocks: what is read past the end is this row's NaN, not another tensor."""
    scale = 0.2 + 0.3 * torch.rand((), generator=rng).item()
    return [
        ask(answer, rng, lengths=[130, 70], S=3, G=2, room=40),
        ask(answer, rng, lengths=[100, 161], S=2, D=64, block_n=32, scale=scale, room=31),
        ask(answer, rng, lengths=[300], S=2, D=32, block_n=64, scale=2 * scale),
    ]


@holds("more splits than blocks: o = 0 and lse = -inf, written", see=KEYS)
def empty_splits(answer, rng):
    return ask(answer, rng, lengths=[integer(rng, 17, 31), 1], S=5, Hkv=2, G=2)


@holds("q = 0: exp(lse) counts the keys of each split")
def counts_the_keys(answer, rng):
    return ask(answer, rng, lengths=[integer(rng, 66, 79)], S=3, q=0.0)


slip(
    "o not normalised",
    "o is still the **plain weighted sum**: divide it by l. lse says how much this split counts, "
    "so o has to be a mean, or that amount counts twice in the merge.",
    ("acc / l_safe[:, None]", "acc"),
)
slip(
    "lse in base 2",
    "lse is **in base 2**. Whatever the loop uses inside, what leaves the kernel is a natural "
    "logarithm: multiply by ln 2.",
    ("m + tl.log(l_safe)", "(m + tl.log(l_safe)) * 1.4426950408889634"),
)
slip(
    "lse without m",
    "lse is **the logarithm of l alone**, and l is measured from this split's own maximum. Other "
    "splits measure from theirs: add m.",
    ("m + tl.log(l_safe)", "tl.where(l == 0.0, float('-inf'), tl.log(l_safe))"),
)
slip(
    "lse is m",
    "What is stored as lse is **the maximum**. It says nothing about how many keys there were: add "
    "the logarithm of l.",
    ("m + tl.log(l_safe)", "m"),
)
slip(
    "zero by zero",
    "A split without keys has l = 0, and **0 / 0 is NaN**: divide by 1 there. lse then comes out "
    "as -inf by itself.",
    ("tl.where(l == 0.0, 1.0, l)", "l"),
)
slip(
    "m starts at 0",
    "The running maximum **starts at 0** instead of -inf. Where all scores are far below 0, every "
    "exponential vanishes, and an empty split gets lse = 0 instead of -inf.",
    ('m = tl.full((BLOCK_M,), float("-inf"), tl.float32)', "m = tl.zeros((BLOCK_M,), tl.float32)"),
)
slip(
    "m starts at a large negative number",
    "The running maximum starts at **a finite number**. An empty split then leaves that number as "
    "its lse; it has to be -inf.",
    (
        'm = tl.full((BLOCK_M,), float("-inf"), tl.float32)',
        "m = tl.full((BLOCK_M,), -1e9, tl.float32)",
    ),
)
slip(
    "acc not rescaled",
    "**acc is not rescaled** when a block brings a larger maximum: it still counts weights "
    "measured from the old one.",
    ("acc * alpha[:, None] +", "acc +"),
)
slip(
    "l not rescaled",
    "**l is not rescaled** when a block brings a larger maximum: it still counts exponentials "
    "measured from the old one.",
    ("l * alpha +", "l +"),
)
slip(
    "m not kept",
    "**m is never set** to the new maximum, so each block rescales what came before by exp(-inf), "
    "which is 0.",
    ("        m = m_new\n", ""),
)
slip(
    "maximum of the block",
    "The new maximum is that of **the block alone**. If it is lower than the old one, what came "
    "before is enlarged, and overflows: take the larger of both.",
    ("tl.maximum(m, tl.max(scores, 1))", "tl.max(scores, 1)"),
)
slip(
    "not scaled",
    "The scores are **not multiplied by `scale`**.",
    ("scale * tl.dot", "tl.dot"),
)
slip(
    "scale of the lesson",
    "The scores are divided by **√D**, whatever `scale` says. The caller chooses it.",
    ("scale * tl.dot", "D**-0.5 * tl.dot"),
)
slip(
    "masked keys score 0",
    "The lanes after the last key have **a score of 0**, and so the weight e⁰, not none. Only a "
    "score of -inf has no weight.",
    ('        scores = tl.where(mask_n[None, :], scores, float("-inf"))\n', ""),
)
slip(
    "V not masked",
    "V is **not masked to 0** past the end. The weight there is 0, but what is loaded is NaN, and "
    "0 · NaN is NaN.",
    ("v_ptr + offs_v, mask=mask_n[:, None], other=0.0", "v_ptr + offs_v"),
)
slip(
    "lse is log l alone",
    "lse is **the logarithm of l alone**, and 0 for an empty split. l is measured from this "
    "split's own maximum: add m.",
    ("m + tl.log(l_safe)", "tl.log(l_safe)"),
)
slip(
    "m + l",
    "lse adds **l itself** to the maximum. Only its logarithm belongs there.",
    ("m + tl.log(l_safe)", "m + l_safe"),
)
slip(
    "powers of 2",
    "The weights are **powers of 2**: exp2 takes the place of exp, but the scores were not "
    "multiplied by log₂ e before.",
    ("tl.exp(", "tl.exp2("),
)
slip(
    "powers of 2 throughout",
    "The weights are **powers of 2**, and lse is their log₂. For powers of e in base 2, multiply "
    "the scores by log₂ e first, and lse by ln 2 at the end.",
    ("tl.exp(", "tl.exp2("),
    ("tl.log(", "tl.log2("),
)
slip(
    "log2 e forgotten",
    "You go back from base 2 at the end, but **log₂ e is missing** at the beginning: multiply the "
    "scores by it, once.",
    ("tl.exp(", "tl.exp2("),
    ("m + tl.log(l_safe)", "(m + tl.log2(l_safe)) * 0.6931471805599453"),
)
slip(
    "m in base 2",
    "lse mixes **two bases**: m is in base 2, the logarithm of l is not. Add both in base 2, then "
    "multiply by ln 2.",
    ("m + tl.log(l_safe)", "m * 1.4426950408889634 + tl.log(l_safe)"),
)
slip(
    "m starts at -1e30",
    "The running maximum starts at **-1e30**, and an empty split keeps it as its lse, which has "
    "to be -inf.",
    ('m = tl.full((BLOCK_M,), float("-inf")', "m = tl.full((BLOCK_M,), -1e30"),
)
slip(
    "nothing rescaled",
    "**Neither l nor acc is rescaled** when a block brings a larger maximum. (Or m is already the "
    "new one when alpha is taken, and alpha is always 1.)",
    ("l * alpha +", "l +"),
    ("acc * alpha[:, None] +", "acc +"),
)
slip(
    "l and acc rescaled too late",
    "**alpha multiplies the new block, too**. p is measured from the new maximum already: alpha "
    "belongs to what came before, l and acc.",
    ("l * alpha + tl.sum(p, 1)", "(l + tl.sum(p, 1)) * alpha"),
    (
        'acc * alpha[:, None] + tl.dot(p, v, input_precision="ieee")',
        '(acc + tl.dot(p, v, input_precision="ieee")) * alpha[:, None]',
    ),
)
slip(
    "l rescaled too late",
    "In l, **alpha multiplies the new block, too**. p is measured from the new maximum already: "
    "alpha belongs to the old l alone.",
    ("l * alpha + tl.sum(p, 1)", "(l + tl.sum(p, 1)) * alpha"),
)
slip(
    "acc rescaled too late",
    "In acc, **alpha multiplies the new block, too**. p is measured from the new maximum already: "
    "alpha belongs to the old acc alone.",
    (
        'acc * alpha[:, None] + tl.dot(p, v, input_precision="ieee")',
        '(acc + tl.dot(p, v, input_precision="ieee")) * alpha[:, None]',
    ),
)
slip(
    "alpha inverted",
    "alpha is **upside down**: the old state has to shrink when the maximum grows, by exp(old - "
    "new).",
    ("tl.exp(m - m_new)", "tl.exp(m_new - m)"),
)
slip(
    "weights from the old maximum",
    "The weights are measured **from the old maximum**. Before the first block that is -inf: take "
    "the new one.",
    ("scores - m_new[:, None]", "scores - m[:, None]"),
)
slip(
    "no maximum",
    "**No maximum is subtracted**: scores near 200 overflow, and near -200 all weights vanish.",
    ('m = tl.full((BLOCK_M,), float("-inf"), tl.float32)', "m = tl.zeros((BLOCK_M,), tl.float32)"),
    ("tl.maximum(m, tl.max(scores, 1))", "m"),
)
slip(
    "maximum over the queries",
    "The maximum is taken along **the wrong dimension**: for each key, over the queries. Each "
    "query needs its own, over the keys.",
    ("tl.max(scores, 1)", "tl.max(scores, 0)"),
)
slip(
    "scaled twice",
    "The scores are multiplied by `scale` **twice**: q, or the scores, had it already.",
    ("scale * tl.dot", "scale * scale * tl.dot"),
)
slip(
    "divided by scale",
    "The scores are **divided** by `scale`: it is a factor.",
    ("scale * tl.dot", "1 / scale * tl.dot"),
)
slip(
    "maximum not scaled",
    "The maximum is that of **scores without `scale`**, the weights are made of those with it: "
    "far from 0 they overflow or vanish.",
    ("scale * tl.dot", "tl.dot"),
    ("tl.exp(scores -", "tl.exp(scale * scores -"),
)
slip(
    "K for V",
    "The weights are applied to **K**: V is what they average.",
    ("tl.dot(p, v,", "tl.dot(p, k,"),
)

SPLIT_KERNEL = Exercise.of(
    __name__,
    "9.5 split kernel",
    title="The split kernel",
    section=LOOP,
    needs=("triton",),
    trials=1,
    seconds=60.0,
)
