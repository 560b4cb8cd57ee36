"""What `flash_decode` does: check, choose tiles and splits, launch stage 1 and stage 2.

    q (B, Lq, Hq, D)       split_kernel        o (S, B, Lq, Hq, Dv)    combine_kernel   o, lse
    k, v (B, Lk, Hkv, D)  ───────────────►   lse (S, B, Lq, Hq)      ───────────────►
                          S · Hkv · B programs                       B·Lq·Hq programs

Three ways to cut the keys: a number of splits (chosen here or given), a split size, a plan.
Nothing here reads a value on the device, so nothing waits and a CUDA graph can capture it all.
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from kernels.checks import resolve_scale
from kernels.flash_decoding.checks import (
    check_decode,
    check_grid,
    check_plan_fits,
    check_workspace,
)
from kernels.flash_decoding.combine import combine_call
from kernels.flash_decoding.features import Features, Splits
from kernels.flash_decoding.split import split_call
from kernels.heuristics import Launch, choose_decode_launch, choose_num_splits
from kernels.runtime import INTERPRETED, has_small_shared_memory, has_tensor_cores
from kernels.runtime import num_sms as sms_of


def decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    features: Features,
    splits: Splits,
    *,
    causal: bool,
    scale: float | None,
    workspace: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return o and lse; arguments and errors as in `kernels.flash_decoding.flash_decode`."""
    check_decode(q, k_cache, v_cache, features, causal)
    scale = resolve_scale(scale, q.shape[3])
    (B, Lq, Hq, _), Dv = q.shape, v_cache.shape[3]
    o = torch.empty(B, Lq, Hq, Dv, dtype=q.dtype, device=q.device)
    lse = torch.empty(B, Lq, Hq, dtype=torch.float32, device=q.device)
    launch, parts, split_blocks = plan_launch(q, k_cache, v_cache, features, splits)
    if lse.numel() == 0:
        return o, lse
    plan, sinks = splits.plan, features.sinks
    if plan is not None and INTERPRETED:
        check_plan_fits(plan.items, plan.first, plan.block_n, Lq, k_cache, features)
    if workspace is not None:
        check_workspace(workspace, 0, q.device)
    options = {"num_splits": parts, "causal": causal, "scale": scale, "launch": launch}
    options |= {"split_blocks": split_blocks, "items": None if plan is None else plan.items}
    values = None if _shares_memory(k_cache, v_cache, launch) else v_cache
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        if parts == 1 and plan is None and sinks is None:  # a single split is the answer
            split_call(q, k_cache, values, features, o, lse, **options).launch()
        else:
            rows = (parts, Lq, Hq) if plan is not None else (parts, B, Lq, Hq)
            partials = _partials(rows, Dv, workspace, q.device)
            split_call(q, k_cache, values, features, *partials, **options).launch()
            first = None if plan is None else plan.first
            combine_call(*partials, o, lse, first=first, sinks=sinks).launch()
    return o, lse


def plan_launch(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, features: Features, splits: Splits
) -> tuple[Launch, int, int | None]:
    """Choose tile sizes, the number of parts and, for a fixed size, the blocks per split.

    From shapes, not values. Raises as `Splits.check` does.
    """
    (B, Lq, Hq, D), Hkv = q.shape, k_cache.shape[2]
    rows, capacity = Lq * Hq // Hkv, features.capacity(k_cache)
    launch = choose_decode_launch(
        rows=rows,
        head_dim=D,
        value_dim=v_cache.shape[3],
        element_size=k_cache.element_size(),
        tensor_cores=q.dtype != torch.float32 and has_tensor_cores(q.device),
        small=has_small_shared_memory(q.device),
        paged=features.block_table is not None,
        interpreted=INTERPRETED,
        max_len=0 if splits.split_size else capacity,  # a fixed size fits the smaller block too
    )
    m_tiles = max(1, -(-rows // launch.block_m))
    check_grid(q, Hkv * m_tiles, launch.block_m)
    call = {"B": B, "Lq": Lq, "max_len": capacity, "left": features.sides[0]}
    call["padded"] = features.cache_leftpad is not None
    splits.check(block_n=launch.block_n, **call)
    if splits.plan is not None:
        return launch, len(splits.plan.items), None
    if splits.split_size is not None:
        parts = max(1, -(-capacity // splits.split_size))
        return launch, parts, splits.split_size // launch.block_n
    if splits.num_splits is not None:  # more splits than blocks would be empty
        return launch, min(splits.num_splits, max(1, -(-capacity // launch.block_n))), None
    columns = D if _shares_memory(k_cache, v_cache, launch) else D + v_cache.shape[3]
    parts = choose_num_splits(
        batch=B,
        kv_heads=Hkv,
        m_tiles=m_tiles,
        max_len=features.span(k_cache, Lq),
        block_n=launch.block_n,
        num_sms=splits.num_sms or sms_of(q.device),
        token_bytes=columns * k_cache.element_size(),
        partial_bytes=4 * min(rows, launch.block_m) * (v_cache.shape[3] + 1),
    )
    return launch, parts, None


def _partials(
    rows: tuple[int, ...], Dv: int, workspace: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Room for o (*rows, Dv) and lse (*rows), fp32: in the caller's workspace, or a new one."""
    count = torch.Size(rows).numel()
    if workspace is None:
        workspace = torch.empty(count * (Dv + 1), dtype=torch.float32, device=device)
    check_workspace(workspace, count * (Dv + 1), device)
    return (
        workspace[: count * Dv].view(*rows, Dv),
        workspace[count * Dv : count * (Dv + 1)].view(rows),
    )


def _shares_memory(k_cache: Tensor, v_cache: Tensor, launch: Launch) -> bool:
    """Say whether the values are the first columns of the keys, block for block (MLA)."""
    return (
        v_cache.data_ptr() == k_cache.data_ptr() != 0
        and v_cache.stride() == k_cache.stride()
        and launch.block_dv == launch.block_d
        and k_cache.numel() > 0
    )
