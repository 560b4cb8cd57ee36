"""FlashAttention-2 backward: rebuild each tile of p from q, k and lse instead of storing it.

With `delta = rowsum(do ∘ o)` and, tile by tile, `p = exp(scale · q kᵀ − lse)`:

    dv = pᵀ do        dp = do vᵀ        ds = p ∘ (dp − delta)
    dq = scale · ds k                   dk = scale · dsᵀ q

One number per row, lse, replaces the Lq × Lk matrix that storing p would take.

Source: Dao 2023, "FlashAttention-2", algorithm 2.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reference.arguments import check_qkv
from reference.flash_attention import (
    check_tiles,
    compute_dtype,
    flash_attention,
    tile_range,
    tile_scores,
)


def backward_head(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    do: Tensor,
    scale: float,
    causal: bool,
    bm: int,
    bn: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """One head. q: (Lq, D); k: (Lk, D); v: (Lk, Dv); o, do: (Lq, Dv); lse: (Lq,).

    Returns dq, dk, dv in the shapes of q, k, v, wide dtype.
    """
    Lq, Lk, wide = q.shape[0], k.shape[0], compute_dtype(q)
    q, k, v, o, do = (x.to(wide) for x in (q, k, v, o, do))
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    delta = (do * o).sum(-1)  # (Lq,)
    lse = torch.where(lse == -math.inf, math.inf, lse)  # a row without keys: p = exp(−inf) = 0
    for i in range(math.ceil(Lq / bm)):
        rows = slice(i * bm, (i + 1) * bm)
        full, stop = tile_range(i, bm, bn, Lq, Lk, causal)
        for j in range(stop):
            cols = slice(j * bn, (j + 1) * bn)
            masked = causal and j >= full
            scores = tile_scores(scale * q[rows], k[cols], i, j, Lq, Lk, (bm, bn), masked)
            p = torch.exp(scores - lse[rows, None])  # (bm, bn), rebuilt
            dp = do[rows] @ v[cols].T
            ds = p * (dp - delta[rows, None])
            dv[cols] += p.T @ do[rows]
            dk[cols] += scale * ds.T @ q[rows]
            dq[rows] += scale * ds @ k[cols]
    return dq, dk, dv


def flash_attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    do: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    block_m: int = 64,
    block_n: int = 64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `flash_attention` by recomputation.

    q: (B, Lq, Hq, D); k: (B, Lk, Hkv, D); v: (B, Lk, Hkv, Dv); o, do: (B, Lq, Hq, Dv); lse:
    (B, Lq, Hq), natural log, as the forward returned it. Returns dq, dk, dv in the shapes and
    dtypes of q, k, v; a KV head collects the gradients of its G query heads. Raises ValueError or
    TypeError as the forward does.
    """
    check_qkv(q, k, v)
    check_tiles(block_m, block_n)
    wanted = (*q.shape[:3], v.shape[3])
    if o.shape != wanted or do.shape != wanted or lse.shape != q.shape[:3]:
        raise ValueError(
            f"o and do must be (B, Lq, Hq, Dv) = {wanted} and lse (B, Lq, Hq); got "
            f"o {tuple(o.shape)}, do {tuple(do.shape)}, lse {tuple(lse.shape)}"
        )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    wide, G = compute_dtype(q), q.shape[2] // k.shape[2]
    dq, dk, dv = (torch.zeros_like(x, dtype=wide) for x in (q, k, v))
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            kv = k[b, :, h // G], v[b, :, h // G]
            saved = o[b, :, h], lse[b, :, h], do[b, :, h]
            grads = backward_head(q[b, :, h], *kv, *saved, scale, causal, block_m, block_n)
            dq[b, :, h] = grads[0]
            dk[b, :, h // G] += grads[1]
            dv[b, :, h // G] += grads[2]
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


class FlashAttention(torch.autograd.Function):
    """The forward and backward above, joined for autograd. Saves q, k, v, o, lse, but no p."""

    @staticmethod
    def forward(ctx, q, k, v, causal, scale, block_m, block_n):  # noqa: ANN205
        """Forward of `flash_attention`; keeps o and lse for the backward."""
        tiles = {"causal": causal, "scale": scale, "block_m": block_m, "block_n": block_n}
        o, lse = flash_attention(q, k, v, return_lse=True, **tiles)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.tiles = tiles
        return o

    @staticmethod
    @once_differentiable  # lse is saved as a constant: a second derivative would be wrong
    def backward(ctx, do):  # noqa: ANN205
        """Gradients for q, k, v; None for the four settings."""
        return *flash_attention_backward(*ctx.saved_tensors, do, **ctx.tiles), *[None] * 4


def flash_attention_autograd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    block_m: int = 64,
    block_n: int = 64,
) -> Tensor:
    """`flash_attention` that autograd can differentiate. Same arguments and errors."""
    return FlashAttention.apply(q, k, v, causal, scale, block_m, block_n)
