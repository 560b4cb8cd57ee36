"""Exercise 9.4: a split kernel with a planted bug, and what must hold once it is fixed."""

import math
from dataclasses import replace

import torch
from torch import Generator, Tensor

from course.check.draw import integer
from course.check.faulty import EPS, Faulty, randn
from course.check.guards import guarded, poisoned
from course.check.lesson_09_combine import merged
from course.check.spec import Exercise, Mistake, Property, Seen
from kernels.primitives import LOG2_E, finalize, online_softmax_step
from kernels.runtime import device

# isort: split
import triton
import triton.language as tl

SECTION = "4 · The split kernel, retyped"
BLOCKS = "2 · Which keys: the row's own length, in whole blocks"
D, BLOCK_N = 16, 16


def ask(answer: object, q: Tensor, k: Tensor, v: Tensor, splits: int) -> Seen:
    """Run the kernel over all keys of k, v (length, D), with NaN after them; merge in fp64.

    Where a split begins and ends is up to the answer, so only the merged result is judged.
    A sum of `length` terms is off by at most `length` roundings, each the size of the largest
    score or value.
    """
    return seen(answer, q, k, v, len(k), splits)


def seen(answer: object, q: Tensor, k: Tensor, v: Tensor, length: int, splits: int) -> Seen:
    """Do the same with a cache that may have more cells than the row's `length` keys."""
    cache = [guarded(x, name) for x, name in ((q, "q"), (k, "k"), (v, "v"))]
    o = poisoned((splits, D), name="o", device=device())
    lse = poisoned((splits,), name="lse", device=device())
    tensors = [x.tensor for x in (*cache, o, lse)]
    answer[(splits,)](*tensors, length, LOG2_E / math.sqrt(D), D=D, BLOCK_N=BLOCK_N)
    scores = k[:length].double() @ q.double() / math.sqrt(D)
    wanted = torch.softmax(scores, 0) @ v[:length].double(), scores.logsumexp(0)
    size = max(1.0, scores.abs().max().item(), v.abs().max().item())
    return Seen(
        merged(o.tensor, lse.tensor), tuple(x.float() for x in wanted),
        f"{length} keys in {splits} splits, blocks of {BLOCK_N}", names=("o", "lse"),
        guards=(*cache, o, lse), atol=EPS * length * size**2, rtol=EPS * length,
    )  # fmt: skip


def fresh(rng: Generator, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return random q (D,), k and v (length, D)."""
    return randn(rng, D), randn(rng, length, D), randn(rng, length, D)


def _one_split(answer: object, rng: Generator) -> Seen:
    return ask(answer, *fresh(rng, integer(rng, 33, 47)), 1)


def _whole_blocks(answer: object, rng: Generator) -> Seen:
    return ask(answer, *fresh(rng, 96), 3)


def _ragged(answer: object, rng: Generator) -> list[Seen]:
    return [ask(answer, *fresh(rng, integer(rng, low, low + 12)), 4) for low in (66, 100)]


def _counts_keys(answer: object, rng: Generator) -> Seen:
    """All scores are 0, so exp(lse) is the number of keys, and o the mean of the values.

    The cells after the row hold numbers here, not NaN, so that any keys counted there show.
    """
    length = integer(rng, 67, 77)
    q, k, v = fresh(rng, length + 64)
    saw = seen(answer, torch.zeros_like(q), k, v, length, 3)
    (o, lse), (wanted, _) = saw.got, saw.wanted
    count = lse.exp().item()
    return replace(
        saw,
        got=(round(count) if math.isfinite(count) else count, o),
        wanted=(length, wanted),
        names=("keys counted", "o"),
    )


def _few_keys(answer: object, rng: Generator) -> Seen:
    return ask(answer, *fresh(rng, 5), 8)


@triton.jit
def _whole_blocks_each(
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


@triton.jit
def _faulty(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, length, scale_log2,
    D: tl.constexpr, BLOCK_N: tl.constexpr, WRONG: tl.constexpr,
):  # fmt: skip
    """The kernel with the planted bug, or with a wrong fix."""
    split, num_splits = tl.program_id(0), tl.num_programs(0)
    chunk = tl.cdiv(length, num_splits)
    if WRONG == "chunk rounded down":
        chunk = length // num_splits
    if WRONG == "whole blocks, rounded down":
        chunk = length // BLOCK_N // num_splits * BLOCK_N
    if WRONG == "past the end":
        chunk = tl.cdiv(tl.cdiv(length, BLOCK_N), num_splits) * BLOCK_N
    start = split * chunk if WRONG == "past the end" else tl.minimum(split * chunk, length)
    stop = start + chunk if WRONG == "past the end" else tl.minimum(start + chunk, length)
    offs_d = tl.arange(0, D)[None, :]
    q = tl.load(q_ptr + offs_d)
    m_log2 = tl.full((1,), float("-inf"), tl.float32)
    l, acc = tl.zeros_like(m_log2), tl.zeros((1, D), tl.float32)
    for start_n in range(start, stop, BLOCK_N):
        offs_n = start_n + tl.arange(0, BLOCK_N)[:, None]
        end = length if WRONG == "still there" else stop
        mask = offs_n <= end if WRONG == "one key too many" else offs_n < end
        k = tl.load(k_ptr + offs_n * D + offs_d, mask=mask, other=0.0)
        lanes = offs_n >= 0 if WRONG == "V not masked" else mask
        v = tl.load(v_ptr + offs_n * D + offs_d, mask=lanes, other=0.0)
        lanes = offs_n < length if WRONG == "scores not masked" else mask
        unseen = 0.0 if WRONG == "score 0" else float("-inf")
        scores_log2 = tl.where(lanes, tl.sum(q * k, 1)[:, None] * scale_log2, unseen)
        m_log2, l, acc, p = online_softmax_step(m_log2, l, acc, tl.trans(scores_log2))
        acc += tl.sum(tl.trans(p) * v, 0)[None, :]
    o, lse = finalize(m_log2, l, acc)
    writes = start < stop if WRONG == "empty ones silent" else start >= 0
    if writes:
        tl.store(o_ptr + split * D + offs_d, o)
        tl.store(lse_ptr + split + tl.arange(0, 1), lse)


FAULTS = (
    (
        "still there",
        "The bug is still there: a split's last block **runs on into the next split**, whose keys "
        "are then counted twice. Compare what the mask lets in with what the split owns.",
        "",
    ),
    (
        "scores not masked",
        "The loads stop where they should, but the keys after that get **a score of 0, not "
        "−inf**: each of them still has the weight e⁰ = 1.",
        "",
    ),
    (
        "chunk rounded down",
        "The splits no longer overlap, but the division is rounded **down**, so the last keys of "
        "the row belong to no split.",
        BLOCKS,
    ),
    (
        "whole blocks, rounded down",
        "Whole blocks are a good idea, but their number is rounded **down**, so the rest of the "
        "row is left out.",
        BLOCKS,
    ),
    (
        "past the end",
        "Whole blocks are fine, but stop **runs past the end of the row**, where there is NaN. "
        "stop must never exceed `length`.",
        BLOCKS,
    ),
    (
        "one key too many",
        "The mask is **off by one**: stop is the first key that does not belong to the split, so "
        "`<=` lets in one key too many.",
        "",
    ),
    (
        "V not masked",
        "V is loaded **without a mask**. Its weight past the end is 0, but what is loaded there "
        "is NaN, and 0 · NaN is NaN.",
        "",
    ),
    (
        "score 0",
        "A masked key has a **score of 0**, and so the weight e⁰ = 1, even past the end of the "
        "row. Only a score of −∞ has no weight.",
        "",
    ),
    (
        "empty ones silent",
        "An **empty split writes nothing**, so the combine reads whatever was there before. It "
        "should write (0, −∞).",
        "",
    ),
)

BUG = Exercise(
    id="9.4",
    name="mended",
    title="A bug in a split kernel",
    section=SECTION,
    solution_name="mended_kernel",
    properties=(
        Property("one split", "a last block that is not full, nothing to merge", _one_split),
        Property("whole blocks", "every split ends at the end of a block", _whole_blocks),
        Property("counts the keys", "all scores 0: exp(lse) is the number of keys", _counts_keys),
        Property("ragged splits", "splits that end inside a block", _ragged),
        Property("few keys", "five keys in eight splits", _few_keys),
    ),
    mistakes=tuple(Mistake(x, says, Faulty(_faulty, x), see) for x, says, see in FAULTS),
    alternative=_whole_blocks_each,
    needs=("triton",),
    trials=1,
)
