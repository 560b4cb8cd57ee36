"""Exercise 13.3's other right answer: the softmax written out in the loop."""

from kernels.primitives import finalize

# isort: split
import triton
import triton.language as tl


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
