"""Exercise 9.2: the combine kernel. Its properties and the mistakes people make."""

import math

import torch
from torch import Generator, Tensor

from course.check.faulty import EPS, Faulty, randn
from course.check.guards import guarded, poisoned
from course.check.spec import Exercise, Mistake, Property, Seen
from kernels.runtime import device  # before triton: it decides the mode

# isort: split
import triton
import triton.language as tl

SECTION = "5 · The combine kernel"


def merged(o_partial: Tensor, lse_partial: Tensor) -> tuple[Tensor, Tensor]:
    """Return the combined (o, lse), computed in fp64: the reference."""
    lse = torch.logsumexp(lse_partial.double(), 0)
    weights = torch.exp(lse_partial.double() - torch.where(lse == -math.inf, 0.0, lse))
    return (weights[..., None] * o_partial.double()).sum(0).float(), lse.float()


def ask(answer: object, o: Tensor, lse: Tensor, given: str = "", S: int = 0, D: int = 0) -> Seen:
    """Launch on o (S, rows, D), lse (S, rows), in poison; S, D: block sizes if larger than those.

    A sum of S terms is off by at most S roundings. An lse of size 200 is itself only known to
    200 roundings, and so are the weights made from it.
    """
    num_splits, rows, width = o.shape
    ins = guarded(o, "o_partial"), guarded(lse, "lse_partial")
    outs = [poisoned(x.shape[1:], name=n, device=device()) for x, n in ((o, "o"), (lse, "lse"))]
    tensors = [x.tensor for x in (*ins, *outs)]
    answer[(rows,)](
        *tensors, rows, num_splits, D=width, BLOCK_S=S or num_splits, BLOCK_D=D or width
    )
    size = max(1.0, lse[lse.isfinite()].abs().max().item()) if lse.isfinite().any() else 1.0
    bound = EPS * (num_splits + 4)
    return Seen(
        tuple(x.tensor for x in outs), merged(o, lse), given, names=("o", "lse"),
        guards=(*ins, *outs), atol=bound * size * max(1.0, o.abs().max().item()), rtol=bound,
    )  # fmt: skip


def partials(rng: Generator, S: int, rows: int, D: int) -> tuple[Tensor, Tensor]:
    """Return random partials o (S, rows, D) and lse (S, rows), lse around 5."""
    return randn(rng, S, rows, D), 5.0 + 2.0 * randn(rng, S, rows)


def _by_hand(answer: object, rng: Generator) -> Seen:
    o = torch.tensor([4.0, 3.0, 12.0, 0.0], device=device()).view(4, 1, 1).expand(4, 1, 2)
    lse = torch.tensor([[4.0], [10.0], [2.0], [0.0]], device=device()).log()
    return ask(answer, o, lse, "o = 4, 3, 12, 0 and lse = log [4, 10, 2, 0]")


def _random(answer: object, rng: Generator) -> Seen:
    return ask(answer, *partials(rng, 4, 5, 8), "S = 4, 5 rows, D = 8: the blocks are full")


def _odd(answer: object, rng: Generator) -> Seen:
    given = "S = 5 in a block of 8, 3 rows, D = 6 in a block of 8"
    return ask(answer, *partials(rng, 5, 3, 6), given, S=8, D=8)


def _far(answer: object, rng: Generator) -> list[Seen]:
    o, lse = partials(rng, 4, 2, 8)
    return [ask(answer, o, lse + x, f"lse around {x + 5:g}") for x in (200.0, -200.0)]


def _some_empty(answer: object, rng: Generator) -> Seen:
    o, lse = partials(rng, 4, 3, 8)
    for split, row in ((0, 0), (3, 1), (1, 2), (2, 2)):
        o[split, row], lse[split, row] = 0.0, -math.inf
    return ask(answer, o, lse, "some empty splits: o = 0, lse = -inf")


def _all_empty(answer: object, rng: Generator) -> Seen:
    o, lse = partials(rng, 3, 3, 8)
    o[:, 1], lse[:, 1] = 0.0, -math.inf
    return ask(answer, o, lse, "only empty splits in the middle row of three", S=4)


@triton.jit
def _split_by_split(
    o_partial_ptr, lse_partial_ptr, o_ptr, lse_ptr, rows, num_splits,
    D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Another correct answer: the online merge of lesson 03, one split after another."""
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


@triton.jit
def _faulty(
    o_partial_ptr, lse_partial_ptr, o_ptr, lse_ptr, rows, num_splits,
    D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, WRONG: tl.constexpr,
):  # fmt: skip
    """All splits in one block, with one of the catalogued faults."""
    row, offs_s, offs_d = tl.program_id(0), tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    mask_s, mask_d = offs_s < num_splits, offs_d < D
    offs = row * num_splits + offs_s if WRONG == "swapped" else offs_s * rows + row
    padding = 0.0 if WRONG == "padding counts" else float("-inf")
    lse_s = tl.load(lse_partial_ptr + offs, mask=mask_s, other=padding)
    mask = mask_s[:, None] & mask_d[None, :]
    width = 1 if WRONG == "no width" else D
    o_s = tl.load(o_partial_ptr + offs[:, None] * width + offs_d[None, :], mask=mask, other=0.0)
    m = tl.max(lse_s, 0)
    ruler = m if WRONG == "empty" else tl.where(m == float("-inf"), 0.0, m)
    no_max = WRONG == "no max" or WRONG == "no max, plain sum" or WRONG == "no max, plain log"
    if no_max:
        ruler = 0.0
    w = tl.exp2(lse_s - ruler) if WRONG == "base 2" else tl.exp(lse_s - ruler)
    l = tl.sum(w, 0)
    safe = tl.where(l == 0.0, 1.0, l)
    if WRONG == "0 / 0" or WRONG == "empty" or WRONG == "no max, plain sum":
        safe = l
    o = tl.sum(w[:, None] * o_s, 0)
    if WRONG == "mean":
        o = tl.sum(o_s, 0) / num_splits
    elif WRONG == "divided by S":
        o = o / num_splits
    elif WRONG != "not normalised":
        o = o / safe
    tl.store(o_ptr + row * D + offs_d, o, mask=mask_d)
    lse = ruler + (tl.log2(safe) if WRONG == "base 2" else tl.log(safe))
    if WRONG != "empty" and not no_max:
        lse = tl.where(m == float("-inf"), m, lse)
    if WRONG == "no max, plain log":
        lse = tl.log(l)
    if WRONG != "no lse":
        tl.store(lse_ptr + row, tl.log(safe) if WRONG == "lse without max" else lse)


FAULTS = (
    (
        "mean",
        "o is the plain **mean** of the splits. Each split must count by the total weight of its "
        "keys, and that is what its lse tells you.",
        "",
    ),
    (
        "no max",
        "The exponentials are taken **without subtracting the largest lse** first: around 200 "
        "they overflow, around −200 they vanish.",
        "",
    ),
    (
        "no max, plain sum",
        "**The largest lse is not subtracted** before the exponentials: around 200 they overflow "
        "to inf, and inf / inf is NaN. And where the sum is 0, o is 0 / 0.",
        "",
    ),
    (
        "no max, plain log",
        "The exponentials are taken of the **raw lse**. Subtract the largest lse first, and add "
        "it back at the end: otherwise 200 overflows and −200 counts for nothing.",
        "",
    ),
    (
        "padding counts",
        "The lanes past the last split are loaded as **0**, and an lse of 0 means a split with "
        "the weight e⁰ = 1. A lane without a split should look like an empty split.",
        "",
    ),
    (
        "empty",
        "A row whose splits are **all empty** gives NaN: −inf − (−inf). Only the subtraction "
        "needs a stand-in for the maximum.",
        "",
    ),
    (
        "0 / 0",
        "A row whose splits are **all empty** gives o = NaN: its weights sum to 0, and 0 / 0 is "
        "not a number.",
        "",
    ),
    (
        "swapped",
        "The partials are stored **split by split**: row r of split s is number s · rows + r. "
        "Your kernel reads number r · num_splits + s.",
        "",
    ),
    (
        "lse without max",
        "lse is only the logarithm of the sum. The sum was measured from the largest lse, which "
        "has to be **added back**.",
        "",
    ),
    (
        "base 2",
        "exp2 and log2 are used on lse values, which are **natural** logarithms. Base 2 is used "
        "inside the split kernel and nowhere else.",
        "4 · The split kernel, retyped",
    ),
    (
        "not normalised",
        "o is the weighted sum, but **not divided** by the sum of the weights.",
        "",
    ),
    (
        "divided by S",
        "The weighted sum is divided by the **number of splits**, not by the sum of the weights.",
        "",
    ),
    (
        "no width",
        "The o of row i begins at element **i · D** of `o_partial`, not at element i: each row "
        "has D numbers.",
        "",
    ),
    (
        "no lse",
        "o is right, but **lse is never stored**. Any further merge needs it, too.",
        "",
    ),
)

COMBINE = Exercise(
    id="9.2",
    name="combine kernel",
    title="The combine, as a kernel",
    section=SECTION,
    solution_name="combine_kernel",
    properties=(
        Property("by hand", "lesson 08's three splits, and an empty one", _by_hand),
        Property("full blocks", "S and D fill their blocks exactly", _random),
        Property("odd sizes", "S and D smaller than their blocks, with NaN around", _odd),
        Property("far from zero", "lse around +200 and around −200", _far),
        Property("some empty", "empty splits anywhere", _some_empty),
        Property("all empty", "a row of empty splits gives (0, −inf)", _all_empty),
    ),
    mistakes=tuple(Mistake(x, says, Faulty(_faulty, x), see) for x, says, see in FAULTS),
    alternative=_split_by_split,
    needs=("triton",),
    trials=1,
)
