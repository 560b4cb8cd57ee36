"""Exercise 6.4: the whole forward kernel of FlashAttention-2."""

import math

import torch

from course.check.draw import integer
from course.check.guards import guarded, poisoned
from course.check.kernel_inputs import EPS
from course.check.lesson_06.forward_in_base_2 import in_base_2
from course.check.lesson_06.forward_mistakes import CAUSAL, HEADS, LOOP
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from kernels.runtime import device
from reference.attention import oracle

# isort: split
import triton
import triton.language as tl


@right
@triton.jit
def forward_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, stride_qb, stride_qm, stride_qh,
    stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    Lq, Lk, scale, G, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tile, head, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    # 1. Which queries
    offs_m, offs_d = tile * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, D)[None, :]
    mask_m = offs_m < Lq
    q_ptr += b * stride_qb + head * stride_qh
    q = tl.load(q_ptr + offs_m[:, None] * stride_qm + offs_d, mask=mask_m[:, None], other=0.0)
    # 2. Which keys: those up to the last that any row of the tile sees
    k_ptr += b * stride_kb + head // G * stride_kh
    v_ptr += b * stride_vb + head // G * stride_vh
    stop = tl.minimum((tile + 1) * BLOCK_M + (Lk - Lq), Lk)
    # 3. The loop
    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l, acc = tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, D), tl.float32)
    for start_n in range(0, stop, BLOCK_N):
        offs_n = start_n + tl.arange(0, BLOCK_N)
        inside = offs_n[:, None] < Lk
        k = tl.load(k_ptr + offs_n[:, None] * stride_kn + offs_d, mask=inside, other=0.0)
        v = tl.load(v_ptr + offs_n[:, None] * stride_vn + offs_d, mask=inside, other=0.0)
        scores = scale * tl.dot(q, tl.trans(k), input_precision="ieee")
        seen = offs_n[None, :] <= offs_m[:, None] + (Lk - Lq)
        scores = tl.where(seen, scores, float("-inf"))
        m_new = tl.maximum(m, tl.max(scores, 1))
        ruler = tl.where(m_new == float("-inf"), 0.0, m_new)  # a row may have seen nothing yet
        alpha = tl.exp(m - ruler)
        p = tl.exp(scores - ruler[:, None])
        l = l * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None] + tl.dot(p, v, input_precision="ieee")
        m = m_new
    # 4. What is left: o (B, Lq, Hq, D) and lse (B, Lq, Hq)
    l_safe = tl.where(l == 0.0, 1.0, l)
    row = (b * Lq + offs_m) * tl.num_programs(1) + head
    tl.store(o_ptr + row[:, None] * D + offs_d, acc / l_safe[:, None], mask=mask_m[:, None])
    tl.store(lse_ptr + row, m + tl.log(l_safe), mask=mask_m)


also_right(in_base_2)


def ask(answer, rng, *, Lq, Lk, B=1, Hkv=1, G=1, D=16, block=(16, 16), scale=None, **more):
    """Launch (query tiles, Hq, B) programs on random inputs.

    more: gaps (NaN after the rows of q, k and v), shift (added to the scores, from one block of 16
    keys to the next).
    A score is a sum of D products, off by (D + 1) roundings of the sum of their sizes; that is the
    relative error of a weight, and o and lse sum up to Lk of them.
    """
    q = torch.randn(B, Lq, Hkv * G, D, generator=rng)
    k, v = torch.randn(2, B, Lk, Hkv, D, generator=rng)
    scale = D**-0.5 if scale is None else scale
    if "shift" in more:
        places = torch.arange(k.shape[1]) // 16 % len(more["shift"])  # 16 keys each
        q[..., 0], k[..., 0] = 1.0, torch.tensor(more["shift"])[places][:, None] / scale
    wanted = [x.float() for x in oracle(q, k, v, causal=True, scale=scale)]
    size = scale * D * q.abs().max().item() * k.abs().max().item()
    near = EPS * ((D + 2) * size + Lk + 8) * 2 * max(1.0, v.abs().max().item())
    ins = [
        guarded(x.to(device()), name, row_gap=gap)
        for x, name, gap in zip((q, k, v), "qkv", more.get("gaps", (0, 0, 0)), strict=True)
    ]
    o = poisoned((B, Lq, Hkv * G, D), name="o", device=device())
    lse = poisoned((B, Lq, Hkv * G), name="lse", device=device())
    tensors = [x.tensor for x in (*ins, o, lse)]
    strides = [n for x in ins for n in x.tensor.stride()[:3]]
    constants = {"D": D, "BLOCK_M": block[0], "BLOCK_N": block[1]}
    grid = (math.ceil(Lq / block[0]), Hkv * G, B)
    answer[grid](*tensors, *strides, Lq, Lk, scale, G, **constants)
    return Seen(
        (o.tensor, lse.tensor),
        tuple(wanted),
        f"B = {B}, Lq = {Lq}, Lk = {Lk}, Hkv = {Hkv}, G = {G}, D = {D}, blocks {block}",
        names=("o", "lse"),
        guards=(*ins, o, lse),
        atol=near,
        rtol=0.0,
    )


@holds("one tile of queries after 32 keys that all of them see")
def one_program(answer, rng):
    return ask(answer, rng, Lq=16, Lk=48)


@holds("as many queries as keys: the diagonal", see=CAUSAL)
def causal(answer, rng):
    return ask(answer, rng, Lq=48, Lk=48, block=(16, 32))


@holds("lengths that no block divides, fewer queries than keys", see=CAUSAL)
def ragged(answer, rng):
    one_left = ask(answer, rng, Lq=16, Lk=17)  # the last tile of keys has a single one
    return [one_left, ask(answer, rng, Lq=integer(rng, 17, 31), Lk=integer(rng, 50, 63))]


@holds("the first rows see no key: o = 0, lse = -inf", see=CAUSAL)
def more_queries_than_keys(answer, rng):
    return ask(answer, rng, Lq=40, Lk=integer(rng, 17, 22))


@holds("scores near 200 and near -200", see=LOOP)
def far_from_zero(answer, rng):
    shifts = (200.0,), (-200.0,), (200.0, -200.0, 200.0)
    return [ask(answer, rng, Lq=16, Lk=48, scale=1.0, shift=shift) for shift in shifts]


@holds("two KV heads for six query heads, two rows in a batch", see=HEADS)
def heads_and_batch(answer, rng):
    return ask(answer, rng, B=2, Lq=5, Lk=20, Hkv=2, G=3)


@holds("gaps after the rows, different in q, k and v", see=HEADS)
def strides(answer, rng):
    return ask(answer, rng, B=2, Lq=5, Lk=20, Hkv=2, G=2, gaps=(4, 12, 8))


@holds("several D, blocks and scales")
def sizes(answer, rng):
    scale = 0.2 + 0.3 * torch.rand((), generator=rng).item()
    return [
        ask(answer, rng, Lq=40, Lk=130, D=64, block=(32, 16), scale=scale),
        ask(answer, rng, Lq=20, Lk=100, D=32, block=(16, 64), scale=2 * scale),
    ]


slip(
    "o not normalised",
    "o is still the **plain weighted sum**: divide it by l at the end.",
    ("acc / l_safe[:, None]", "acc"),
)
slip(
    "lse in base 2",
    "lse is **in base 2**: what leaves the kernel is a natural logarithm.",
    ("m + tl.log(l_safe)", "(m + tl.log(l_safe)) * 1.4426950408889634"),
)
slip(
    "lse without m",
    "lse is **the logarithm of l alone**. l is measured from the row's maximum: add m.",
    ("m + tl.log(l_safe)", "tl.where(l == 0.0, float('-inf'), tl.log(l_safe))"),
)
slip(
    "lse is m",
    "What is stored as lse is **the maximum**: add the logarithm of l.",
    ("m + tl.log(l_safe)", "m"),
)
slip(
    "zero by zero",
    "A row that sees no key has l = 0, and **0 / 0 is NaN**: divide by 1 there.",
    ("tl.where(l == 0.0, 1.0, l)", "l"),
    see=CAUSAL,
)
slip(
    "-inf minus -inf",
    "A row that has seen nothing yet has the maximum −inf, and **−inf − (−inf) is NaN**. Subtract "
    "something finite as long as that is so.",
    ('tl.where(m_new == float("-inf"), 0.0, m_new)', "m_new"),
    see=CAUSAL,
)
slip(
    "m starts at 0",
    "The running maximum **starts at 0**: where all scores are far below, every exponential "
    "vanishes, and a row without keys gets lse = 0.",
    ('m = tl.full((BLOCK_M,), float("-inf"), tl.float32)', "m = tl.zeros((BLOCK_M,), tl.float32)"),
)
slip(
    "acc not rescaled",
    "**acc is not rescaled** when a block brings a larger maximum.",
    ("acc * alpha[:, None] +", "acc +"),
)
slip(
    "l not rescaled",
    "**l is not rescaled** when a block brings a larger maximum.",
    ("l * alpha +", "l +"),
)
slip(
    "m not kept",
    "**m is never set** to the new maximum, so each block rescales what came before by 0.",
    ("        m = m_new\n", ""),
)
slip(
    "maximum of the block",
    "The new maximum is that of **the block alone**. If it is lower than the old one, what came "
    "before is enlarged, and overflows: take the larger of both.",
    ("tl.maximum(m, tl.max(scores, 1))", "tl.max(scores, 1)"),
)
slip("not scaled", "The scores are **not multiplied by `scale`**.", ("scale * tl.dot", "tl.dot"))
slip(
    "scale of the lesson",
    "The scores are divided by **√D**, whatever `scale` says.",
    ("scale * tl.dot", "D**-0.5 * tl.dot"),
)
slip(
    "no causal mask",
    "Every query sees **all keys**, the later ones, too: the mask along the diagonal is missing.",
    (
        "offs_n[None, :] <= offs_m[:, None] + (Lk - Lq)",
        "offs_n[None, :] < Lk + 0 * offs_m[:, None]",
    ),
    ("(tile + 1) * BLOCK_M + (Lk - Lq)", "Lk"),
    see=CAUSAL,
)
slip(
    "mask only in the last tiles",
    "The loop stops where the tile's last row stops, but the rows before it see **keys that come "
    "after them**: the mask along the diagonal is missing.",
    (
        "offs_n[None, :] <= offs_m[:, None] + (Lk - Lq)",
        "offs_n[None, :] < Lk + 0 * offs_m[:, None]",
    ),
    see=CAUSAL,
)
slip(
    "aligned top left",
    "Query i sees the keys up to **i**. The queries are the newest tokens: query i stands at "
    "position i + Lk − Lq.",
    ("offs_m[:, None] + (Lk - Lq)", "offs_m[:, None]"),
    ("(tile + 1) * BLOCK_M + (Lk - Lq)", "(tile + 1) * BLOCK_M"),
    see=CAUSAL,
)
slip(
    "not its own key",
    "A query **does not see its own key**: the mask is off by one.",
    ("offs_n[None, :] <= offs_m", "offs_n[None, :] < offs_m"),
    see=CAUSAL,
)
slip(
    "stops too early",
    "The loop **stops too early**: at the first row's last key, and the others see more.",
    ("(tile + 1) * BLOCK_M + (Lk - Lq)", "tile * BLOCK_M + (Lk - Lq)"),
    see=CAUSAL,
)
slip(
    "the last key left out",
    "The loop stops **one key too early**: where the last key of a tile's last query stands alone "
    "in a block, it is never reached.",
    ("(tile + 1) * BLOCK_M + (Lk - Lq)", "(tile + 1) * BLOCK_M - 1 + (Lk - Lq)"),
    see=CAUSAL,
)
slip(
    "masked keys score 0",
    "Keys that are not seen have **a score of 0**, and so the weight e⁰. Only −inf has no weight.",
    ('tl.where(seen, scores, float("-inf"))', "tl.where(seen, scores, 0.0)"),
)
slip(
    "V not masked",
    "V is loaded **without a mask**: past the last key lies NaN, and 0 · NaN is NaN.",
    ("stride_vn + offs_d, mask=inside, other=0.0", "stride_vn + offs_d"),
)
slip(
    "a KV head for each query head",
    "Query head h reads **KV head h**. There are fewer: G adjacent query heads share one.",
    ("head // G", "head"),
    see=HEADS,
)
slip(
    "interleaved heads",
    "The KV head is the **remainder** modulo Hkv. A group is G adjacent heads: divide by G.",
    ("head // G", "head % (tl.num_programs(1) // G)"),
    see=HEADS,
)
slip(
    "K and V of the first row",
    "K and V are always those of **batch row 0**.",
    ("k_ptr += b * stride_kb + ", "k_ptr += "),
    ("v_ptr += b * stride_vb + ", "v_ptr += "),
    see=HEADS,
)
slip(
    "q of the first row",
    "q is always that of **batch row 0**.",
    ("q_ptr += b * stride_qb + ", "q_ptr += "),
    see=HEADS,
)
slip(
    "V with the strides of K",
    "V is addressed with **the strides of K**. It has its own.",
    ("stride_vb + head // G * stride_vh", "stride_kb + head // G * stride_kh"),
    ("* stride_vn", "* stride_kn"),
    see=HEADS,
)
slip(
    "rows past the end stored",
    "Rows past Lq are **stored**, too: they overwrite what is not theirs. Mask both stores.",
    ("acc / l_safe[:, None], mask=mask_m[:, None]", "acc / l_safe[:, None]"),
    ("tl.log(l_safe), mask=mask_m", "tl.log(l_safe)"),
)
slip(
    "the first tile only",
    "Every program takes **the first tile of queries**: where a tile begins depends on the first "
    "number of the grid.",
    ("tile, head, b = tl.program_id(0), ", "tile, head, b = tl.program_id(0) * 0, "),
)

FORWARD = Exercise.of(
    __name__,
    "6.4 forward kernel",
    title="FlashAttention-2, all of it",
    section=LOOP,
    needs=("triton",),
    trials=1,
    seconds=60.0,
)
