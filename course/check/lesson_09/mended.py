"""Exercise 9.4: a split kernel with a planted bug, and what must hold once it is fixed."""

import math
from dataclasses import replace

import torch

import course.check.lesson_09.mended_mistakes  # noqa: F401 — marks more mistakes
from course.check.draw import integer
from course.check.guards import guarded, poisoned
from course.check.kernel_inputs import EPS, randn
from course.check.lesson_08.combine import merged
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from kernels.primitives import LOG2_E, finalize, online_softmax_step
from kernels.runtime import device

# isort: split
import triton
import triton.language as tl

NAMES = "keys of each split", "o", "lse"
BLOCKS = "2 · Which keys: the row's own length, in whole blocks"


@right
@triton.jit
def mended_kernel(
    q_ptr,  # (D,)
    k_ptr,  # (length, D)
    v_ptr,  # (length, D)
    o_ptr,  # (num_splits, D)
    lse_ptr,  # (num_splits,)
    length,
    scale_log2,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    split, chunk = tl.program_id(0), tl.cdiv(length, tl.num_programs(0))
    start, stop = tl.minimum(split * chunk, length), tl.minimum((split + 1) * chunk, length)
    offs_d = tl.arange(0, D)[None, :]
    q = tl.load(q_ptr + offs_d)  # (1, D)
    m_log2 = tl.full((1,), float("-inf"), tl.float32)
    l, acc = tl.zeros_like(m_log2), tl.zeros((1, D), tl.float32)
    for start_n in range(start, stop, BLOCK_N):
        offs_n = start_n + tl.arange(0, BLOCK_N)
        offs_kv, mask = offs_n[:, None] * D + offs_d, offs_n[:, None] < stop  # not < length
        k = tl.load(k_ptr + offs_kv, mask=mask, other=0.0)
        v = tl.load(v_ptr + offs_kv, mask=mask, other=0.0)
        scores_log2 = tl.where(mask, tl.sum(q * k, 1)[:, None] * scale_log2, float("-inf"))
        m_log2, l, acc, p = online_softmax_step(m_log2, l, acc, tl.trans(scores_log2))
        acc += tl.sum(tl.trans(p) * v, 0)[None, :]
    o, lse = finalize(m_log2, l, acc)
    tl.store(o_ptr + split * D + offs_d, o)
    tl.store(lse_ptr + split + tl.arange(0, 1), lse)


@also_right
@triton.jit
def whole_blocks_each(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, length, scale_log2,
    D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Another way to fix it: splits of whole blocks, so that only the row's end is ragged."""
    split = tl.program_id(0)
    chunk = tl.cdiv(tl.cdiv(length, BLOCK_N), tl.num_programs(0)) * BLOCK_N
    start, stop = split * chunk, tl.minimum((split + 1) * chunk, length)
    offs_d = tl.arange(0, D)[None, :]
    q = tl.load(q_ptr + offs_d)
    m_log2 = tl.full((1,), float("-inf"), tl.float32)
    l, acc = tl.zeros_like(m_log2), tl.zeros((1, D), tl.float32)
    for start_n in range(start, stop, BLOCK_N):
        offs_n = start_n + tl.arange(0, BLOCK_N)
        offs_kv, mask = offs_n[:, None] * D + offs_d, offs_n[:, None] < length
        k = tl.load(k_ptr + offs_kv, mask=mask, other=0.0)
        v = tl.load(v_ptr + offs_kv, mask=mask, other=0.0)
        scores_log2 = tl.where(mask, tl.sum(q * k, 1)[:, None] * scale_log2, float("-inf"))
        m_log2, l, acc, p = online_softmax_step(m_log2, l, acc, tl.trans(scores_log2))
        acc += tl.sum(tl.trans(p) * v, 0)[None, :]
    o, lse = finalize(m_log2, l, acc)
    tl.store(o_ptr + split * D + offs_d, o)
    tl.store(lse_ptr + split + tl.arange(0, 1), lse)


def seen(answer, q, k, v, splits, length=None, block_n=16, scale=None):
    """Run the kernel over the first `length` keys of k, v, with NaN around them; merge in fp64.

    length: default: all of them. Where a split begins and ends is up to the answer, so only the
    merged result is judged. A sum of `length` terms is off by at most `length` roundings, each the
    size of the largest score or value.
    """
    D, length = len(q), length or len(k)
    scale = scale or 1 / math.sqrt(D)
    cache = [guarded(x, name) for x, name in ((q, "q"), (k, "k"), (v, "v"))]
    o = poisoned((splits, D), name="o", device=device())
    lse = poisoned((splits,), name="lse", device=device())
    tensors = [x.tensor for x in (*cache, o, lse)]
    answer[(splits,)](*tensors, length, LOG2_E * scale, D=D, BLOCK_N=block_n)
    scores = k[:length].double() @ q.double() * scale
    wanted = torch.softmax(scores, 0) @ v[:length].double(), scores.logsumexp(0)
    size = max(1.0, scores.abs().max().item(), v.abs().max().item())
    return Seen(
        merged(o.tensor, lse.tensor),
        tuple(x.float() for x in wanted),
        f"{length} keys in {splits} splits, blocks of {block_n}, D = {D}",
        names=("o", "lse"),
        guards=(*cache, o, lse),
        atol=EPS * length * size**2,
        rtol=EPS * length,
    )


def fresh(rng, length, D=16):
    """Return random q (D,), k and v (length, D)."""
    return randn(rng, D), randn(rng, length, D), randn(rng, length, D)


class Counting:
    """Launches the answer, and counts the keys of each split before they are merged.

    With scores of 0, exp of a split's lse is the number of its keys.
    """

    def __init__(self, answer):
        self.answer, self.counts = answer, []

    def __getitem__(self, grid):
        def launch(*args, **constants):
            self.answer[grid](*args, **constants)
            self.counts = args[4].exp().tolist()

        return launch


def shared(answer, rng, length, splits):
    """Run it with scores of 0, and see that no split takes more than its share of the blocks."""
    q, k, v = fresh(rng, length)
    counting = Counting(answer)
    saw = seen(counting, torch.zeros_like(q), k, v, splits)
    most = 16 * math.ceil(math.ceil(length / 16) / splits)
    kept = all(count < most + 0.5 for count in counting.counts)
    told = " + ".join(f"{x:.0f}" if math.isfinite(x) else "NaN" for x in counting.counts)
    got = ("shared" if kept else f"{told} keys"), *saw.got
    return replace(saw, got=got, wanted=("shared", *saw.wanted), names=NAMES)


@holds("a last block that is not full, nothing to merge")
def one_split(answer, rng):
    return seen(answer, *fresh(rng, integer(rng, 33, 47)), 1)


@holds("every split ends at the end of a block")
def whole_blocks(answer, rng):
    """With another D, block and scale than the lesson's, too."""
    scale = 0.3 + 0.3 * torch.rand((), generator=rng).item()
    return [
        seen(answer, *fresh(rng, 96), 3),
        seen(answer, *fresh(rng, 96, 32), 3, block_n=32, scale=scale),
        shared(answer, rng, 96, 3),
    ]


@holds("all scores 0: exp(lse) is the number of keys")
def counts_the_keys(answer, rng):
    """With scores of 0, o is the mean of the values.

    The cells after the row hold numbers here, not NaN, so that any keys counted there show.
    """
    length = integer(rng, 67, 77)
    q, k, v = fresh(rng, length + 64)
    saw = seen(answer, torch.zeros_like(q), k, v, 3, length)
    (o, lse), (wanted, _) = saw.got, saw.wanted
    count = lse.exp().item()
    got = round(count) if math.isfinite(count) else count, o
    return replace(saw, got=got, wanted=(length, wanted), names=("keys counted", "o"))


@holds("splits that end inside a block")
def ragged_splits(answer, rng):
    return [seen(answer, *fresh(rng, integer(rng, low, low + 12)), 4) for low in (66, 100)]


@holds("no split has more than its share, in whole blocks")
def shares(answer, rng):
    return [shared(answer, rng, n, S) for n, S in ((integer(rng, 98, 110), 3), (63, 4))]


@holds("five keys in eight splits")
def few_keys(answer, rng):
    return seen(answer, *fresh(rng, 5), 8)


slip(
    "still there",
    "The bug is still there: a split's last block **runs on into the next split**, whose keys "
    "are then counted twice. Compare what the mask lets in with what the split owns.",
    ("[:, None] < stop", "[:, None] < length"),
)
slip(
    "scores not masked",
    "The loads stop where they should, but the keys after that get **a score of 0, not "
    "−inf**: each of them still has the weight e⁰ = 1.",
    ("where(mask", "where(offs_n[:, None] < length"),
)
slip(
    "chunk rounded down",
    "The splits no longer overlap, but the division is rounded **down**, so the last keys of "
    "the row belong to no split.",
    ("tl.cdiv(length, tl.num_programs(0))", "length // tl.num_programs(0)"),
    see=BLOCKS,
)
slip(
    "whole blocks, rounded down",
    "Whole blocks are a good idea, but their number is rounded **down**, so the rest of the "
    "row is left out.",
    ("tl.cdiv(length, tl.num_programs(0))", "length // BLOCK_N // tl.num_programs(0) * BLOCK_N"),
    see=BLOCKS,
)
slip(
    "past the end",
    "Whole blocks are fine, but stop **runs past the end of the row**, where there is NaN. "
    "stop must never exceed `length`.",
    ("tl.minimum((split + 1) * chunk, length)", "(split + 1) * chunk"),
    ("[:, None] < length", "[:, None] < stop"),
    see=BLOCKS,
    of=whole_blocks_each,
)
slip(
    "one key too many",
    "The mask is **off by one**: stop is the first key that does not belong to the split, so "
    "`<=` lets in one key too many.",
    ("[:, None] < stop", "[:, None] <= stop"),
)
slip(
    "V not masked",
    "V is loaded **without a mask**. Its weight past the end is 0, but what is loaded there "
    "is NaN, and 0 · NaN is NaN.",
    ("v_ptr + offs_kv, mask=mask, other=0.0", "v_ptr + offs_kv"),
)
slip(
    "score 0",
    "A masked key has a **score of 0**, and so the weight e⁰ = 1, even past the end of the "
    "row. Only a score of −∞ has no weight.",
    ('* scale_log2, float("-inf")', "* scale_log2, 0.0"),
)
slip(
    "lse in base 2",
    "lse is **in base 2**. The loop may use base 2 inside, but what leaves a kernel is a natural "
    "logarithm, and the merge takes it for one.",
    ("tl.arange(0, 1), lse)", "tl.arange(0, 1), lse * 1.4426950408889634)"),
)
slip(
    "o not normalised",
    "o is still the **plain weighted sum**: it has to be divided by l. lse says how much a split "
    "counts; o must be a mean, or that amount counts twice in the merge.",
    ("offs_d, o)", "offs_d, acc)"),
)
slip(
    "nothing for empty",
    "A split without keys gives **NaN**: l is 0 there, and 0 / 0 is not a number. It should leave "
    "o = 0 and lse = −inf, as `finalize` does.",
    ("finalize(m_log2, l, acc)", "acc / l[:, None], (m_log2 + tl.log2(l)) * 0.6931471805599453"),
)
slip(
    "empty lse 0",
    "A split without keys has **lse = 0**: in the merge it counts as much as a key with score 0. "
    "Its lse must be −inf.",
    ("tl.arange(0, 1), lse)", "tl.arange(0, 1), tl.where(l == 0.0, 0.0, lse))"),
)
slip(
    "one split does it all",
    "**One split takes all keys**, and the others none. The result is right, but nothing is "
    "shared: every split should get its part of the row.",
    (
        "tl.minimum(split * chunk, length), tl.minimum((split + 1) * chunk, length)",
        "0, tl.where(split == 0, length, 0)",
    ),
)
slip(
    "the last takes the rest",
    "Each split takes one block, and **the last all the rest**: the others wait for it. Divide the "
    "row by the number of splits.",
    ("tl.cdiv(length, tl.num_programs(0))", "BLOCK_N"),
    (
        "tl.minimum((split + 1) * chunk, length)",
        "tl.where(split + 1 == tl.num_programs(0), length, "
        "tl.minimum((split + 1) * chunk, length))",
    ),
)
slip(
    "one key too few",
    "The mask is **off by one**: the last key before stop belongs to the split as well.",
    ("[:, None] < stop", "[:, None] < stop - 1"),
)
slip(
    "scale of its own",
    "The scores are scaled by **1/√D**, whatever `scale_log2` says. The caller chooses the scale.",
    ("* scale_log2", "* (1.4426950408889634 * D**-0.5)"),
)
slip(
    "not scaled",
    "The scores are **not multiplied by `scale_log2`**.",
    ("[:, None] * scale_log2", "[:, None]"),
)
slip(
    "acc overwritten",
    "Each block **replaces acc** instead of adding to it: only the split's last block counts in o.",
    ("acc += tl.sum", "acc = tl.sum"),
)
slip(
    "empty ones silent",
    "An **empty split writes nothing**, so the combine reads whatever was there before. It "
    "should write (0, −∞).",
    ("    tl.store(", "    if start < stop:\n        tl.store("),
)

BUG = Exercise.of(
    __name__,
    "9.4 mended",
    title="A bug in a split kernel",
    section="4 · The split kernel, retyped",
    needs=("triton",),
    trials=1,
)
