"""Stage 2 of Flash-Decoding: merge the splits of every query row into one answer.

    o = Σ_s w_s · o_s,     w_s = exp(lse_s - lse),     lse = ln Σ_s exp(lse_s)

Look again: this *is* attention. A split is a key, its lse is the score, its o is the value,
and the weights w_s are a softmax over the splits. An empty split arrives as (o = 0, lse = -inf) and
has no weight. So the kernel is the online softmax of FlashAttention, over tiles of splits: one
pass, in which each lse and each o is loaded once.

    grid   (B·Lq·Hq, ⌈D / 128⌉)    one program per query row, whatever the number of splits

    o_partial (S, rows, D)      ┌── row r of split 0 ──┐
                                ├── row r of split 1 ──┤  program r ──►  o (rows, D), lse (rows,)
                                └── row r of split 2 ──┘

There is little to compute and little to move. A program's time is how often it waits for memory,
some 0.4 µs each, so a tile is as large as the registers hold: usually one tile is all, and all its
loads are on their way at once. `choose_tile` says how large, and why.

A plan (`kernels.plan`) gives every row of a batch its own number of parts, and says where they lie.
An attention sink is one more part, with no value: lse = sink, o = 0.

The order of the sum is fixed, so the same inputs give the same bits.

`kernels.merge.merge_states` is this step as a function of its own. What it gets may come from
elsewhere, and mark an empty part as flash-attn 2 does, by lse = +inf; stage 1 never does, so a
decode call is compiled without the question.

Sources: Dao, Haziza, Massa & Sizov 2023, "Flash-Decoding for long-context inference", step 3;
Milakov & Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3.
"""

from typing import NamedTuple

from torch import Tensor

from kernels.call import KernelCall
from kernels.heuristics import next_power_of_2
from kernels.primitives import round_to, to_fp32
from kernels.runtime import INTERPRETED

# isort: split
import triton
import triton.language as tl

MAX_BLOCK_D = 128


@triton.jit
def combine_kernel(
    o_partial_ptr,
    lse_partial_ptr,
    o_ptr,
    lse_ptr,
    first_slot_ptr,  # (B + 1,), from a plan: of row b of the batch, the number of its first part
    sinks_ptr,  # (Hq,) or None
    rows,
    num_splits,
    Lq,
    Hq,
    D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MARKS: tl.constexpr,  # whether lse = +inf may mark a partial without keys
    PDL: tl.constexpr,
) -> None:
    """Merge the partial results of one query row."""
    if PDL:  # it may have been started early: until stage 1 is done there is nothing to read
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    offs_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask_d = offs_d < D

    # 1. Where this row lies in each split.
    begin, step = row, rows
    if first_slot_ptr is not None:
        step = Lq * Hq
        first_slot = tl.load(first_slot_ptr + row // step)
        num_splits = tl.load(first_slot_ptr + row // step + 1) - first_slot
        begin = first_slot.to(tl.int64) * step + row % step

    # 2. Online softmax over tiles of splits; m stays -inf until one has seen a key. In natural
    # logs: base 2 would round each lse before the subtraction.
    m, l = float("-inf"), 0.0
    acc = tl.zeros((BLOCK_D,), tl.float32)
    if sinks_ptr is not None:  # one more split, with lse = sink and o = 0
        m, l = to_fp32(tl.load(sinks_ptr + row % Hq)), 1.0
    for start_s in range(0, num_splits, BLOCK_S):
        offs_s = start_s + tl.arange(0, BLOCK_S)
        mask_s = offs_s < num_splits
        offs_row = begin + offs_s.to(tl.int64) * step
        lse_s = tl.load(lse_partial_ptr + offs_row, mask=mask_s, other=float("-inf"))  # (BLOCK_S,)
        o_s = tl.load(
            o_partial_ptr + offs_row[:, None] * D + offs_d[None, :],
            mask=mask_s[:, None] & mask_d[None, :],
            other=0.0,
        )  # (BLOCK_S, BLOCK_D)
        m_new = tl.maximum(m, tl.max(lse_s, 0))
        if MARKS:  # a mark is no ruler
            unmarked = tl.where(lse_s == float("inf"), float("-inf"), lse_s)
            m_new = tl.maximum(m, tl.max(unmarked, 0))
        ruler = tl.where(m_new == float("-inf"), 0.0, m_new)  # -inf - (-inf) is NaN
        alpha = tl.exp(m - ruler)  # old ruler → new ruler; 0 if nothing seen so far
        weight = tl.exp(lse_s - ruler)  # 0 for an empty split
        if MARKS:
            weight = weigh_marks(weight, lse_s, to_fp32(o_s))
        l = l * alpha + tl.sum(weight, 0)
        acc = acc * alpha + tl.sum(weight[:, None] * to_fp32(o_s), 0)
        m = m_new

    # 3. The answer.
    l_safe = tl.where(l == 0.0, 1.0, l)  # l is 0 only where no split saw a key
    tl.store(o_ptr + row * D + offs_d, round_to(acc / l_safe, o_ptr.dtype.element_ty), mask=mask_d)
    tl.store(lse_ptr + row, m + tl.log(l_safe), mask=tl.program_id(1) == 0)


@triton.jit
def weigh_marks(weight, lse_s, o_s) -> tl.tensor:
    """Return weight (BLOCK_S,), but where lse_s is +inf: 0 if o_s (BLOCK_S, BLOCK_D) is 0, or NaN.

    A partial with lse = +inf and o = 0 saw no key. With any other o it is no answer.
    """
    marked = tl.where(tl.max(tl.where(o_s == 0.0, 0, 1), 1) == 0, 0.0, float("nan"))
    return tl.where(lse_s == float("inf"), marked, weight)


class Tile(NamedTuple):
    """How many splits and columns a program takes at a time, with how many warps."""

    block_s: int
    block_d: int
    num_warps: int


def choose_tile(
    parts: int | None, D: int, marks: bool = False, interpreted: bool = INTERPRETED
) -> Tile:
    """Choose the tile for `parts` partial results per row; None: a plan's, differing by row.

    Where as many splits as lanes make a tile, each lane loads one lse, and Triton keeps it. (A
    smaller vector it would load again for each layout in which it is needed.) A lane then holds
    BLOCK_D numbers of o in flight: registers last for 128. Wider rows are shared among programs,
    except where the whole o decides what an lse = +inf means.

    8 splits leave more registers to other programs: with so few, there may be thousands of rows.
    Above 64, four warps wait once where one would wait twice or more; with fewer, they would only
    wait for each other. All by the model in `kernels.compile_report.latency`, not measured.

    A GPU adds the splits of a tile in pairs, pairs of pairs and so on. The interpreter adds one
    after another, so there 16 at a time round less than 128.
    """
    block_d = next_power_of_2(D)
    if interpreted:
        return Tile(16, block_d if marks else min(block_d, MAX_BLOCK_D), 1)
    if marks and block_d > MAX_BLOCK_D:
        return Tile(16, block_d, 4)
    block_d = min(block_d, MAX_BLOCK_D)
    if parts is None or 8 < parts <= 64:
        return Tile(32, block_d, 1)
    return Tile(8, block_d, 1) if parts <= 8 else Tile(128, block_d, 4)


def combine_call(
    o_partial: Tensor,
    lse_partial: Tensor,
    o: Tensor,
    lse: Tensor,
    *,
    first_slot: Tensor | None = None,
    sinks: Tensor | None = None,
    marks: bool = False,
    pdl: bool = False,
) -> KernelCall:
    """Describe the launch of stage 2.

    o_partial (S, ..., D), any float dtype, and lse_partial (S, ...), fp32: partial results; o
    (..., D) and lse (...), fp32: where the merged results go. All contiguous. With first_slot
    (B + 1,), int32, S counts the parts of a plan, and the partials are (S, Lq, Hq, D). sinks:
    (Hq,), the last dimension of lse. marks: whether a partial may come from elsewhere, and
    say by lse = +inf that it saw no key, as flash-attn 2 does. pdl: the launch before this one is
    stage 1, with `pdl` too (`kernels.runtime.has_dependent_launch`).
    """
    D = o.shape[-1]
    tile = choose_tile(o_partial.shape[0] if first_slot is None else None, D, marks)
    args = {
        "o_partial_ptr": o_partial,
        "lse_partial_ptr": lse_partial,
        "o_ptr": o,
        "lse_ptr": lse,
        "first_slot_ptr": first_slot,
        "sinks_ptr": sinks,
        "rows": lse.numel(),
        "num_splits": o_partial.shape[0],
        "Lq": lse.shape[-2] if lse.ndim > 1 else 1,
        "Hq": lse.shape[-1] if lse.ndim else 1,
        "D": D,
        "BLOCK_S": tile.block_s,
        "BLOCK_D": tile.block_d,
        "MARKS": marks,
        "PDL": pdl,
    }
    grid = (lse.numel(), -(-D // tile.block_d))
    return KernelCall(combine_kernel, grid, args, num_warps=tile.num_warps, launch_pdl=pdl)
