"""Exercise 6.1: one tile of keys, inside the loop of the kernel."""

import torch

from course.check.draw import integer
from course.check.guards import poisoned
from course.check.lesson_06.fp32_attention import drawn, inside_nan, launch, tolerance
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from kernels.primitives import LOG2_E, finalize
from kernels.runtime import device
from reference.attention import oracle

# isort: split
import triton
import triton.language as tl

D, BLOCK_M, BLOCK_N = 32, 16, 32  # D is not BLOCK_M, so a forgotten [:, None] fails
SCALE = 0.125
EXP2 = "2 · One instruction for exp"


@right
@triton.jit
def one_tile_kernel(
    q_ptr,  # (Lq, D), contiguous; Lq a multiple of BLOCK_M
    k_ptr,  # (Lk, D), contiguous
    v_ptr,  # (Lk, D), contiguous
    o_ptr,  # (Lq, D)
    lse_ptr,  # (Lq,)
    Lk,
    scale_log2,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, D)[None, :]
    q = tl.load(q_ptr + offs_m[:, None] * D + offs_d)
    m_log2 = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, D), tl.float32)
    for tile in range(0, Lk, BLOCK_N):
        offs_n = tile + tl.arange(0, BLOCK_N)
        inside = offs_n[:, None] < Lk
        k = tl.load(k_ptr + offs_n[:, None] * D + offs_d, mask=inside, other=0.0)
        v = tl.load(v_ptr + offs_n[:, None] * D + offs_d, mask=inside, other=0.0)
        scores_log2 = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        scores_log2 = tl.where(offs_n[None, :] < Lk, scores_log2, float("-inf"))
        m_new_log2 = tl.maximum(m_log2, tl.max(scores_log2, 1))
        alpha = tl.exp2(m_log2 - m_new_log2)  # from the old ruler to the new
        p = tl.exp2(scores_log2 - m_new_log2[:, None])
        l = l * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None] + tl.dot(p, v, input_precision="ieee")
        m_log2 = m_new_log2
    o, lse = finalize(m_log2, l, acc)
    tl.store(o_ptr + offs_m[:, None] * D + offs_d, o)
    tl.store(lse_ptr + offs_m, lse)


@also_right
@triton.jit
def two_passes(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """First all maxima, then all sums; q is scaled, not the scores."""
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
        scores = tl.where(offs_n[None, :] < Lk, scores, float("-inf"))
        if tile < tl.cdiv(Lk, BLOCK_N):
            m = tl.maximum(m, tl.max(scores, 1))
        else:
            p = tl.exp2(scores - m[:, None])
            v = tl.load(v_ptr + places, mask=inside, other=0.0)
            l += tl.sum(p, 1)
            acc += tl.dot(p, v, input_precision="ieee")
    tl.store(o_ptr + offs_m[:, None] * D + offs_d, acc / l[:, None])
    tl.store(lse_ptr + offs_m, (m + tl.log2(l)) * 0.6931471805599453)  # ln 2


def seen(answer, q, k, v, given, scale=SCALE, block_n=BLOCK_N):
    """Launch one program per 16 queries; inputs lie inside NaN, outputs start as NaN."""
    (Lq, D), Lk = q.shape, len(k)
    ins = inside_nan(q, k, v)
    o, lse = (poisoned(s, name=n, device=device()) for s, n in (((Lq, D), "o"), ((Lq,), "lse")))
    tensors = [x.tensor for x in (*ins, o, lse)]
    constants = {"D": D, "BLOCK_M": BLOCK_M, "BLOCK_N": block_n}
    launch(answer, (Lq // BLOCK_M,), *tensors, Lk, scale * LOG2_E, **constants)
    wanted_o, wanted_lse = oracle(*(x[None, :, None] for x in (q, k, v)), scale=scale)
    return Seen(
        (o.tensor, lse.tensor),
        (wanted_o[0, :, 0].float(), wanted_lse[0, :, 0].float()),
        f"{given}: Lq = {Lq}, Lk = {Lk}, D = {D}, BLOCK_N = {block_n}, scale = {scale:.2f}",
        names=("o", "lse"),
        guards=(*ins, o, lse),
        atol=tolerance(q, k, v, scale),
        rtol=0.0,
    )


def qkv(rng, Lq, Lk, D=D):
    return drawn(rng, (Lq, D), (Lk, D), (Lk, D))


def aimed(rng, *targets):
    """q, k, v whose scores at SCALE are near the target of their tile."""
    q, k, v = qkv(rng, BLOCK_M, len(targets) * BLOCK_N)
    q[:, 0], k[:, 0] = 1.0, torch.tensor(targets).repeat_interleave(BLOCK_N) / SCALE
    return q, k, v


@holds("Lk is BLOCK_N: the loop runs once")
def one_tile(answer, rng):
    """Once more with one key far above the others, which every other row does not notice."""
    q, k, v = aimed(rng, -200.0)
    k[integer(rng, 1, BLOCK_N - 1), 0], q[1::2, 0] = 200.0 / SCALE, 0.0
    return [
        seen(answer, *qkv(rng, 16, BLOCK_N), "all keys in one tile"),
        seen(answer, q, k, v, "in every other row, one score near 200 and the others near -200"),
    ]


@holds("every tile brings a larger score")
def maxima_rise(answer, rng):
    return seen(answer, *aimed(rng, 0.0, 3.0, 6.0), "a new maximum in every tile")


@holds("the first tile has the largest scores")
def maxima_fall(answer, rng):
    return seen(answer, *aimed(rng, 6.0, 0.0), "the largest scores first")


@holds("scores near 150, then near -150")
def steep_fall(answer, rng):
    return seen(answer, *aimed(rng, 150.0, -150.0), "scores near 150, then near -150")


@holds("scores near -150, then near 150")
def steep_rise(answer, rng):
    q, k, v = aimed(rng, -150.0, 150.0)
    apart = q * torch.where(torch.arange(BLOCK_M) % 2 == 0, 1.0, -1.0)[:, None]
    return [
        seen(answer, q, k, v, "scores near -150, then near 150"),
        seen(answer, apart, k, v, "the same, and the reverse in every other row"),
    ]


@holds("Lk is not a multiple of BLOCK_N")
def a_tail(answer, rng):
    Lk = integer(rng, BLOCK_N + 1, 2 * BLOCK_N - 2)
    q, k, v = qkv(rng, 16, Lk)
    k[integer(rng, 0, BLOCK_N)] = 0.0  # a key whose score is 0, as that of a key past the end
    return seen(answer, q, k, v, "a partial last tile")


@holds("nothing but scores near -150")
def a_low_tail(answer, rng):
    """Whatever stands for a key past the end must be lower still."""
    q, k, v = aimed(rng, -150.0, -150.0)
    Lk = integer(rng, BLOCK_N + 1, 2 * BLOCK_N - 2)
    return seen(answer, q, k[:Lk], v[:Lk], "scores near -150, a partial last tile")


@holds("another D and BLOCK_N, and a long walk")
def many_tiles(answer, rng):
    tensors = qkv(rng, 16, 16 * integer(rng, 10, 12) + integer(rng, 1, 15), 64)
    return seen(answer, *tensors, "more than ten tiles", 0.2, block_n=16)


@holds("32 queries and a random scale")
def two_programs(answer, rng):
    scale = 0.1 + 0.3 * torch.rand(1, generator=rng).item()
    return seen(answer, *qkv(rng, 32, 40), "two programs, another scale", scale)


slip(
    "acc not rescaled",
    "l moves to the new ruler, but **acc is not rescaled**: it is still measured from the "
    "old maximum.",
    ("acc * alpha[:, None]", "acc"),
)
slip(
    "l not rescaled",
    "acc moves to the new ruler, but **l is not rescaled**: the division at the end "
    "then divides by a sum on two different rulers.",
    ("l * alpha", "l"),
)
slip(
    "nothing rescaled",
    "Neither l nor acc moves to the new ruler. If you did compute alpha, m_log2 was "
    "**overwritten beforehand**, so the difference is 0.",
    ("acc * alpha[:, None]", "acc"),
    ("l * alpha", "l"),
)
slip(
    "new sum rescaled too",
    "alpha multiplies the **sum of old and new**, but what this tile adds to acc is "
    "already on the new ruler. Only the old acc has to move.",
    ("acc * alpha[:, None] + ", "alpha[:, None] * (acc + "),
    ('tl.dot(p, v, input_precision="ieee")', 'tl.dot(p, v, input_precision="ieee"))'),
)
slip(
    "divided in every turn",
    "acc is **divided by l in every iteration**. It must hold an undivided sum: finalize "
    "does the only division, after the last tile.",
    ("m_log2 = m_new_log2\n", "m_log2, acc = m_new_log2, acc / l[:, None]\n"),
)
slip(
    "exp for exp2",
    "The scores are already in base 2, but here **exp** is applied to them: scale_log2 "
    "contains log2(e), so the matching function is exp2.",
    ("tl.exp2", "tl.exp"),
    see=EXP2,
)
slip(
    "scale forgotten",
    "The scores are **not scaled**: multiply q · k by scale_log2 before doing "
    "anything else with it.",
    (" * scale_log2", ""),
    see=EXP2,
)
slip(
    "tail counted",
    "Keys past the end are loaded as 0, so their score is 0, and **exp2(0 - m) is not 0**: "
    "give them a score that adds nothing.",
    ('tl.where(offs_n[None, :] < Lk, scores_log2, float("-inf"))', "scores_log2"),
)
slip(
    "not low enough",
    "Keys past the end get a **score that is low, but not -inf**: where all the others are lower, "
    "they take the whole softmax.",
    ('scores_log2, float("-inf"))', "scores_log2, -100.0)"),
)
slip(
    "told by their score",
    "Keys past the end are recognised **by a score of 0**, but a key that exists may have that, "
    "too. Their number tells: it is not below Lk.",
    ("offs_n[None, :] < Lk", "scores_log2 != 0.0"),
)
slip(
    "last key left out",
    "The mask cuts off **the last key**: keys are counted from 0, so it is Lk - 1, and below Lk.",
    ("offs_n[None, :] < Lk", "offs_n[None, :] < Lk - 1"),
)
slip(
    "log2(e) twice",
    "The scores are multiplied by **log2(e) once more**: scale_log2 contains it.",
    (" * scale_log2", " * scale_log2 * 1.4426950408889634"),
    see=EXP2,
)
slip(
    "a fixed scale",
    "The scores are multiplied by **1/√D**, but the scale is what the caller says: scale_log2.",
    (" * scale_log2", " * (1.4426950408889634 * D**-0.5)"),
    see=EXP2,
)
slip(
    "acc not carried",
    "acc is **set, not added to**: only the last tile's values are left.",
    ("acc * alpha[:, None] + ", ""),
)
slip(
    "one key too many",
    "The mask lets **one key past the end** through: keys are counted from 0, so the "
    "last one is Lk - 1.",
    ("offs_n[None, :] < Lk", "offs_n[None, :] <= Lk"),
)
slip(
    "wrong sign",
    "Nothing but NaN comes out. Either alpha has the **wrong sign** (the old maximum minus the new "
    "one is never above 0: alpha shrinks the old sums), or the **smaller** of the two maxima is "
    "kept, which stays -inf.",
    ("m_log2 - m_new_log2)", "m_new_log2 - m_log2)"),
)
slip(
    "ruler of the tile",
    "The ruler is the maximum **of this tile alone**. If a later tile is much lower, alpha "
    "is huge and overflows; the running maximum only ever rises.",
    ("tl.maximum(m_log2, tl.max(scores_log2, 1))", "tl.max(scores_log2, 1)"),
)
slip(
    "not the largest",
    "The tile's ruler is **not its largest score**, but the smallest, or that of some key. Where "
    "another lies far above it, exp2 overflows: measured from the largest, no power is above 1.",
    ("tl.max(scores_log2, 1)", "tl.min(scores_log2, 1)"),
)
slip(
    "one ruler for all rows",
    "The maximum is taken over **the whole tile**, so all rows get the same ruler. A row whose own "
    "scores are far below it is left with nothing but zeros: each row has its own maximum.",
    ("tl.max(scores_log2, 1)", "tl.max(scores_log2)"),
)
slip(
    "m never stored",
    "The new maximum is used, but **m_log2 never gets it**: in the next iteration "
    "the old one is still -inf, so alpha is 0 and wipes out all that came before.",
    ("        m_log2 = m_new_log2\n", ""),
)
slip(
    "no maximum",
    "There is **no maximum**: exp2 of the bare scores is summed, and that overflows if "
    "scores are large.",
    ("tl.maximum(m_log2, tl.max(scores_log2, 1))", "tl.zeros((BLOCK_M,), tl.float32)"),
)
slip(
    "no maximum, m untouched",
    "exp2 of the bare scores is summed, **without a maximum**, and m_log2 stays -inf, so "
    "lse does too.",
    ("tl.maximum(m_log2, tl.max(scores_log2, 1))", "tl.zeros((BLOCK_M,), tl.float32)"),
    ("tl.exp2(m_log2 - m_new_log2)", "tl.full((BLOCK_M,), 1.0, tl.float32)"),
    ("        m_log2 = m_new_log2\n", ""),
)

TILE = Exercise.of(
    __name__,
    "6.1 one tile",
    title="The body of the loop",
    section="3 · The loop over the keys",
    needs=("triton",),
    trials=1,
)
