"""Exercise 13.3: the split kernel reads an int8 cache, and folds the scales of its tokens."""

import course.check.lesson_13.quantized_kernel_mistakes  # noqa: F401 — marks the mistakes
from course.check.draw import integer
from course.check.lesson_13.quantized_kernel_mistakes import FOLDING, SHAPES
from course.check.lesson_13.quantized_launch import ask
from course.check.spec import Exercise, also_right, holds, right
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


@also_right
@triton.jit
def the_softmax_inline(
    q_ptr, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr, lengths_ptr, o_ptr, lse_ptr,
    stride_b, stride_n, stride_h, stride_sb, stride_sn, stride_sh,
    scale_log2, G, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Scales found before the loop, the softmax written out, v_scale relative to its largest."""
    split, kv_head, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    S, Hkv, B = tl.num_programs(0), tl.num_programs(1), tl.num_programs(2)
    length = tl.load(lengths_ptr + b)
    chunk = tl.cdiv(tl.cdiv(length, BLOCK_N), S) * BLOCK_N
    start = tl.minimum(split * chunk, length)
    stop = tl.minimum(start + chunk, length)
    offs_m, offs_d = tl.arange(0, BLOCK_M)[:, None], tl.arange(0, D)[None, :]
    row = (b * Hkv + kv_head) * G + offs_m
    q = tl.load(q_ptr + row * D + offs_d, mask=offs_m < G, other=0.0)
    m_log2 = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l, acc = tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, D), tl.float32)
    k_scale_ptr += b * stride_sb + kv_head * stride_sh
    v_scale_ptr += b * stride_sb + kv_head * stride_sh
    for start_n in range(start, stop, BLOCK_N):
        offs_n = start_n + tl.arange(0, BLOCK_N)
        mask_n = offs_n < stop
        cells = b * stride_b + offs_n[:, None] * stride_n + kv_head * stride_h + offs_d
        k = tl.load(k_ptr + cells, mask=mask_n[:, None], other=0).to(tl.float32)
        v = tl.load(v_ptr + cells, mask=mask_n[:, None], other=0).to(tl.float32)
        factor = scale_log2 * tl.load(k_scale_ptr + offs_n * stride_sn, mask=mask_n, other=0.0)
        scores_log2 = tl.dot(q, tl.trans(k), input_precision="ieee") * factor[None, :]
        scores_log2 += tl.where(mask_n, 0.0, float("-inf"))[None, :]
        m_new = tl.maximum(m_log2, tl.max(scores_log2, 1))
        alpha = tl.exp2(m_log2 - m_new)
        p = tl.exp2(scores_log2 - m_new[:, None])
        l, m_log2 = l * alpha + tl.sum(p, 1), m_new
        v_scale = tl.load(v_scale_ptr + offs_n * stride_sn, mask=mask_n, other=0.0)
        largest = tl.max(v_scale, 0)
        weighed = tl.dot(p * (v_scale / largest)[None, :], v, input_precision="ieee")
        acc = acc * alpha[:, None] + largest * weighed
    o, lse = finalize(m_log2, l, acc)
    place = split * (B * Hkv * G) + row
    tl.store(o_ptr + place * D + offs_d, o, mask=offs_m < G)
    tl.store(lse_ptr + place, lse[:, None], mask=offs_m < G)


@holds("one head, one row, one split; whole blocks")
def one_program(answer, rng):
    return ask(answer, rng, lengths=[48])


@holds("the keys' scales differ, all those of the values are 1/64", see=FOLDING)
def scales_of_keys(answer, rng):
    return ask(answer, rng, lengths=[integer(rng, 33, 47)], G=2, v_scale=[1 / 64])


@holds("the values' scales differ, all those of the keys are 1/64", see=FOLDING)
def scales_of_values(answer, rng):
    return ask(answer, rng, lengths=[integer(rng, 33, 47)], G=2, k_scale=[1 / 64])


@holds("the last block is not full; NaN after the last scale")
def a_ragged_end(answer, rng):
    """With room for a whole block after the last key, and with none."""
    return [ask(answer, rng, lengths=[integer(rng, 33, 47)], room=room) for room in (20, 0)]


@holds("three rows of different lengths, one of them empty", see=SHAPES)
def batch_and_lengths(answer, rng):
    return ask(answer, rng, lengths=[integer(rng, 17, 31), 0, integer(rng, 33, 50)])


@holds("two KV heads; gaps in the scales, and another layout", see=SHAPES)
def heads_and_strides(answer, rng):
    return [
        ask(answer, rng, lengths=[20, 33], Hkv=2, G=2, gap=4),
        ask(answer, rng, lengths=[20, 33], Hkv=2, G=2, gap=3, heads_first=True),
    ]


@holds("as many query heads in the tile as keys in a block", see=FOLDING)
def square_tiles(answer, rng):
    return ask(answer, rng, lengths=[integer(rng, 33, 47)], G=16)


@holds("each split its own keys; several D and BLOCK_N")
def splits(answer, rng):
    return [
        ask(answer, rng, lengths=[130, 70], S=3, G=2),
        ask(answer, rng, lengths=[integer(rng, 17, 31), 1], S=5, Hkv=2),
        ask(answer, rng, lengths=[100], S=2, D=32, block_n=32),
    ]


@holds("scales a million times as large as others", see=FOLDING)
def far_apart(answer, rng):
    return [
        ask(answer, rng, lengths=[40], G=3, k_scale=[1.0, 1e-6, 0.02], v_scale=[1e-6, 1.0]),
        ask(answer, rng, lengths=[40], G=3, k_scale=[1e-6, 1.0], v_scale=[0.01, 0.3, 1e-6]),
    ]


QUANTIZED_KERNEL = Exercise.of(
    __name__,
    "13.3 quantized kernel",
    title="Fold the scales in the kernel",
    section=FOLDING,
    needs=("triton",),
    trials=1,
    seconds=60.0,
)
