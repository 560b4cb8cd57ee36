"""Exercise 6.1's other right answer, and what people get wrong: one kernel, parts switched off."""

from __future__ import annotations

from course.check.faulty import Faulty
from kernels.runtime import INTERPRETED  # noqa: F401 — before triton: it decides the mode

# isort: split
import triton
import triton.language as tl

NEG_INF = tl.constexpr(float("-inf"))
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _walk(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WRONG: tl.constexpr,
):  # fmt: skip
    """The whole kernel. WRONG names the fault."""
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, D)[None, :]
    q = tl.load(q_ptr + offs_m[:, None] * D + offs_d)
    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, D), tl.float32)
    for tile in range(0, Lk, BLOCK_N):
        offs_n = tile + tl.arange(0, BLOCK_N)
        places, inside = offs_n[:, None] * D + offs_d, offs_n[:, None] < Lk
        k = tl.load(k_ptr + places, mask=inside, other=0.0)
        v = tl.load(v_ptr + places, mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if WRONG != "scale forgotten":
            scores = scores * scale_log2
        if WRONG == "one key too many":
            scores = tl.where(offs_n[None, :] <= Lk, scores, NEG_INF)
        elif WRONG != "tail counted":
            scores = tl.where(offs_n[None, :] < Lk, scores, NEG_INF)
        m_new = tl.maximum(m, tl.max(scores, 1))
        if WRONG == "ruler of the tile" or WRONG == "m never stored":
            m_new = tl.max(scores, 1)
        if WRONG == "no maximum" or WRONG == "no maximum, m untouched":
            m_new = tl.zeros((BLOCK_M,), tl.float32)
        if WRONG == "exp for exp2":
            alpha, p = tl.exp(m - m_new), tl.exp(scores - m_new[:, None])
        else:
            alpha, p = tl.exp2(m - m_new), tl.exp2(scores - m_new[:, None])
        if WRONG == "wrong sign":
            alpha = tl.exp2(m_new - m)
        if WRONG == "no maximum" or WRONG == "no maximum, m untouched":
            alpha = tl.full((BLOCK_M,), 1.0, tl.float32)
        kept, kept_l = acc * alpha[:, None], l * alpha
        if WRONG == "acc not rescaled" or WRONG == "nothing rescaled":
            kept = acc
        if WRONG == "l not rescaled" or WRONG == "nothing rescaled":
            kept_l = l
        l = kept_l + tl.sum(p, 1)
        if WRONG == "new sum rescaled too":
            acc = tl.dot(p, v, acc, input_precision="ieee") * alpha[:, None]
        else:
            acc = tl.dot(p, v, kept, input_precision="ieee")
        if WRONG == "divided in every turn":
            acc = acc / l[:, None]
        if WRONG != "m never stored" and WRONG != "no maximum, m untouched":
            m = m_new
    tl.store(o_ptr + offs_m[:, None] * D + offs_d, acc / l[:, None])
    tl.store(lse_ptr + offs_m, (m + tl.log2(l)) * LN_2)


@triton.jit
def two_passes(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Another right answer: first all maxima, then all sums; q is scaled, not the scores."""
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, D)[None, :]
    q = tl.load(q_ptr + offs_m[:, None] * D + offs_d) * scale_log2
    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, D), tl.float32)
    for tile in range(0, 2 * tl.cdiv(Lk, BLOCK_N)):
        offs_n = tile % tl.cdiv(Lk, BLOCK_N) * BLOCK_N + tl.arange(0, BLOCK_N)
        places, inside = offs_n[:, None] * D + offs_d, offs_n[:, None] < Lk
        k = tl.load(k_ptr + places, mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        scores = tl.where(offs_n[None, :] < Lk, scores, NEG_INF)
        if tile < tl.cdiv(Lk, BLOCK_N):
            m = tl.maximum(m, tl.max(scores, 1))
        else:
            p = tl.exp2(scores - m[:, None])
            v = tl.load(v_ptr + places, mask=inside, other=0.0)
            l += tl.sum(p, 1)
            acc += tl.dot(p, v, input_precision="ieee")
    tl.store(o_ptr + offs_m[:, None] * D + offs_d, acc / l[:, None])
    tl.store(lse_ptr + offs_m, (m + tl.log2(l)) * LN_2)


def faulty(wrong: str) -> Faulty:
    """The kernel with one fault in it; see `_walk` for the names."""
    return Faulty(_walk, wrong)
