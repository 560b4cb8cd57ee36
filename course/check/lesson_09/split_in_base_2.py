"""Exercise 9.5's other right answer: in base 2, by block numbers, K loaded as its transpose."""

from kernels.runtime import INTERPRETED  # noqa: F401 — before triton: it decides the mode

# isort: split
import triton
import triton.language as tl


@triton.jit
def in_base_2(
    q_ptr, k_ptr, v_ptr, lengths_ptr, o_ptr, lse_ptr,
    stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    scale, G, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """In base 2, by block numbers, K loaded as its transpose, a large negative number for -inf."""
    kv_head, b, Hq = tl.program_id(1), tl.program_id(2), tl.num_programs(1) * G
    offs_m, dims, keys = tl.arange(0, BLOCK_M), tl.arange(0, D), tl.arange(0, BLOCK_N)
    length = tl.load(lengths_ptr + b)
    blocks = tl.cdiv(length, BLOCK_N)
    each = tl.cdiv(blocks, tl.num_programs(0))
    first = tl.program_id(0) * each
    here, mine = b * Hq + kv_head * G + offs_m, offs_m[:, None] < G
    q = tl.load(q_ptr + here[:, None] * D + dims[None, :], mask=mine, other=0.0)
    q *= scale * 1.4426950408889634
    m = tl.full((BLOCK_M,), -1e30, tl.float32)
    l, acc = tl.zeros_like(m), tl.zeros((BLOCK_M, D), tl.float32)
    for block in range(first, tl.minimum(first + each, blocks)):
        j = block * BLOCK_N + keys
        k_ptrs = k_ptr + b * stride_kb + kv_head * stride_kh + j[None, :] * stride_kn
        v_ptrs = v_ptr + b * stride_vb + kv_head * stride_vh + j[:, None] * stride_vn
        k = tl.load(k_ptrs + dims[:, None], mask=j[None, :] < length, other=0.0)
        v = tl.load(v_ptrs + dims[None, :], mask=j[:, None] < length, other=0.0)
        s = tl.where(j[None, :] < length, tl.dot(q, k, input_precision="ieee"), float("-inf"))
        top = tl.maximum(m, tl.max(s, 1))
        p = tl.exp2(s - top[:, None])
        acc = tl.dot(p, v, acc * tl.exp2(m - top)[:, None], input_precision="ieee")
        l = l * tl.exp2(m - top) + tl.sum(p, 1)
        m = top
    lse = tl.where(l > 0.0, (m + tl.log2(tl.maximum(l, 1e-30))) / 1.4426950408889634, float("-inf"))
    place = tl.program_id(0) * tl.num_programs(2) * Hq + here
    o = acc / tl.where(l > 0.0, l, 1.0)[:, None]
    tl.store(o_ptr + place[:, None] * D + dims[None, :], o, mask=mine)
    tl.store(lse_ptr + place, lse, mask=offs_m < G)
