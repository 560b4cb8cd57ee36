"""Flash-Decoding: attention of the newest tokens over a long KV cache, the cache cut in splits.

One query leaves FlashAttention-2 nothing to be parallel over but B·Hq programs, far fewer than a
GPU can run. So the keys are cut, too:

      stage 1   kernels.split      every split of the keys by itself → a normalised o and its lse
      stage 2   kernels.combine    o = Σ exp(lse_s - lse) · o_s

    q (B, Lq, Hq, D)       split_kernel        o (S, B, Lq, Hq, D)     combine_kernel   o, lse
    k, v (B, Lk, Hkv, D)  ───────────────►   lse (S, B, Lq, Hq)      ───────────────►
                          S · Hkv · B programs                       B·Lq·Hq programs

With one split, stage 1 writes the answer itself and stage 2 does not run.

Source: Dao, Haziza, Massa & Sizov 2023, "Flash-Decoding for long-context inference".
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from kernels.arguments import check_lengths, check_num_splits, check_qkv, resolve_scale
from kernels.combine import combine
from kernels.combine import compile_cases as combine_cases
from kernels.compile_report import CompileCase
from kernels.heuristics import Launch, choose_decode_launch, choose_num_splits
from kernels.runtime import INTERPRETED, has_tensor_cores, num_sms
from kernels.split import compile_cases as split_cases
from kernels.split import partial_attention


def flash_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_seqlens: Tensor | None = None,
    *,
    causal: bool = True,
    scale: float | None = None,
    num_splits: int | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of the newest Lq tokens over a KV cache, parallel over splits of its keys.

    Args:
        q: (B, Lq, Hq, D), fp32, fp16 or bf16; D from 1 to 256, contiguous; other strides are free.
        k_cache, v_cache: (B, Lk, Hkv, D), same dtype and device, the new tokens' k and v already
            in them; Hq a multiple of Hkv.
        cache_seqlens: (B,), int32 or int64, on the same device: valid keys of each row, the new
            ones included. 0 is allowed. None: all Lk. Keys behind a row's length are never read.
            On a GPU a length outside 0…Lk is clamped into it (looking at it would stop the host);
            on the CPU it is an error.
        causal: bottom-right aligned: query i sees the keys up to position length - Lq + i.
        scale: factor of the scores; 1/√D if None.
        num_splits: splits of the keys, at least 1; chosen by `kernels.heuristics` if None. It
            changes the speed and the last bits, not the answer. The same inputs and num_splits
            give the same bits.
        return_lse: return lse as well.

    Returns:
        o (B, Lq, Hq, D) in the dtype of q; with return_lse also lse (B, Lq, Hq), fp32, natural
        log. A query that sees no key gets o = 0, lse = -inf.

    Raises:
        TypeError: a dtype or type that is not one of those above.
        ValueError: shapes, strides, devices, lengths or num_splits that do not fit; an input that
            requires grad while grad is enabled (there is no backward).

    Source: the Flash-Decoding post, steps 1–3. The partials take S·B·Lq·Hq·(D + 1)·4 bytes.
    """
    check_qkv(q, k_cache, v_cache)
    check_lengths(cache_seqlens, k_cache)
    check_num_splits(num_splits)
    scale = resolve_scale(scale, q.shape[3])
    if q.numel() == 0:
        o, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
        return (o, lse) if return_lse else o
    launch, S = _plan(q, k_cache, num_splits)
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        o, lse = partial_attention(
            q,
            k_cache,
            v_cache,
            cache_seqlens,
            num_splits=S,
            causal=causal,
            scale=scale,
            launch=launch,
        )
        o, lse = (o[0], lse[0]) if S == 1 else combine(o, lse, q.dtype)
    return (o, lse) if return_lse else o


def _plan(q: Tensor, k_cache: Tensor, num_splits: int | None) -> tuple[Launch, int]:
    """Choose tile sizes and, unless given, the number of splits: from shapes, not from values."""
    rows = q.shape[1] * q.shape[2] // k_cache.shape[2]  # Lq·G
    launch = choose_decode_launch(
        rows=rows,
        head_dim=q.shape[3],
        element_size=q.element_size(),
        tensor_cores=q.dtype != torch.float32 and has_tensor_cores(q.device),
        interpreted=INTERPRETED,
    )
    return launch, num_splits or choose_num_splits(
        batch=q.shape[0],
        kv_heads=k_cache.shape[2],
        m_tiles=-(-rows // launch.block_m),
        max_len=k_cache.shape[1],
        block_n=launch.block_n,
        num_sms=num_sms(q.device),
    )


def compile_cases() -> list[CompileCase]:
    """List what `kernels.compile_report` compiles of both stages."""
    return split_cases() + combine_cases()
