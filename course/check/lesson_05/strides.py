"""Exercise 5.3: a kernel with one wrong stride, to be found and fixed."""

from course.check.guards import guarded, poisoned
from course.check.kernel_inputs import randn
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from kernels.runtime import device

# isort: split
import triton
import triton.language as tl

BLOCK_M, BLOCK_N = 8, 16
M, N = 11, 21  # partial tiles at both edges
MASK = "2 · What the mask cuts off"


@right
@triton.jit
def mended_kernel(
    s_ptr, bias_ptr, out_ptr, M, N, stride_sm, stride_sn, stride_bm, stride_bn,
    stride_om, stride_on, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    offs_m = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    offs_n = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    mask = (offs_m < M) & (offs_n < N)
    s = tl.load(s_ptr + offs_m * stride_sm + offs_n * stride_sn, mask=mask)
    bias = tl.load(bias_ptr + offs_m * stride_bm + offs_n * stride_bn, mask=mask)
    tl.store(out_ptr + offs_m * stride_om + offs_n * stride_on, s + bias, mask=mask)


@also_right
@triton.jit
def flat(
    s_ptr, b_ptr, o_ptr, M, N, sm, sn, bm, bn, om, on, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """The tile as one row of BLOCK_M · BLOCK_N places."""
    place = tl.arange(0, BLOCK_M * BLOCK_N)
    m = tl.program_id(0) * BLOCK_M + place // BLOCK_N
    n = tl.program_id(1) * BLOCK_N + place % BLOCK_N
    mask = (m < M) & (n < N)
    s = tl.load(s_ptr + m * sm + n * sn, mask=mask)
    tl.store(o_ptr + m * om + n * on, s + tl.load(b_ptr + m * bm + n * bn, mask=mask), mask=mask)


def drawn(rng, name, rows=M, cols=N, row_gap=0):
    return guarded(randn(rng, rows, cols), name, row_gap=row_gap)


def empty(rows=M, cols=N, row_gap=0):
    return poisoned((rows, cols), name="out", row_gap=row_gap, device=device())


def seen(answer, s, bias, out, given, /, **views):
    """Launch the kernel. views: for s, bias or out, the view to pass instead."""
    a, b, c = (views.get(x.name, x.tensor) for x in (s, bias, out))
    grid = (triton.cdiv(a.shape[0], BLOCK_M), triton.cdiv(a.shape[1], BLOCK_N))
    strides = (*a.stride(), *b.stride(), *c.stride())
    answer[grid](a, b, c, *a.shape, *strides, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N)
    shape = tuple(a.shape)
    text = f"{given}; s {shape}, strides: s {a.stride()}, bias {b.stride()}, out {c.stride()}"
    return Seen(c, a + b, text, names=("out",), guards=(s, bias, out))


@holds("all contiguous, sizes that fit the tiles")
def same_layout(answer, rng):
    s, bias = drawn(rng, "s", 16, 16), drawn(rng, "bias", 16, 16)
    return seen(answer, s, bias, empty(16, 16), "all three contiguous")


@holds("all contiguous, partial tiles at the edges", see=MASK)
def odd_sizes(answer, rng):
    return seen(answer, drawn(rng, "s"), drawn(rng, "bias"), empty(), "all three contiguous")


@holds("the rows of bias are columns in memory")
def transposed_bias(answer, rng):
    s, bias = drawn(rng, "s"), drawn(rng, "bias", N, M)
    return seen(answer, s, bias, empty(), "bias transposed", bias=bias.tensor.T)


@holds("expanded: its row stride is 0")
def one_bias_row(answer, rng):
    s, bias = drawn(rng, "s"), drawn(rng, "bias", 1)
    row = bias.tensor.expand(M, N)
    return seen(answer, s, bias, empty(), "one row of bias for all rows of s", bias=row)


@holds("s with a gap after each row")
def wide_scores(answer, rng):
    s, bias = drawn(rng, "s", row_gap=5), drawn(rng, "bias")
    return seen(answer, s, bias, empty(), "s part of a wider matrix")


@holds("out with a gap, and transposed")
def another_output(answer, rng):
    s, bias, turned = drawn(rng, "s"), drawn(rng, "bias"), empty(N, M)
    return [
        seen(answer, s, bias, empty(row_gap=3), "out part of a wider matrix"),
        seen(answer, s, bias, turned, "out transposed", out=turned.tensor.T),
    ]


slip(
    "as planted",
    "This behaves **as the kernel did before**: the bug is still there. Compare the three "
    "lines with pointers letter by letter, and ask which tensor each stride belongs to.",
    ("offs_m * stride_bm", "offs_m * stride_sm"),
)
slip(
    "bias with the strides of s",
    "Now bias is addressed with **both strides of s**: this is right only if bias is "
    "laid out in memory exactly like s.",
    ("offs_m * stride_bm + offs_n * stride_bn", "offs_m * stride_sm + offs_n * stride_sn"),
)
slip(
    "strides swapped",
    "The two strides of bias are **swapped**: you read its transpose.",
    ("offs_m * stride_bm + offs_n * stride_bn", "offs_m * stride_bn + offs_n * stride_bm"),
)
slip(
    "contiguous taken for granted",
    "Bias is addressed as if it were **contiguous**, with N adjacent entries per "
    "row: its strides may say otherwise.",
    ("offs_m * stride_bm + offs_n * stride_bn", "offs_m * N + offs_n"),
)
slip(
    "out with the strides of s",
    "Bias is fixed, but now **out is written with the strides of s**: the values are "
    "right, but they land in the wrong places.",
    ("offs_m * stride_om + offs_n * stride_on", "offs_m * stride_sm + offs_n * stride_sn"),
)
slip(
    "columns not masked",
    "Only the **rows are masked**: a tile that extends past the right edge reads and "
    "writes the beginning of the next row.",
    ("offs_n < N", "offs_n >= 0"),
    see=MASK,
)
slip(
    "column stride of s",
    "The address of bias still uses **a stride of s**: the rows are fixed, but the columns "
    "now step by the stride of the wrong tensor.",
    ("offs_n * stride_bn", "offs_n * stride_sn"),
)
slip(
    "masks deleted",
    "The masks are gone, or let **too much** through (`|` for `&`, or `<=`): a partial tile reads "
    "and writes what isn't its own.",
    (", mask=mask", ""),
    see=MASK,
)

STRIDES = Exercise.of(
    __name__,
    "5.3 strides",
    title="A planted bug",
    section="3 · From (row, column) to an address",
    needs=("triton",),
    trials=2,
)
