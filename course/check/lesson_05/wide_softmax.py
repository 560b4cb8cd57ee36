"""Exercise 5.2: softmax of rows wider than a block."""

import warnings

import torch

from course.check.compare import complain
from course.check.draw import integer
from course.check.guards import guarded, poisoned
from course.check.lesson_05.backwards import backwards
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip
from kernels.runtime import device
from reference.attention import safe_softmax

# isort: split
import triton
import triton.language as tl

EPS = torch.finfo(torch.float32).eps
BLOCK = 16
MASK = "2 · What the mask cuts off"
STRIDE = "3 · From (row, column) to an address"


@right
@triton.jit
def wide_softmax_kernel(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride_xr
    p_ptr += row * stride_pr
    m = float("-inf")
    ruler = 0.0  # m, or 0 as long as m is -inf
    l = 0.0
    for start in range(0, cols, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=float("-inf"))
        m_new = tl.maximum(m, tl.max(x, 0))
        ruler = tl.where(m_new == float("-inf"), 0.0, m_new)
        l = l * tl.exp(m - ruler) + tl.sum(tl.exp(x - ruler), 0)
        m = m_new
    l = tl.where(l == 0.0, 1.0, l)
    for start in range(0, cols, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=float("-inf"))
        tl.store(p_ptr + offs, tl.exp(x - ruler) / l, mask=offs < cols)


also_right(backwards)


def seen(answer, x, given, gaps=(8, 8), block=BLOCK):
    """Launch one program per row. gaps: entries of NaN after each row of x, and of p."""
    rows, cols = x.shape
    src = guarded(x.to(device()), "x", row_gap=gaps[0])
    p = poisoned((rows, cols), name="p", row_gap=gaps[1], device=device())
    strides = src.tensor.stride(0), p.tensor.stride(0)
    with warnings.catch_warnings():  # the report says it better than numpy's warning on stderr
        warnings.simplefilter("ignore", RuntimeWarning)
        answer[(rows,)](src.tensor, p.tensor, cols, *strides, BLOCK=block)
    largest = x[x.isfinite()].abs().max().item() if x.isfinite().any() else 0.0
    wanted = safe_softmax(x.double())[0].float()
    return Seen(
        p.tensor,
        wanted,
        f"{given}: x ({rows}, {cols}), BLOCK = {block}, row strides {strides}",
        names=("p",),
        guards=(src, p),
        # relative to the largest p: two rounded exponents, a sum of cols terms and a division
        atol=EPS * (cols + 4 * largest + 2) * wanted.max().item(),
        rtol=0.0,
    )


def largest_last(x):
    """Make sure that each row's maximum moves in its last block, whatever was drawn."""
    x[:, -1] = x.amax(1) + 1.0
    return x


@holds("cols is BLOCK: as in the lesson")
def one_block(answer, rng):
    return seen(answer, torch.randn(2, BLOCK, generator=rng), "one block per row")


@holds("cols is four times BLOCK")
def many_blocks(answer, rng):
    x = largest_last(torch.randn(2, 4 * BLOCK, generator=rng))
    return seen(answer, x, "four blocks per row")


@holds("cols is not a multiple of BLOCK", see=MASK)
def a_tail(answer, rng):
    cols = int(torch.randint(2 * BLOCK + 1, 3 * BLOCK, (1,), generator=rng))
    return seen(answer, largest_last(torch.randn(2, cols, generator=rng)), "a partial last block")


@holds("one column, and fewer than BLOCK", see=MASK)
def narrow_rows(answer, rng):
    """A single number is small: then the tolerance is, too, and p is 1."""
    few = torch.randn(2, integer(rng, 2, BLOCK - 1), generator=rng)
    one = torch.rand(2, 1, generator=rng) / 8
    return [seen(answer, x, "less than a block per row") for x in (one, few)]


@holds("thousands of columns, and another BLOCK")
def wide_rows(answer, rng):
    """More than 128 blocks, and more than 2¹⁷ columns: no fixed number of either will do."""
    blocks = torch.randn(1, 128 * 32 + integer(rng, 1, 500), generator=rng)
    columns = torch.randn(1, 2**17 + integer(rng, 1, 5000), generator=rng)
    small = seen(answer, blocks, "many small blocks", block=32)
    if complain(small):  # a loop with the wrong step would take a minute for the others
        return small
    return [small, seen(answer, columns, "large blocks", block=4096)]


@holds("later blocks have larger numbers")
def the_maximum_moves(answer, rng):
    x = torch.randn(2, 3 * BLOCK, generator=rng) + torch.arange(3 * BLOCK) / 4
    return seen(answer, x, "a new maximum in every block")


@holds("gaps after the rows, different in x and p", see=STRIDE)
def rows_apart(answer, rng):
    x = torch.randn(3, 2 * BLOCK + 5, generator=rng)
    return [seen(answer, x, "gaps after the rows", gaps) for gaps in ((8, 3), (0, 11))]


@holds("numbers near -200, near 200, and both in one block")
def far_from_zero(answer, rng):
    both = torch.tensor([-200.0, 200.0]).repeat(20)
    shifts = torch.stack([both[:1].expand(40), both[1:2].expand(40), both])
    return seen(answer, torch.randn(3, 40, generator=rng) + shifts, "far from zero")


@holds("a whole block of masked numbers", name="a block of -inf")
def a_block_of_infinities(answer, rng):
    x = torch.randn(2, 3 * BLOCK - 3, generator=rng)
    x[0, :BLOCK] = x[1, BLOCK:] = -torch.inf
    return seen(answer, x, "a whole block of -inf")


@holds("gives zeros, not NaN", name="a row of -inf")
def a_row_of_infinities(answer, rng):
    x = torch.randn(2, 2 * BLOCK, generator=rng)
    x[1] = -torch.inf
    return seen(answer, x, "the second row all -inf")


slip(
    "a fixed width",
    "The row is taken to be **at most so many blocks wide**: what lies behind is not read, and p "
    "is not written there. Rows may have any number of columns, so the loop goes on to `cols`.",
    ("range(0, cols, BLOCK)", "range(0, 64 * BLOCK, BLOCK)"),
)
slip(
    "sum not rescaled",
    "The old sum is **not rescaled** when a block brings a larger maximum: it still counts "
    "exponentials measured from the old one.",
    ("l * tl.exp(m - ruler) + ", "l + "),
)


@mistake(
    "The result is written **in the first pass**, with the maximum and the sum of the blocks seen "
    "so far. Those of the whole row are known only after the last block."
)
@triton.jit
def written_too_early(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    m = float("-inf")
    l = 0.0
    for start in range(0, cols, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=float("-inf"))
        m_new = tl.maximum(m, tl.max(x, 0))
        ruler = tl.where(m_new == float("-inf"), 0.0, m_new)
        e = tl.exp(x - ruler)
        l = l * tl.exp(m - ruler) + tl.sum(e, 0)
        tl.store(p_ptr + offs, e / tl.where(l == 0.0, 1.0, l), mask=offs < cols)
        m = m_new


slip(
    "one block only",
    "Only the **first block** of each row is read; the rest of p is never written.",
    ("range(0, cols, BLOCK)", "range(0, BLOCK, BLOCK)"),
)
slip(
    "masked lanes are zero",
    "Lanes past the end are loaded **as 0**, and exp(0 - m) is not 0: a different number adds "
    "nothing to a sum of exponentials.",
    ('other=float("-inf")', "other=0.0"),
    see=MASK,
)
slip(
    "mask of the block",
    "The mask compares the **place in the block** with cols, not the place in the row: it cuts "
    "nothing off, and the last block reads past the end.",
    ("mask=offs < cols", "mask=offs - start < cols"),
    see=MASK,
)
slip(
    "-inf minus -inf",
    "A block of nothing but -inf gives **-inf - (-inf), which is NaN**, and the sum never "
    "recovers. As long as the maximum is -inf, subtract something finite.",
    ('tl.where(m_new == float("-inf"), 0.0, m_new)', "m_new"),
)
slip(
    "zero by zero",
    "A row of nothing but -inf has the sum 0, and **0 / 0 is NaN**: every other row is right.",
    ("tl.where(l == 0.0, 1.0, l)", "l"),
)
slip(
    "partial block left out",
    "The number of blocks is rounded **down**: the columns after the last whole block are neither "
    "summed nor written.",
    ("range(0, cols, BLOCK)", "range(0, cols // BLOCK * BLOCK, BLOCK)"),
    see=MASK,
)
slip(
    "one column too many",
    "The mask lets **one column past the end** through (<= for <): the last one is cols - 1.",
    ("offs < cols", "offs <= cols"),
    see=MASK,
)
slip(
    "last column left out",
    "The mask cuts off **the last column** of every row: all below cols belong to it.",
    ("offs < cols", "offs < cols - 1"),
    see=MASK,
)
slip(
    "maximum starts at 0",
    "The running maximum **starts at 0**, so in a row of numbers near -200 it stays there and "
    "every exponential is 0. Start with -inf, which any number exceeds.",
    ('    m = float("-inf")\n', "    m = 0.0\n"),
)
slip(
    "the smallest number",
    "What is subtracted is **the smallest number of a block**, not the largest. A number more than "
    "88 above it overflows in exp; measured from the largest, none exceeds 1.",
    ("tl.max(x, 0)", "tl.min(x, 0)"),
)
slip(
    "something added to the sum",
    "A small number **is added to the sum**, against 0 / 0: then no row adds up to 1. Leave the "
    "sum alone unless it is 0.",
    ("tl.where(l == 0.0, 1.0, l)", "l + 1e-6"),
)
slip(
    "exp2 for exp",
    "The exponentials are powers of **2**, not of e.",
    ("tl.exp(", "tl.exp2("),
)
slip(
    "not divided",
    "The exponentials are **not divided by their sum**: the largest is 1 in every row.",
    ("tl.exp(x - ruler) / l", "tl.exp(x - ruler)"),
)
slip(
    "rows without strides",
    "Row r is taken to start at **r · cols**. If there are gaps between rows, it starts further "
    "on, at r times the row stride.",
    ("row * stride_xr", "row * cols"),
    ("row * stride_pr", "row * cols"),
    see=STRIDE,
)
slip(
    "p with the stride of x",
    "p is written with the **row stride of x**, but p has its own.",
    ("row * stride_pr", "row * stride_xr"),
    see=STRIDE,
)
slip(
    "store not masked",
    "The **store has no mask** (and perhaps the load before it has none either): the last block "
    "overwrites what lies after the row of p.",
    ("/ l, mask=offs < cols", "/ l"),
    see=MASK,
)
slip(
    "no maximum",
    "**No maximum is subtracted**: near 200 the exponentials overflow, near -200 they are all 0.",
    ('tl.where(m_new == float("-inf"), 0.0, m_new)', "0.0"),
    ("l * tl.exp(m - ruler)", "l"),
)


@mistake(
    "Each block is divided by **its own** sum, so a row of four blocks adds up to 4, not to 1. The "
    "sum has to be carried from block to block."
)
@triton.jit
def softmax_of_each_block(x_ptr, p_ptr, cols, stride_xr, stride_pr, BLOCK: tl.constexpr):
    x_ptr += tl.program_id(0) * stride_xr
    p_ptr += tl.program_id(0) * stride_pr
    for start in range(0, cols, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < cols, other=float("-inf"))
        m = tl.max(x, 0)
        e = tl.exp(x - tl.where(m == float("-inf"), 0.0, m))
        l = tl.sum(e, 0)
        tl.store(p_ptr + offs, e / tl.where(l == 0.0, 1.0, l), mask=offs < cols)


slip(
    "maximum of the last block",
    "The new maximum is that of the **block alone**; the old one is ignored. A block of nothing "
    "but -inf then wipes out everything before it.",
    ("tl.maximum(m, tl.max(x, 0))", "tl.max(x, 0)"),
)
slip(
    "maximum not kept",
    "**m is never set** to the new maximum: it stays -inf, and every block rescales the old sum by "
    "exp(-inf), which is 0.",
    ("        m = m_new\n", ""),
)
slip(
    "always the first block",
    "The loop runs, but its offsets **don't depend on `start`**: every step reads the first block "
    "again.",
    ("start + tl.arange", "tl.arange"),
)

WIDE_SOFTMAX = Exercise.of(
    __name__,
    "5.2 wide softmax",
    title="Rows wider than a block",
    section="4 · Softmax in one trip",
    needs=("triton",),
    trials=1,
)
