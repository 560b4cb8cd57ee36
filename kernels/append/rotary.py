"""Rotary embedding: rotate pairs of dimensions by an angle that grows with the token's position.

    (x, y)  →  (x · cos - y · sin,  y · cos + x · sin)        angle = position · θ^(-2i / R)

The score of a rotated q and a rotated k depends on positions only through the distance between
them. The first R of the D dimensions are rotated, the others are left alone. There are two ways to
pair them:

    interleaved    (0, 1) (2, 3) (4, 5) …          the paper, GPT-J
    halves         (0, R/2) (1, R/2 + 1) …         GPT-NeoX, Llama as Hugging Face stores it

Each dimension d has a partner, an angle and a sign: out[d] = x[d] · cos ± x[partner] · sin. The
partners are loaded again rather than shuffled between threads: they are in the GPU's cache.

Source: Su et al. 2021, "RoFormer", section 3.4.2.
"""

from typing import NamedTuple

from kernels.primitives import to_fp32

# isort: split
import triton
import triton.language as tl


class Rotary(NamedTuple):
    """Tables of cos and sin, (max_pos, R/2) each, contiguous in their last dimension."""

    cos_ptr: tl.tensor
    sin_ptr: tl.tensor
    stride_cos: tl.tensor
    stride_sin: tl.tensor
    max_pos: tl.tensor


@triton.jit
def load_rotated(
    ptrs,
    exists,
    position,
    rotary,
    D: tl.constexpr,
    R: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> tl.tensor:
    """Load rows (BLOCK_T, BLOCK_D) as fp32, rotated; 0 where there is nothing to load.

    ptrs (BLOCK_T,): to the first dimension of each row; exists (BLOCK_T,). position (BLOCK_T,)
    int64. rotary: None leaves the rows as they are. A position that the tables don't have gives
    NaN in the rotated dimensions: a result computed without its angle would be silently wrong.
    """
    offs_d = tl.arange(0, BLOCK_D)
    mask = exists[:, None] & (offs_d < D)[None, :]
    x = to_fp32(tl.load(ptrs[:, None] + offs_d[None, :], mask=mask, other=0.0))
    if rotary is not None:
        if INTERLEAVED:
            is_first, partner, angle = offs_d % 2 == 0, offs_d ^ 1, offs_d // 2
        else:
            is_first, angle = offs_d < R // 2, offs_d % (R // 2)
            partner = tl.where(is_first, offs_d + R // 2, offs_d - R // 2)
        mask_r = exists[:, None] & (offs_d < R)[None, :]
        y = to_fp32(tl.load(ptrs[:, None] + partner[None, :], mask=mask_r, other=0.0))

        known = mask_r & ((position >= 0) & (position < rotary.max_pos))[:, None]
        cos_ptrs = rotary.cos_ptr + (position * rotary.stride_cos)[:, None] + angle[None, :]
        sin_ptrs = rotary.sin_ptr + (position * rotary.stride_sin)[:, None] + angle[None, :]
        cos = to_fp32(tl.load(cos_ptrs, mask=known, other=0.0))
        sin = to_fp32(tl.load(sin_ptrs, mask=known, other=0.0))
        new = x * cos + tl.where(is_first[None, :], -y, y) * sin
        x = tl.where(mask_r, tl.where(known, new, float("nan")), x)
    return x
