"""Exercise 6.4's other right answer: base 2, all keys before the diagonal first, then the rest."""

from kernels.runtime import INTERPRETED  # noqa: F401 — before triton: it decides the mode

# isort: split
import triton
import triton.language as tl


@triton.jit
def in_base_2(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, sqb, sqm, sqh, skb, skn, skh, svb, svn, svh,
    Lq, Lk, scale, G, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The scale goes into q, a large negative number stands for -inf, K comes transposed."""
    head, b, dims = tl.program_id(1), tl.program_id(2).to(tl.int64), tl.arange(0, D)
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    kv = head // G
    q_ptrs = q_ptr + b * sqb + head * sqh + i[:, None] * sqm + dims[None, :]
    q = tl.load(q_ptrs, mask=(i < Lq)[:, None], other=0.0) * (scale * 1.4426950408889634)
    m = tl.full((BLOCK_M,), -1e30, tl.float32)
    l, acc = tl.zeros_like(m), tl.zeros((BLOCK_M, D), tl.float32)
    last = i + Lk - Lq
    for block in range(0, tl.cdiv(tl.maximum(tl.minimum(tl.max(last, 0) + 1, Lk), 0), BLOCK_N)):
        j = block * BLOCK_N + tl.arange(0, BLOCK_N)
        k_ptrs = k_ptr + b * skb + kv * skh + j[None, :] * skn + dims[:, None]
        v_ptrs = v_ptr + b * svb + kv * svh + j[:, None] * svn + dims[None, :]
        k = tl.load(k_ptrs, mask=j[None, :] < Lk, other=0.0)
        v = tl.load(v_ptrs, mask=j[:, None] < Lk, other=0.0)
        sees = (j[None, :] <= last[:, None]) & (j[None, :] < Lk)
        s = tl.where(sees, tl.dot(q, k, input_precision="ieee"), float("-inf"))
        top = tl.maximum(m, tl.max(s, 1))
        p = tl.exp2(s - top[:, None])
        acc = tl.dot(p, v, acc * tl.exp2(m - top)[:, None], input_precision="ieee")
        l = l * tl.exp2(m - top) + tl.sum(p, 1)
        m = top
    lse = tl.where(l > 0.0, (m + tl.log2(tl.maximum(l, 1e-30))) / 1.4426950408889634, float("-inf"))
    row = (b * Lq + i) * tl.num_programs(1) + head
    o = acc / tl.where(l > 0.0, l, 1.0)[:, None]
    tl.store(o_ptr + row[:, None] * D + dims[None, :], o, mask=(i < Lq)[:, None])
    tl.store(lse_ptr + row, lse, mask=i < Lq)
