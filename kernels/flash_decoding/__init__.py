"""Flash-Decoding: attention of the newest tokens over a long KV cache, cut into splits.

With one query, FlashAttention-2 can run only B·Hq programs in parallel, far fewer than a GPU can
run. So the keys are cut too:

      stage 1   split      every split of the keys on its own → a normalised o and its lse
      stage 2   combine    o = Σ exp(lse_s - lse) · o_s

With one split, stage 1 writes the answer itself and stage 2 does not run. This file is the door;
the rooms behind it, in the order of a call (those with a kernel are opened at the first one, since
loading triton takes longer than all the rest):

      checks     what a call accepts          split      stage 1: the kernel and its grid
      features   its optional arguments       attend     its loop: where a key lies in memory
      launch     tiles, splits, launches      rows       each row's length and queries; the scores
      op         for torch.compile            combine    stage 2

What serving adds to plain attention comes as further keywords; `reference.features` says what each
of them means.

Source: Dao, Haziza, Massa & Sizov 2023, "Flash-Decoding for long-context inference".
"""

from typing import Any

from torch import Tensor

from kernels.call import may_launch
from kernels.call_cache import CALLS, sign
from kernels.flash_decoding.checks import check_shapes
from kernels.flash_decoding.features import Features, Splits
from kernels.flash_decoding.launch import choose_splits, decode, shares_memory, shares_storage
from kernels.flash_decoding.op import check_known_sizes, decode_by_operator
from kernels.plan import Plan, decode_plan


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
    split_size: int | None = None,
    plan: Plan | None = None,
    num_sms: int | None = None,
    workspace: Tensor | None = None,
    **features: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of the newest Lq tokens over a KV cache, parallel over splits of its keys.

    Args:
        q: (B, Lq, Hq, D), fp32, fp16 or bf16; D from 1 to 256, contiguous; other strides may be
            anything.
        k_cache, v_cache: (B, Lk, Hkv, D) and (B, Lk, Hkv, Dv), on the device of q, the new tokens'
            k and v already in them; Hq a multiple of Hkv. The dtype of q, or both int8,
            float8_e5m2 or float8_e4m3fn (on NVIDIA GPUs from sm_89 on). With a single KV head D
            may be up to 576 and Dv up to 512: that is MLA, whose values are part of the keys. Pass
            `k_cache[..., :512]` as v_cache, and nothing is read twice.
        cache_seqlens: (B,), int32 or int64, on the same device: valid keys of each row, the new
            ones included. 0 is allowed. None: all Lk. Keys beyond a row's length are never read.
            On a GPU a length outside 0…Lk is clamped to that range (checking it would make the
            host wait); on the CPU it is an error.
        causal: aligned bottom-right: query i sees the keys up to position length - Lq + i.
        scale: factor applied to the scores; 1/√D if None.
        num_splits: splits of the keys, at least 1; chosen by `kernels.heuristics` if None. It
            affects the speed and the last bits, not the answer, unless scores are huge: a split
            rounds its lse to fp32, so at a score s the answer may move by |s| · 2^-23 of the range
            of the values: 1e-5 of it at 100, a tenth at 1e6. The same inputs and num_splits give
            the same bits. Never more splits are launched than the cache has blocks.
        return_lse: return lse as well.
        split_size: keys per split, instead of the number of splits; a multiple of the kernel's
            block (128 always is). A row's bits then do not depend on the batch or on other lengths.
        plan: from `flash_decode_plan`, for ragged batches: equal chunks of keys.
        num_sms: SMs to fill, if other work needs the rest; all of them if None.
        workspace: fp32, contiguous, on the device: room for the partial results, so that nothing
            is allocated; `workspace_bytes` says how much.
        features: cache_batch_idx, cache_leftpad, block_table, window, softcap, sinks,
            alibi_slopes, mask, k_scale, v_scale, as in `reference.features.Features`. A page may
            have any size; `kernels.flash_decoding.attend` says what each costs.

    Returns:
        o (B, Lq, Hq, Dv) in the dtype of q; with return_lse also lse (B, Lq, Hq), fp32, natural
        log, including the sink. A query that sees no key gets o = 0, lse = -inf (or the sink).

    Raises:
        TypeError: a dtype, type or keyword other than those above.
        ValueError: shapes, strides, devices, lengths or splits that do not fit; float8_e4m3fn on an
            NVIDIA GPU before sm_89; an input that requires grad while grad is enabled (there is no
            backward).

    Source: the Flash-Decoding post, steps 1–3. The partials take S·B·Lq·Hq·(Dv + 1)·4 bytes.
    """
    tensors, cut = (q, k_cache, v_cache), (num_splits, split_size, num_sms)
    options = (causal, scale, workspace, *_parts(plan), *cut, *features.values())
    key, addresses = sign(("flash_decode", *features), (*tensors, cache_seqlens, *options))
    known = CALLS.get(key)
    if known is not None and known.launches is not None:
        o, lse = known.again(addresses, workspace)
        return (o, lse) if return_lse else o
    given = Features(cache_seqlens=cache_seqlens, **features)
    splits = Splits(num_splits, split_size, plan, num_sms)
    rest = {"causal": causal, "scale": scale, "workspace": workspace}
    if may_launch(*tensors, cache_seqlens, *features.values()):
        o, lse = decode(*tensors, given, splits, **rest, key=key, addresses=addresses)
    else:
        o, lse = decode_by_operator(tensors, given, splits, **rest)
    return (o, lse) if return_lse else o


def _parts(plan: Plan | None) -> tuple[object, ...]:
    """Return what a plan consists of, for the call's key."""
    if type(plan) is not Plan:
        return (plan,)
    return (plan.items, plan.first_slot, *plan.made_for())


def flash_decode_plan(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_seqlens: Tensor,
    *,
    num_sms: int | None = None,
    out: Plan | None = None,
    **features: Any,
) -> Plan:
    """Return a balanced plan for `flash_decode(…, plan=plan)` with these arguments.

    Made on the device from cache_seqlens; one plan serves every layer of a decode step, but only
    that step: once lengths change, a stale plan silently skips keys. It pays off when the rows of
    a batch differ a lot in length. out: an earlier plan for the same shapes, to be overwritten.
    Arguments and errors as in `flash_decode` and `kernels.plan.decode_plan`.

    Source: `kernels.plan`.
    """
    given = Features(cache_seqlens=cache_seqlens, **features)
    check_shapes(q, k_cache, v_cache, given)
    if not may_launch(q, k_cache, v_cache):
        check_known_sizes(q, k_cache, v_cache)
    launch = choose_splits(q, k_cache, v_cache, given, Splits(num_splits=1)).launch
    return decode_plan(
        cache_seqlens,
        kv_heads=k_cache.shape[2],
        block_n=launch.block_n,
        max_len=given.capacity(k_cache),
        Lq=q.shape[1],
        rows_per_head=q.shape[1] * q.shape[2] // k_cache.shape[2],
        block_m=launch.block_m,
        cache_leftpad=given.cache_leftpad,
        window=given.window,
        num_sms=num_sms,
        out=out,
    )


def workspace_bytes(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    num_splits: int | None = None,
    split_size: int | None = None,
    plan: Plan | None = None,
    num_sms: int | None = None,
    **features: Any,
) -> int:
    """Return the bytes of scratch memory that `flash_decode` needs for these arguments.

    Arguments and errors as in `flash_decode`. A call with a single split may need none; it is
    counted all the same.

    Source: the partial results are S normalised o and lse per query row, fp32.
    """
    splits = Splits(num_splits, split_size, plan, num_sms)
    given = Features(**features)
    check_shapes(q, k_cache, v_cache, given)
    # torch.compile cannot compare addresses, and a given cut does not depend on them.
    chosen = num_splits is None and split_size is None and plan is None
    shared = shares_memory if may_launch(k_cache, v_cache) else shares_storage
    latent = chosen and shared(k_cache, v_cache)
    parts = choose_splits(q, k_cache, v_cache, given, splits, latent).parts
    rows = q.shape[1] * q.shape[2] * (q.shape[0] if plan is None else 1)
    return 4 * parts * rows * (v_cache.shape[3] + 1)
