"""Exercise 6.2: how far each query tile walks, and where the mask begins."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator

from course.check.guards import guarded, poisoned
from course.check.lesson_06_tile import tolerance
from course.check.spec import Exercise, Mistake, Property, Seen
from kernels.flash_attention import attend
from kernels.primitives import LOG2_E, finalize
from kernels.runtime import device
from reference.attention import oracle

# isort: split
import triton
import triton.language as tl

D, BLOCK = 16, 16


def bounds(Lq: int, Lk: int) -> torch.Tensor:
    """(full, stop) of every query tile, counted key by key."""
    rows = []
    for start in range(0, Lq, BLOCK):
        sees = [max(0, i + 1 + Lk - Lq) for i in range(start, min(start + BLOCK, Lq))]
        rows.append((sees[0] // BLOCK * BLOCK, sees[-1]))
    return torch.tensor(rows, dtype=torch.int32)


def _seen(answer: Callable, rng: Generator, Lq: int, Lk: int) -> Seen:
    q, k, v = (torch.randn(n, D, generator=rng) for n in (Lq, Lk, Lk))
    ins = [guarded(x.to(device()), name) for x, name in ((q, "q"), (k, "k"), (v, "v"))]
    tiles = triton.cdiv(Lq, BLOCK)
    o, lse = (poisoned(s, name=n, device=device()) for s, n in (((Lq, D), "o"), ((Lq,), "lse")))
    limits = poisoned((tiles, 2), torch.int32, "bounds", device=device())
    tensors = [x.tensor for x in (*ins, o, lse, limits)]
    scale = D**-0.5
    answer[(tiles,)](*tensors, Lq, Lk, scale * LOG2_E, D=D, BLOCK_M=BLOCK, BLOCK_N=BLOCK)
    wanted = oracle(*(x[None, :, None] for x in (q, k, v)), causal=True, scale=scale)
    return Seen(
        (limits.tensor.clamp(min=0), o.tensor, lse.tensor),  # a walk to -3 is one to 0
        (bounds(Lq, Lk), wanted[0][0, :, 0].float(), wanted[1][0, :, 0].float()),
        f"Lq = {Lq}, Lk = {Lk}, BLOCK_M = BLOCK_N = {BLOCK}",
        names=("(full, stop) of each tile", "o", "lse"),
        guards=(*ins, o, lse, limits),
        atol=tolerance(q, k, v, scale),
        rtol=0.0,
    )


def _between(rng: Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=rng))


def _square(answer, rng):
    return _seen(answer, rng, 48, 48)


def _cached(answer, rng):
    return _seen(answer, rng, 32, 32 + _between(rng, 17, 31))


def _odd(answer, rng):
    n = _between(rng, 33, 47)
    return _seen(answer, rng, n, n)


def _more_queries(answer, rng):
    return _seen(answer, rng, 40, _between(rng, 5, 20))


def _one_query(answer, rng):
    return _seen(answer, rng, 1, _between(rng, 20, 31))


@triton.jit
def _run(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """What the exercise gives away: all of the kernel but sees, full and stop."""
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    places, inside = offs_m[:, None] * D + tl.arange(0, D)[None, :], offs_m[:, None] < Lq
    q = tl.load(q_ptr + places, mask=inside, other=0.0)
    m_log2 = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    state = (m_log2, tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, D), tl.float32))
    kv = (k_ptr, D, v_ptr, D)
    state = attend(state, q, kv, scale_log2, 0, full, sees, D, BLOCK_N, MASKED=False)
    state = attend(state, q, kv, scale_log2, full, stop, sees, D, BLOCK_N, MASKED=True)
    o, lse = finalize(state[0], state[1], state[2])
    tl.store(o_ptr + places, o, mask=inside)
    tl.store(lse_ptr + offs_m, lse, mask=offs_m < Lq)
    tl.store(bounds_ptr + 2 * tl.program_id(0), full)
    tl.store(bounds_ptr + 2 * tl.program_id(0) + 1, stop)


@triton.jit
def _bounds(Lq, Lk, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WRONG: tl.constexpr):
    """sees, full, stop; WRONG names what is done wrong, "" nothing."""
    start_m = tl.program_id(0) * BLOCK_M
    shift = 0 if WRONG == "top-left" else Lk - Lq
    first = start_m + (0 if WRONG == "off by one" else 1) + shift
    sees = tl.minimum(first + tl.arange(0, BLOCK_M), Lk)
    last = tl.maximum(tl.minimum(first + BLOCK_M - 1, Lk), 0)
    whole = tl.maximum(tl.minimum(first, Lk), 0) // BLOCK_N * BLOCK_N
    if WRONG == "full by the last":
        whole = last // BLOCK_N * BLOCK_N
    if WRONG == "nothing full":
        whole = whole * 0
    if WRONG == "nothing skipped":
        last = last * 0 + Lk
    if WRONG == "stop by the first":
        last = tl.maximum(tl.minimum(first, Lk), 0)
    return sees, whole, last


@triton.jit
def _by_first_and_last(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Another right answer: from what the first and the last row of the tile see."""
    sees, full, stop = _bounds(Lq, Lk, BLOCK_M, BLOCK_N, "")
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def _top_left(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    sees, full, stop = _bounds(Lq, Lk, BLOCK_M, BLOCK_N, "top-left")
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def _off_by_one(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    sees, full, stop = _bounds(Lq, Lk, BLOCK_M, BLOCK_N, "off by one")
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def _full_by_the_last(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    sees, full, stop = _bounds(Lq, Lk, BLOCK_M, BLOCK_N, "full by the last")
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def _nothing_full(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    sees, full, stop = _bounds(Lq, Lk, BLOCK_M, BLOCK_N, "nothing full")
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def _nothing_skipped(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    sees, full, stop = _bounds(Lq, Lk, BLOCK_M, BLOCK_N, "nothing skipped")
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def _stop_by_the_first(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    sees, full, stop = _bounds(Lq, Lk, BLOCK_M, BLOCK_N, "stop by the first")
    _run(
        q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, bounds_ptr, Lq, scale_log2, sees, full, stop,
        D, BLOCK_M, BLOCK_N,
    )  # fmt: skip


CAUSAL = Exercise(
    id="6.2",
    name="causal",
    title="How far to walk",
    section="5 · Causal, in two stages",
    solution_name="causal_kernel",
    properties=(
        Property("square", "Lq is Lk, a multiple of the tiles", _square),
        Property("keys in a cache", "more keys than queries", _cached),
        Property("odd lengths", "Lq is Lk, no multiple of the tiles", _odd),
        Property("more queries than keys", "the first queries see nothing", _more_queries),
        Property("one query", "it is the last, so it sees every key", _one_query),
    ),
    mistakes=(
        Mistake(
            "top-left",
            "The mask is aligned **top-left**: query 0 sees one key, however many keys there are. "
            "It is right only where Lq is Lk; bottom-right, the last query sees all keys.",
            _top_left,
        ),
        Mistake(
            "off by one",
            "Every query sees **one key too few**: it may see itself as well, so a count of keys "
            "is a position plus one.",
            _off_by_one,
        ),
        Mistake(
            "full by the last row",
            "full is taken from the **last** row of the tile. A key is in the unmasked stage only "
            "if every row sees it, and the first row sees fewest.",
            _full_by_the_last,
        ),
        Mistake(
            "nothing is full",
            "o and lse are right, but **full is 0**: every tile goes through the masked stage, "
            "and the unmasked one is never used.",
            _nothing_full,
        ),
        Mistake(
            "nothing is skipped",
            "o and lse are right, but **stop is Lk** everywhere: tiles that no row can see are "
            "loaded, multiplied and masked away.",
            _nothing_skipped,
        ),
        Mistake(
            "stop by the first row",
            "stop is taken from the **first** row of the tile: the rows below it see more keys, "
            "and never get them.",
            _stop_by_the_first,
        ),
    ),
    alternative=_by_first_and_last,
    needs=("triton",),
    trials=1,
)
