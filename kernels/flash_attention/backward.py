"""FlashAttention-2, backward: every tile of p is recomputed from q, k and lse, never stored.

With `delta = rowsum(do ∘ o)`, tile by tile:

    p = exp(scale · q kᵀ − lse)        dv = pᵀ do             ds = p ∘ (do vᵀ − delta)
                                       dk = scale · dsᵀ q     dq = scale · ds k

If lse has a gradient of its own, ds has one more term, p ∘ dlse: the kernels get delta − dlse as
delta and need not know about it.

    1  rows_kernel    (⌈Lq / BLOCK_M⌉, Hq, B)    delta and lse per row, in the form the others need
    2  dkdv_kernel    (⌈Lk / BLOCK_N⌉, Hkv, B)   a program owns keys and walks over queries, one
                                                 head of its group after another
    3  dq_kernel      (⌈Lq / BLOCK_M⌉, Hq, B)    a program owns queries and walks over keys

    causal, Lq < Lk             keys  →                          a program of 2 owns a column, one
                ┌────────┬────────┬────────┬──┐                  of 3 a row. As in the forward pass,
    queries  0  │ full   │ ▓▓▓▓▓▓╲│        │  │                  full tiles (stage 1) are multiplied
       ↓        ├────────┼────────┼────────┼──┤                  without a mask, those cut by the
             1  │ full   │ full   │ ▓▓▓▓▓▓╲│  │                  diagonal with one (▓); blank ones
                └────────┴────────┴────────┴──┘                  are never visited

No other program adds to what a program owns, so no atomic additions are needed, and two runs give
the same bits. The price: 2 and 3 both compute p and do vᵀ, seven products per tile instead of five.

Source: Dao 2023, "FlashAttention-2", arXiv:2307.08691, algorithm 2.
"""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kernels.call import KernelCall
from kernels.flash_attention.backward_dkdv import dkdv_kernel
from kernels.flash_attention.backward_dq import dq_kernel
from kernels.flash_attention.backward_rows import rows_call
from kernels.flash_attention.packed import Packing, extent
from kernels.flash_attention.tiles import BackwardTiles, Cores, Tiles, choose_backward_tiles
from kernels.heuristics import next_power_of_2
from kernels.primitives import LOG2_E
from kernels.runtime import INTERPRETED

# isort: split
import triton


def dkdv_call(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    stats: tuple[Tensor, Tensor],
    grads: tuple[Tensor, Tensor],
    packing: Packing | None,
    scale: float,
    causal: bool,
    tiles: Tiles,
) -> KernelCall:
    """Step 2. inputs: q, k, v, do; stats: lse_log2, delta → grads: dk, dv, contiguous."""
    outputs = {"dk_ptr": grads[0], "dv_ptr": grads[1]}
    args = _arguments(inputs, stats, outputs, packing, scale, causal, tiles)
    sequences, _, Lk = extent(*inputs[:2], packing)
    grid = (triton.cdiv(Lk, tiles.block_n), inputs[1].shape[2], sequences)
    return KernelCall(dkdv_kernel, grid, args, tiles.num_warps, tiles.num_stages)


def dq_call(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    stats: tuple[Tensor, Tensor],
    dq: Tensor,
    packing: Packing | None,
    scale: float,
    causal: bool,
    tiles: Tiles,
) -> KernelCall:
    """Step 3. inputs: q, k, v, do; stats: lse_log2, delta → dq, contiguous."""
    args = _arguments(inputs, stats, {"dq_ptr": dq}, packing, scale, causal, tiles)
    sequences, Lq, _ = extent(*inputs[:2], packing)
    grid = (triton.cdiv(Lq, tiles.block_m), inputs[0].shape[2], sequences)
    return KernelCall(dq_kernel, grid, args, tiles.num_warps, tiles.num_stages)


def _arguments(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    stats: tuple[Tensor, Tensor],
    outputs: dict[str, Tensor],
    packing: Packing | None,
    scale: float,
    causal: bool,
    tiles: Tiles,
) -> dict[str, Any]:
    """The arguments of steps 2 and 3, in the order of their parameters; outputs by name."""
    q, k, v, do = inputs
    return {
        "q_ptr": q,
        "k_ptr": k,
        "v_ptr": v,
        "do_ptr": do,
        "lse_log2_ptr": stats[0],
        "delta_ptr": stats[1],
        **outputs,
        "cu_seqlens_q_ptr": packing.cu_seqlens_q if packing else None,
        "cu_seqlens_k_ptr": packing.cu_seqlens_k if packing else None,
        **dict(zip(("stride_qb", "stride_qm", "stride_qh"), q.stride(), strict=False)),
        **dict(zip(("stride_kb", "stride_kn", "stride_kh"), k.stride(), strict=False)),
        **dict(zip(("stride_vb", "stride_vn", "stride_vh"), v.stride(), strict=False)),
        **dict(zip(("stride_dob", "stride_dom", "stride_doh"), do.stride(), strict=False)),
        "Lq": q.shape[1],
        "Lk": k.shape[1],
        "G": q.shape[2] // k.shape[2],
        "scale": scale,
        "scale_log2": scale * LOG2_E,
        "CAUSAL": causal,
        "D": q.shape[3],
        "DV": v.shape[3],
        "BLOCK_M": tiles.block_m,
        "BLOCK_N": tiles.block_n,
        "BLOCK_D": max(16, next_power_of_2(q.shape[3])),
        "BLOCK_DV": max(16, next_power_of_2(v.shape[3])),
    }


def backward_calls(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    do: Tensor,
    dlse: Tensor | None,
    grads: tuple[Tensor, Tensor, Tensor],
    packing: Packing | None,
    scale: float,
    causal: bool,
    tiles: BackwardTiles,
) -> list[KernelCall]:
    """Return the three launches of the backward pass; grads (dq, dk, dv) are contiguous.

    Packed sequences lie in row 0 of tensors with B = 1; step 1 goes row by row, without packing.
    """
    B, Lq, Hq, _ = q.shape
    lse_log2, delta = torch.empty(2, B, Hq, Lq, dtype=torch.float32, device=q.device)
    inputs, stats, (dq, dk, dv) = (q, k, v, do), (lse_log2, delta), grads
    calls = [
        rows_call(o, do, lse, dlse, delta, lse_log2),
        dkdv_call(inputs, stats, (dk, dv), packing, scale, causal, tiles.dkdv),
        dq_call(inputs, stats, dq, packing, scale, causal, tiles.dq),
    ]
    return [call for call in calls if math.prod(call.grid)]  # nothing to compute, nothing to launch


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    do: Tensor,
    dlse: Tensor | None,
    packing: Packing | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dq, dk, dv, contiguous, for a forward pass that gave o and lse; nothing is checked.

    Shapes as in `kernels.flash_attention`; do is the gradient of o, with any strides; dlse that of
    lse, or None.
    """
    do = do if do.stride(3) == 1 else do.contiguous()
    o, lse, dlse = o.contiguous(), lse.contiguous(), None if dlse is None else dlse.contiguous()
    tiles = choose_backward_tiles(
        head_dim=q.shape[3],
        value_dim=v.shape[3],
        element_size=q.element_size(),
        cores=cores_of(q.device),
        interpreted=INTERPRETED,
    )
    grads = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    for call in backward_calls(q, k, v, o, lse, do, dlse, grads, packing, scale, causal, tiles):
        call.launch(q.device)
    return grads


@cache
def cores_of(device: torch.device) -> Cores:
    """Return what multiplies 16-bit tiles on a device; a CPU stands in for an A100."""
    if device.type != "cuda":
        return "ampere"
    if torch.version.hip is not None:
        return "amd"
    major, _ = torch.cuda.get_device_capability(device)
    return "hopper" if major == 9 else "ampere" if major >= 8 else "turing"
