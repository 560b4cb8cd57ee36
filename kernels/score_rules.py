"""What can happen to a score between q·k and the softmax: softcap, ALiBi, window, tree mask.

In the order in which they apply, for the query at position pos and the key at place j:

    softcap c     s ← c · tanh(s / c)          scores stay within ±c
    ALiBi         s ← s - slope · |pos - j|    distant keys count less; one slope per head
    mask          s ← s + mask[i, j], or -inf  for the Lq new tokens: e.g. a tree of guesses
    window        -inf except where pos - left ≤ j ≤ pos + right

A rule that is off is None, and its code is not compiled.

Sources: softcap: Gemma Team 2024, "Gemma 2", section 2; ALiBi: Press, Smith & Lewis 2022, "Train
short, test long"; window: Beltagy, Peters & Cohan 2020, "Longformer"; tree mask: Miao et al. 2024,
"SpecInfer", section 4.
"""

from typing import NamedTuple

from kernels.primitives import LOG2_E, to_fp32

# isort: split
import triton
import triton.language as tl

_LOG2_E = tl.constexpr(LOG2_E)


class Rules(NamedTuple):
    """The rules of a launch; None: off."""

    left: tl.tensor  # how many keys a query sees before its own position
    right: tl.tensor  # and after it
    softcap: tl.tensor
    alibi_ptr: tl.tensor  # (B, Hq) fp32
    stride_alibi_b: tl.tensor
    mask_ptr: tl.tensor  # (B, Lq, Lq): uint8 (0 hides) or floating point (added)
    stride_mask_b: tl.tensor
    stride_mask_m: tl.tensor


class TileRules(NamedTuple):
    """What the rules need to know about the rows of one tile; arbitrary for a rule that is off."""

    slopes: tl.tensor  # (BLOCK_M,), in base 2
    position: tl.tensor  # (BLOCK_M,), that of each row's query
    mask_ptrs: tl.tensor  # (BLOCK_M,), to each row's first mask entry
    first_new: tl.tensor  # the place that this entry applies to
    mask_rows: tl.tensor  # (BLOCK_M,), rows that have entries
    Lq: tl.tensor


@triton.jit
def rules_of_tile(rules, b, query, head, mask_m, position, first_new, Lq) -> TileRules:
    """Load what the rules say about the rows of one tile: (query, head) (BLOCK_M,) of row b."""
    slopes, mask_ptrs = position, position
    if rules.alibi_ptr is not None:
        slopes_ptrs = rules.alibi_ptr + b * rules.stride_alibi_b + head
        slopes = tl.load(slopes_ptrs, mask=mask_m, other=0.0) * _LOG2_E
    if rules.mask_ptr is not None:
        mask_ptrs = rules.mask_ptr + b * rules.stride_mask_b + query * rules.stride_mask_m
    return TileRules(slopes, position, mask_ptrs, first_new, mask_m, Lq)


@triton.jit
def bend(scores_log2, rules, tile, offs_n) -> tl.tensor:
    """Apply softcap and ALiBi to scores (BLOCK_M, BLOCK_N) in base 2."""
    if rules.softcap is not None:
        cap_log2 = rules.softcap * _LOG2_E
        scores_log2 = cap_log2 * tanh(scores_log2 / cap_log2)
    if rules.alibi_ptr is not None:
        distance = tl.abs(tile.position[:, None] - offs_n[None, :]).to(tl.float32)
        scores_log2 -= tile.slopes[:, None] * distance
    return scores_log2


@triton.jit
def hide(scores_log2, rules, tile, offs_n, bounds, MASKED: tl.constexpr) -> tl.tensor:
    """Set scores that a row may not see to -inf, and add the mask of the new tokens."""
    _, since, sees = bounds
    visible = offs_n[None, :] < sees[:, None]
    if MASKED == 2:
        visible = visible & (offs_n[None, :] >= since[:, None])
    if rules.mask_ptr is not None:
        column = offs_n - tile.first_new
        inside = tile.mask_rows[:, None] & ((column >= 0) & (column < tile.Lq))[None, :]
        ptrs = tile.mask_ptrs[:, None] + column[None, :]
        if ptrs.dtype.element_ty == tl.uint8:
            visible = visible & (tl.load(ptrs, mask=inside, other=1) != 0)
        else:
            scores_log2 += to_fp32(tl.load(ptrs, mask=inside, other=0.0)) * _LOG2_E
    return tl.where(visible, scores_log2, float("-inf"))


@triton.jit
def tanh(x) -> tl.tensor:
    """Return tanh(x) to about two roundings of fp32, from one exp2 and one division.

    (1 - e^-2|x|) / (1 + e^-2|x|) loses digits where x is small; there the series is exact enough:
    the first term left out is 0.0089 x^11, below 2^-24 of x for |x| < 0.3.
    """
    a = tl.abs(x)
    e = tl.exp2(a * (-2.0 * _LOG2_E))
    large = (1.0 - e) / (1.0 + e)
    x2 = x * x
    series = 1.0 + x2 * (-1 / 3 + x2 * (2 / 15 + x2 * (-17 / 315 + x2 * (62 / 2835))))
    return tl.where(a < 0.3, x * series, tl.where(x < 0, -large, large))
