"""Exercise 9.2: the combine kernel."""

import math

import torch

import course.check.lesson_09.combine_kernel_mistakes  # noqa: F401 — marks more mistakes
from course.check.draw import integer
from course.check.guards import guarded, poisoned
from course.check.kernel_inputs import EPS, randn
from course.check.lesson_08.combine import merged
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from kernels.runtime import device

# isort: split
import triton
import triton.language as tl


@right
@triton.jit
def combine_kernel(
    o_partial_ptr,  # (num_splits, rows, D)
    lse_partial_ptr,  # (num_splits, rows)
    o_ptr,  # (rows, D)
    lse_ptr,  # (rows,)
    rows,
    num_splits,
    D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row, offs_s, offs_d = tl.program_id(0), tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    mask_s, mask_d = offs_s < num_splits, offs_d < D
    offs = offs_s * rows + row  # where this row lies in each split
    lse_s = tl.load(lse_partial_ptr + offs, mask=mask_s, other=float("-inf"))
    o_s = tl.load(
        o_partial_ptr + offs[:, None] * D + offs_d[None, :],
        mask=mask_s[:, None] & mask_d[None, :],
        other=0.0,
    )
    m = tl.max(lse_s, 0)
    ruler = tl.where(m == float("-inf"), 0.0, m)  # -inf - (-inf) is NaN
    w = tl.exp(lse_s - ruler)
    l = tl.sum(w, 0)
    l_safe = tl.where(l == 0.0, 1.0, l)
    tl.store(o_ptr + row * D + offs_d, tl.sum(w[:, None] * o_s, 0) / l_safe, mask=mask_d)
    tl.store(lse_ptr + row, m + tl.log(l_safe))


@also_right
@triton.jit
def split_by_split(
    o_partial_ptr, lse_partial_ptr, o_ptr, lse_ptr, rows, num_splits,
    D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The online merge of lesson 03, one split after another."""
    row = tl.program_id(0)
    offs_d = tl.arange(0, BLOCK_D)
    m, l, acc = float("-inf"), 0.0, tl.zeros((BLOCK_D,), tl.float32)
    for s in range(0, num_splits):
        lse_s = tl.load(lse_partial_ptr + s * rows + row)
        o_s = tl.load(o_partial_ptr + (s * rows + row) * D + offs_d, mask=offs_d < D, other=0.0)
        m_new = tl.maximum(m, lse_s)
        ruler = tl.where(m_new == float("-inf"), 0.0, m_new)
        alpha, w = tl.exp(m - ruler), tl.exp(lse_s - ruler)
        m, l, acc = m_new, l * alpha + w, acc * alpha + w * o_s
    safe = tl.where(l == 0.0, 1.0, l)
    tl.store(o_ptr + row * D + offs_d, acc / safe, mask=offs_d < D)
    tl.store(lse_ptr + row, m + tl.log(safe))


@also_right
@triton.jit
def two_passes(
    o_partial_ptr, lse_partial_ptr, o_ptr, lse_ptr, rows, num_splits,
    D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A plain softmax: the maximum of all splits first, and then the sums."""
    row = tl.program_id(0)
    offs_d = tl.arange(0, BLOCK_D)
    m, l, acc = float("-inf"), 0.0, tl.zeros((BLOCK_D,), tl.float32)
    for s in range(0, num_splits):
        m = tl.maximum(m, tl.load(lse_partial_ptr + s * rows + row))
    ruler = tl.where(m == float("-inf"), 0.0, m)
    for s in range(0, num_splits):
        w = tl.exp(tl.load(lse_partial_ptr + s * rows + row) - ruler)
        o_s = tl.load(o_partial_ptr + (s * rows + row) * D + offs_d, mask=offs_d < D, other=0.0)
        l, acc = l + w, acc + w * o_s
    safe = tl.where(l == 0.0, 1.0, l)
    tl.store(o_ptr + row * D + offs_d, acc / safe, mask=offs_d < D)
    tl.store(lse_ptr + row, m + tl.log(safe))


def seen(answer, o, lse, given, S=0, D=0, splits=0, **near):
    """Launch on o (S, rows, D), lse (S, rows), in poison; S, D: block sizes if larger than those.

    splits: how many there are, if the tensors have room for more. near: the tolerances, if others
    than here.

    A sum of S terms is off by at most S roundings. An lse of size 200 is itself only known to
    200 roundings, and so are the weights made from it.
    """
    room, rows, width = o.shape
    splits = splits or room
    ins = guarded(o, "o_partial"), guarded(lse, "lse_partial")
    outs = [poisoned(x.shape[1:], name=n, device=device()) for x, n in ((o, "o"), (lse, "lse"))]
    tensors = [x.tensor for x in (*ins, *outs)]
    answer[(rows,)](*tensors, rows, splits, D=width, BLOCK_S=S or room, BLOCK_D=D or width)
    size = max(1.0, lse[lse.isfinite()].abs().max().item()) if lse.isfinite().any() else 1.0
    bound = EPS * (splits + 4)
    return Seen(
        tuple(x.tensor for x in outs),
        merged(o[:splits], lse[:splits]),
        given,
        names=("o", "lse"),
        guards=(*ins, *outs),
        **near or {"atol": bound * size * max(1.0, o.abs().max().item()), "rtol": bound},
    )


def partials(rng, S, rows, D):
    """Return random partials o (S, rows, D) and lse (S, rows), lse around 5."""
    return randn(rng, S, rows, D), 5.0 + 2.0 * randn(rng, S, rows)


@holds("lesson 08's three splits, and an empty one")
def by_hand(answer, rng):
    o = torch.tensor([4.0, 3.0, 12.0, 0.0], device=device()).view(4, 1, 1).expand(4, 1, 2)
    lse = torch.tensor([[4.0], [10.0], [2.0], [0.0]], device=device()).log()
    return seen(answer, o, lse, "o = 4, 3, 12, 0 and lse = log [4, 10, 2, 0]")


@holds("the tensors fill their blocks exactly, with splits or with rubbish")
def full_blocks(answer, rng):
    S = integer(rng, 5, 6)  # with 7, one split too many would be all that the block holds
    given = f"S = {S} in a block of 8, 2 rows, D = 8; numbers, not NaN, lie after the last split"
    return [
        seen(answer, *partials(rng, 4, 5, 8), "S = 4, 5 rows, D = 8: the blocks are full"),
        seen(answer, *partials(rng, 8, 2, 8), given, splits=S),
    ]


@holds("S and D smaller than their blocks, with NaN around")
def odd_sizes(answer, rng):
    S, D = integer(rng, 5, 7), integer(rng, 5, 7)
    given = f"S = {S} in a block of 8, 3 rows, D = {D} in a block of 8"
    return seen(answer, *partials(rng, S, 3, D), given, S=8, D=8)


@holds("dozens of splits, a wider o")
def large_blocks(answer, rng):
    S, D = integer(rng, 33, 60), integer(rng, 17, 31)
    given = f"S = {S} in a block of 64, 2 rows, D = {D} in a block of 32"
    return seen(answer, *partials(rng, S, 2, D), given, S=64, D=32)


@holds("a single split comes out as it went in")
def one_split(answer, rng):
    """Not even 1e-6 in a denominator may change it."""
    near = {"atol": 1e-7, "rtol": 4 * EPS}
    return seen(answer, *partials(rng, 1, 2, 3), "S = 1, 2 rows, D = 3", D=4, **near)


@holds("lse around ±1000, in all splits or in one")
def far_from_zero(answer, rng):
    """Too far for fp64; and where one split lies far from the first, that one is no ruler."""
    o, lse = partials(rng, 4, 2, 8)
    alone = torch.zeros_like(lse)
    alone[0, 0], alone[2, 1] = -1000.0, 1000.0
    cases = (1000.0, "around 1000"), (-1000.0, "around −1000"), (alone, "one far from the others")
    return [seen(answer, o, lse + x, f"lse: {told}") for x, told in cases]


@holds("empty splits anywhere")
def some_empty(answer, rng):
    o, lse = partials(rng, 4, 3, 8)
    for split, row in ((0, 0), (3, 1), (1, 2), (2, 2)):
        o[split, row], lse[split, row] = 0.0, -math.inf
    return seen(answer, o, lse, "some empty splits: o = 0, lse = -inf")


@holds("a row of empty splits gives (0, −inf)")
def all_empty(answer, rng):
    o, lse = partials(rng, 3, 3, 8)
    o[:, 1], lse[:, 1] = 0.0, -math.inf
    return seen(answer, o, lse, "only empty splits in the middle row of three", S=4)


slip(
    "mean",
    "o is the plain **mean** of the splits. Each split must count by the total weight of its "
    "keys, and that is what its lse tells you.",
    ("tl.sum(w[:, None] * o_s, 0) / l_safe", "tl.sum(o_s, 0) / num_splits"),
)
slip(
    "no max",
    "The exponentials are taken **without subtracting the largest lse** first: around 1000 "
    "they overflow, around −1000 they vanish, in fp64 as well.",
    ('tl.where(m == float("-inf"), 0.0, m)', "0.0"),
    ("m + tl.log", "tl.log"),
)
slip(
    "no max, plain sum",
    "**The largest lse is not subtracted** before the exponentials: around 1000 they overflow "
    "to inf, and inf / inf is NaN. And where the sum is 0, o is 0 / 0.",
    ('tl.where(m == float("-inf"), 0.0, m)', "0.0"),
    ("tl.where(l == 0.0, 1.0, l)", "l"),
    ("m + tl.log", "tl.log"),
)
slip(
    "no max, plain log",
    "The exponentials are taken of the **raw lse**. Subtract the largest lse first, and add "
    "it back at the end: otherwise 1000 overflows and −1000 counts for nothing.",
    ('tl.where(m == float("-inf"), 0.0, m)', "0.0"),
    ("m + tl.log(l_safe)", "tl.log(l)"),
)
slip(
    "padding counts",
    "The lanes past the last split are loaded as **0**, and an lse of 0 means a split with "
    "the weight e⁰ = 1. A lane without a split should look like an empty split.",
    ('other=float("-inf")', "other=0.0"),
)
slip(
    "empty",
    "A row whose splits are **all empty** gives NaN: −inf − (−inf), or nothing is stored for it. "
    "Store (0, −inf); only the subtraction needs a stand-in for the maximum.",
    ('tl.where(m == float("-inf"), 0.0, m)', "m"),
)
slip(
    "0 / 0",
    "A row whose splits are **all empty** gives o = NaN: its weights sum to 0, and 0 / 0 is "
    "not a number.",
    ("tl.where(l == 0.0, 1.0, l)", "l"),
)
slip(
    "swapped",
    "The partials are stored **split by split**: row r of split s is number s · rows + r. "
    "Your kernel reads number r · num_splits + s.",
    ("offs_s * rows + row", "row * num_splits + offs_s"),
)
slip(
    "lse without max",
    "lse is only the logarithm of the sum. The sum was measured from the largest lse, which "
    "has to be **added back**.",
    ("m + tl.log", "tl.log"),
)
slip(
    "base 2",
    "exp2 and log2 are used on lse values, which are **natural** logarithms. Base 2 is used "
    "inside the split kernel and nowhere else.",
    ("tl.exp(", "tl.exp2("),
    ("tl.log(", "tl.log2("),
    see="4 · The split kernel, retyped",
)
slip(
    "not normalised",
    "o is the weighted sum, but **not divided** by the sum of the weights.",
    (" / l_safe", ""),
)
slip(
    "divided by S",
    "The weighted sum is divided by the **number of splits**, not by the sum of the weights.",
    ("/ l_safe", "/ num_splits"),
)
slip(
    "lse stored in base 2",
    "The lse that is stored is in **base 2**. Base 2 may be used inside a kernel; what leaves it "
    "is a natural logarithm.",
    ("m + tl.log(l_safe)", "(m + tl.log(l_safe)) * 1.4426950408889634"),
)
slip(
    "lse half in base 2",
    "lse adds a **logarithm in base 2** to a maximum in natural units. Both have to be natural.",
    ("tl.log(", "tl.log2("),
)
slip(
    "exp2 of natural",
    "The weights are **powers of 2**, but lse is a natural logarithm: its weights are powers of e.",
    ("tl.exp(", "tl.exp2("),
)
slip(
    "empty lse 0",
    "A row whose splits are all **empty gets a finite lse**: the stand-in for the maximum is added "
    "back, and the log of the safe sum is 0. Its lse is −inf.",
    ("m + tl.log", "ruler + tl.log"),
)
slip(
    "ruler at least 0",
    "The maximum **starts at 0** instead of −inf. Where all lse are far below 0, every exponential "
    "vanishes, and an empty row gets lse = 0.",
    ("m = tl.max(lse_s, 0)", "m = tl.maximum(tl.max(lse_s, 0), 0.0)"),
)
slip(
    "lse is m",
    "What is stored as lse is **the largest lse** of the splits. The other splits count too: add "
    "the logarithm of the sum.",
    ("m + tl.log(l_safe)", "m"),
)
slip(
    "first split as ruler",
    "The **first split's lse** is subtracted, not the largest: where another is far above it, the "
    "exponentials overflow.",
    ("m = tl.max(lse_s, 0)", "m = tl.load(lse_partial_ptr + row)"),
)
slip(
    "one split too many",
    "The mask is **off by one**: splits are numbered 0 to num_splits − 1, so `<=` lets in one that "
    "is not there.",
    ("offs_s < num_splits", "offs_s <= num_splits"),
)
slip(
    "one split too few",
    "The mask leaves out the **last split**.",
    ("offs_s < num_splits", "offs_s < num_splits - 1"),
)
slip(
    "BLOCK_D for D",
    "Rows are taken to be **BLOCK_D** numbers apart. The tensors have D numbers a row; only the "
    "block is wider.",
    ("offs[:, None] * D", "offs[:, None] * BLOCK_D"),
    ("row * D", "row * BLOCK_D"),
)
slip(
    "o stored too wide",
    "The store of o has **no mask on D**: its last lanes write into the next row.",
    (" / l_safe, mask=mask_d", " / l_safe"),
)
slip(
    "no width",
    "The o of row i begins at element **i · D** of `o_partial`, not at element i: each row "
    "has D numbers.",
    ("offs[:, None] * D", "offs[:, None]"),
)
slip(
    "no lse",
    "o is right, but **lse is never stored**. Any further merge needs it, too.",
    ("    tl.store(lse_ptr + row, m + tl.log(l_safe))\n", ""),
)

COMBINE = Exercise.of(
    __name__,
    "9.2 combine kernel",
    title="The combine, as a kernel",
    section="5 · The combine kernel",
    needs=("triton",),
    trials=1,
)
