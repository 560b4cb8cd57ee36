"""Exercise 5.2: softmax of rows wider than a block."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from course.check import lesson_05_softmax_answers as answers
from course.check import lesson_05_softmax_slips as slips
from course.check.guards import guarded, poisoned
from course.check.spec import Exercise, Mistake, Property, Seen
from kernels.runtime import device
from reference.attention import safe_softmax

EPS = torch.finfo(torch.float32).eps
BLOCK = 16
MASK = "2 · What the mask cuts off"
STRIDE = "3 · From (row, column) to an address"


def _seen(answer: Callable, x: Tensor, given: str, gaps: tuple[int, int] = (8, 8)) -> Seen:
    """Launch one program per row. gaps: entries of NaN after each row of x, and of p."""
    rows, cols = x.shape
    src = guarded(x.to(device()), "x", row_gap=gaps[0])
    p = poisoned((rows, cols), name="p", row_gap=gaps[1], device=device())
    strides = src.tensor.stride(0), p.tensor.stride(0)
    with warnings.catch_warnings():  # the report says it better than numpy's warning on stderr
        warnings.simplefilter("ignore", RuntimeWarning)
        answer[(rows,)](src.tensor, p.tensor, cols, *strides, BLOCK=BLOCK)
    largest = x[x.isfinite()].abs().max().item() if x.isfinite().any() else 0.0
    return Seen(
        p.tensor,
        safe_softmax(x.double())[0].float(),
        f"{given}: x ({rows}, {cols}), BLOCK = {BLOCK}, row strides {strides}",
        names=("p",),
        guards=(src, p),
        # each p ≤ 1: two rounded exponents, a sum of cols terms and a division
        atol=EPS * (cols + 4 * largest + 2),
        rtol=0.0,
    )


def _draw(rng: Generator, rows: int, cols: int) -> Tensor:
    return torch.randn(rows, cols, generator=rng)


def _largest_last(x: Tensor) -> Tensor:
    """Make sure that each row's maximum moves in its last block, whatever was drawn."""
    x[:, -1] = x.amax(1) + 1.0
    return x


def _one_block(answer, rng):
    return _seen(answer, _draw(rng, 2, BLOCK), "one block per row")


def _many_blocks(answer, rng):
    return _seen(answer, _largest_last(_draw(rng, 2, 4 * BLOCK)), "four blocks per row")


def _a_tail(answer, rng):
    cols = int(torch.randint(2 * BLOCK + 1, 3 * BLOCK, (1,), generator=rng))
    return _seen(answer, _largest_last(_draw(rng, 2, cols)), "a partial last block")


def _rising(answer, rng):
    x = _draw(rng, 2, 3 * BLOCK) + torch.arange(3 * BLOCK) / 4
    return _seen(answer, x, "a new maximum in every block")


def _rows_apart(answer, rng):
    x = _draw(rng, 3, 2 * BLOCK + 5)
    return [_seen(answer, x, "gaps after the rows", gaps) for gaps in ((8, 3), (0, 11))]


def _very_low(answer, rng):
    return [_seen(answer, _draw(rng, 1, 40) + shift, "far from zero") for shift in (-200.0, 200.0)]


def _masked_block(answer, rng):
    x = _draw(rng, 2, 3 * BLOCK - 3)
    x[0, :BLOCK] = x[1, BLOCK:] = -torch.inf
    return _seen(answer, x, "a whole block of -inf")


def _masked_row(answer, rng):
    x = _draw(rng, 2, 2 * BLOCK)
    x[1] = -torch.inf
    return _seen(answer, x, "the second row all -inf")


WIDE_SOFTMAX = Exercise(
    id="5.2",
    name="wide softmax",
    title="Rows wider than a block",
    section="4 · Softmax in one trip",
    solution_name="wide_softmax_kernel",
    properties=(
        Property("one block", "cols is BLOCK: as in the lesson", _one_block),
        Property("many blocks", "cols is four times BLOCK", _many_blocks),
        Property("a tail", "cols is not a multiple of BLOCK", _a_tail, MASK),
        Property("the maximum moves", "later blocks have larger numbers", _rising),
        Property("rows apart", "gaps after the rows, different in x and p", _rows_apart, STRIDE),
        Property("far from zero", "numbers near -200 and near 200", _very_low),
        Property("a block of -inf", "a whole block of masked numbers", _masked_block),
        Property("a row of -inf", "gives zeros, not NaN", _masked_row),
    ),
    mistakes=(
        Mistake(
            "sum not rescaled",
            "The old sum is **not rescaled** when a block brings a larger maximum: it still counts "
            "exponentials measured from the old one.",
            answers.not_rescaled,
        ),
        Mistake(
            "written too early",
            "The result is written **in the first pass**, with the maximum and the sum of the "
            "blocks seen so far. Those of the whole row are known only after the last block.",
            answers.written_too_early,
        ),
        Mistake(
            "one block only",
            "Only the **first block** of each row is read; the rest of p is never written.",
            answers.first_block_only,
        ),
        Mistake(
            "masked lanes are zero",
            "Lanes past the end are loaded **as 0**, and exp(0 - m) is not 0: a different number "
            "adds nothing to a sum of exponentials.",
            answers.zero_lanes,
            see=MASK,
        ),
        Mistake(
            "mask of the block",
            "The mask compares the **place in the block** with cols, not the place in the row: it "
            "cuts nothing off, and the last block reads past the end.",
            answers.mask_of_the_block,
            see=MASK,
        ),
        Mistake(
            "-inf minus -inf",
            "A block of nothing but -inf gives **-inf - (-inf), which is NaN**, and the sum never "
            "recovers. As long as the maximum is -inf, subtract something finite.",
            answers.no_ruler,
        ),
        Mistake(
            "zero by zero",
            "A row of nothing but -inf has the sum 0, and **0 / 0 is NaN**: every other row is "
            "right.",
            answers.zero_by_zero,
        ),
        Mistake(
            "not divided",
            "The exponentials are **not divided by their sum**: the largest is 1 in every row.",
            answers.not_divided,
        ),
        Mistake(
            "rows without strides",
            "Row r is taken to start at **r · cols**. If there are gaps between rows, it starts "
            "further on, at r times the row stride.",
            answers.no_strides,
            see=STRIDE,
        ),
        Mistake(
            "p with the stride of x",
            "p is written with the **row stride of x**, but p has its own.",
            answers.one_stride,
            see=STRIDE,
        ),
        Mistake(
            "store not masked",
            "The **store has no mask** (and perhaps the load before it has none either): the last "
            "block overwrites what lies after the row of p.",
            slips.store_not_masked,
            see=MASK,
        ),
        Mistake(
            "no maximum",
            "**No maximum is subtracted**: near 200 the exponentials overflow, near -200 they are "
            "all 0.",
            slips.no_maximum,
        ),
        Mistake(
            "softmax of each block",
            "Each block is divided by **its own** sum, so a row of four blocks adds up to 4, not "
            "to 1. The sum has to be carried from block to block.",
            slips.each_block,
        ),
        Mistake(
            "maximum of the last block",
            "The new maximum is that of the **block alone**; the old one is ignored. A block of "
            "nothing but -inf then wipes out everything before it.",
            slips.maximum_of_the_block,
        ),
        Mistake(
            "maximum not kept",
            "**m is never set** to the new maximum: it stays -inf, and every block rescales the "
            "old sum by exp(-inf), which is 0.",
            slips.maximum_not_kept,
        ),
        Mistake(
            "always the first block",
            "The loop runs, but its offsets **don't depend on `start`**: every step reads the "
            "first block again.",
            slips.without_start,
        ),
    ),
    alternative=answers.backwards,
    needs=("triton",),
    trials=1,
)
