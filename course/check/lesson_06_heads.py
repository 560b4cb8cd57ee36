"""Exercise 6.3: which K and V a program reads when query heads share them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator

from course.check.faulty import Faulty
from course.check.guards import guarded, poisoned
from course.check.lesson_06_tile import launch, tolerance
from course.check.spec import Exercise, Mistake, Property, Seen
from kernels.flash_attention import attend
from kernels.primitives import LOG2_E, finalize
from kernels.runtime import device
from reference.attention import oracle

# isort: split
import triton
import triton.language as tl

D, BLOCK, Lq, Lk = 16, 16, 16, 40  # enough keys for q's strides to stay inside k


def _seen(
    answer: Callable, rng: Generator, B: int, Hq: int, Hkv: int, gaps: tuple[int, int, int]
) -> Seen:
    """Launch (Hq, B) programs. gaps: entries of NaN after each row of q, k and v."""
    shapes = ((B, Lq, Hq, D), (B, Lk, Hkv, D), (B, Lk, Hkv, D))
    q, k, v = (torch.randn(shape, generator=rng) for shape in shapes)
    ins = [
        guarded(x.to(device()), name, row_gap=gap)
        for x, name, gap in zip((q, k, v), "qkv", gaps, strict=True)
    ]
    o = poisoned((B, Lq, Hq, D), name="o", device=device())
    strides = [n for x in ins for n in x.tensor.stride()[:3]]
    tensors = [x.tensor for x in (*ins, o)]
    scale = D**-0.5
    constants = {"D": D, "BLOCK_M": BLOCK, "BLOCK_N": BLOCK}
    launch(answer, (Hq, B), *tensors, *strides, Hq // Hkv, Lk, scale * LOG2_E, **constants)
    wanted, _ = oracle(q, k, v, scale=scale)
    rows = [x.reshape(-1, D) for x in (q, k, v)]
    return Seen(
        o.tensor,
        wanted.float(),
        f"B = {B}, Hq = {Hq}, Hkv = {Hkv}, gaps after rows of q, k, v: {gaps}",
        names=("o",),
        guards=(*ins, o),
        atol=tolerance(*rows, scale),
        rtol=0.0,
    )


def _one_head(answer, rng):
    return _seen(answer, rng, 1, 1, 1, (0, 0, 0))


def _each_its_own(answer, rng):
    return _seen(answer, rng, 1, 3, 3, (0, 0, 0))


def _groups(answer, rng):
    return _seen(answer, rng, 1, 6, 2, (0, 0, 0))


def _one_for_all(answer, rng):
    return _seen(answer, rng, 1, 4, 1, (0, 0, 0))


def _batch(answer, rng):
    return _seen(answer, rng, 2, 4, 2, (0, 0, 0))


def _strided(answer, rng):
    return _seen(answer, rng, 2, 4, 2, (4, 12, 8))


@triton.jit
def _run(
    q_ptr, k_ptr, v_ptr, o_ptr, stride_qm, stride_kn, stride_vn, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The part that the exercise gives: all that follows once the pointers are at their heads."""
    offs_m, offs_d = tl.arange(0, BLOCK_M), tl.arange(0, D)[None, :]
    q = tl.load(q_ptr + offs_m[:, None] * stride_qm + offs_d)
    m_log2 = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    state = (m_log2, tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, D), tl.float32))
    sees = tl.full((BLOCK_M,), 0, tl.int32) + Lk
    kv = (k_ptr, stride_kn, v_ptr, stride_vn)
    state = attend(state, q, kv, scale_log2, 0, Lk, sees, D, BLOCK_N, MASKED=True)
    o, _ = finalize(state[0], state[1], state[2])
    row = (tl.program_id(1) * BLOCK_M + offs_m) * tl.num_programs(0) + tl.program_id(0)
    tl.store(o_ptr + row[:, None] * D + offs_d, o)


@triton.jit
def _counted(
    q_ptr, k_ptr, v_ptr, o_ptr, sqb, sqm, sqh, skb, skn, skh, svb, svn, svh, G, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Another right answer: counts the groups and steps through them."""
    head, batch = tl.program_id(0), tl.program_id(1)
    q_ptr += batch * sqb + head * sqh
    for _ in range(G, head + 1, G):
        k_ptr += skh
        v_ptr += svh
    for _ in range(0, batch):
        k_ptr += skb
        v_ptr += svb
    _run(q_ptr, k_ptr, v_ptr, o_ptr, sqm, skn, svn, Lk, scale_log2, D, BLOCK_M, BLOCK_N)


@triton.jit
def _aimed(
    q_ptr, k_ptr, v_ptr, o_ptr, sqb, sqm, sqh, skb, skn, skh, svb, svn, svh, G, Lk, scale_log2,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WRONG: tl.constexpr,
):  # fmt: skip
    """The whole kernel. WRONG names the fault."""
    head, batch = tl.program_id(0), tl.program_id(1)
    head_kv = head if WRONG == "own head" else head // G
    if WRONG == "modulo":
        head_kv = head % G
    if WRONG == "interleaved":
        head_kv = head % (tl.num_programs(0) // G)
    if WRONG == "the first KV head":
        head_kv = head * 0
    q_head, q_batch, kv_batch = head, batch, batch
    if WRONG == "KV head for q":
        q_head = head_kv
    if WRONG == "batch of q forgotten" or WRONG == "no batch at all":
        q_batch = batch * 0
    if WRONG == "batch forgotten" or WRONG == "no batch at all":
        kv_batch = batch * 0
    kb, kh, vb, vh = skb, skh, svb, svh
    if WRONG == "strides of q":
        kb, kh, vb, vh = sqb, sqh, sqb, sqh
    if WRONG == "K with the strides of q":
        kb, kh = sqb, sqh
    if WRONG == "V with the strides of K":
        vb, vh = skb, skh
    if WRONG == "contiguous taken for granted":
        kh, vh = D, D
    if WRONG == "a token for a head":
        kh, vh = skn, svn
    q_ptr += q_batch * sqb + q_head * sqh
    k_ptr += kv_batch * kb + head_kv * kh
    v_ptr += kv_batch * vb + head_kv * vh
    _run(q_ptr, k_ptr, v_ptr, o_ptr, sqm, skn, svn, Lk, scale_log2, D, BLOCK_M, BLOCK_N)


def faulty(wrong: str) -> Faulty:
    """The kernel with one fault in it; see `_aimed` for the names."""
    return Faulty(_aimed, wrong)


HEADS = Exercise(
    id="6.3",
    name="heads",
    title="Whose keys are these?",
    section="4 · Heads, batches, strides",
    solution_name="heads_kernel",
    properties=(
        Property("one head", "one program, nothing to choose", _one_head),
        Property("each its own", "three query heads, three KV heads", _each_its_own),
        Property("groups", "six query heads, two KV heads", _groups),
        Property("one for all", "four query heads, one KV head", _one_for_all),
        Property("a batch", "two batch rows", _batch),
        Property("rows apart", "gaps after the rows, different in q, k and v", _strided),
    ),
    mistakes=(
        Mistake(
            "own head",
            "Every query head reads the KV head of **its own number**. There are only Hq / G of "
            "those, so later query heads read what belongs to the next token.",
            faulty("own head"),
        ),
        Mistake(
            "modulo",
            "The KV head is computed as a **remainder**: neighbouring query heads then read "
            "different keys. A group is G adjacent heads.",
            faulty("modulo"),
        ),
        Mistake(
            "interleaved",
            "The KV head is the **remainder modulo Hkv**, so heads 0, Hkv, 2 Hkv, … share one. In "
            "this layout a group is G adjacent heads.",
            faulty("interleaved"),
        ),
        Mistake(
            "the first KV head",
            "All programs read the **first KV head**: k_ptr and v_ptr don't depend on the head.",
            faulty("the first KV head"),
        ),
        Mistake(
            "KV head for q",
            "q_ptr is moved by the **KV head**, but only K and V are shared. Each query head has "
            "its own queries.",
            faulty("KV head for q"),
        ),
        Mistake(
            "batch forgotten",
            "K and V are always those of **batch row 0**: the head is right, the batch is missing.",
            faulty("batch forgotten"),
        ),
        Mistake(
            "batch of q forgotten",
            "q is always that of **batch row 0**: K and V follow the batch, q does not.",
            faulty("batch of q forgotten"),
        ),
        Mistake(
            "no batch at all",
            "All three pointers stay in **batch row 0**: the program's batch is never used.",
            faulty("no batch at all"),
        ),
        Mistake(
            "strides of q",
            "K and V are addressed with the **strides of q**. They have fewer heads and a "
            "different length, so their heads and batch rows are different distances apart.",
            faulty("strides of q"),
        ),
        Mistake(
            "K with the strides of q",
            "K is addressed with the **strides of q**. It has fewer heads and a different "
            "length, so its heads and batch rows are different distances apart.",
            faulty("K with the strides of q"),
        ),
        Mistake(
            "V with the strides of K",
            "V is addressed with the **strides of K**: that is right only if both are laid out in "
            "memory the same way, and they need not be.",
            faulty("V with the strides of K"),
        ),
        Mistake(
            "contiguous taken for granted",
            "The next KV head is taken to be **D elements** further on. Only the strides say how "
            "far apart two heads are.",
            faulty("contiguous taken for granted"),
        ),
        Mistake(
            "a token for a head",
            "The next KV head is taken to be **one key** further on: stride_kn and stride_vn step "
            "along the tokens, stride_kh and stride_vh along the heads.",
            faulty("a token for a head"),
        ),
    ),
    alternative=_counted,
    needs=("triton",),
    trials=1,
)
