"""Append the keys and values of new tokens to a KV cache, in place, with rotary embedding.

The kernel and its diagram are in `kernels.append.append_kernel`. This module has the public op,
and the same op for `torch.compile`, which must be told that the op writes into the cache.
"""

import torch
from torch import Tensor

from kernels.append.append_kernel import Tokens, append_call
from kernels.append.checks import check_tokens, check_values


def append_kv(
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor,
    v: Tensor,
    cache_seqlens: Tensor | None = None,
    *,
    cache_batch_idx: Tensor | None = None,
    block_table: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    interleaved: bool = False,
    q: Tensor | None = None,
    rotate_at: str = "each",
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> Tensor | None:
    """Write k and v of Ln new tokens into the cache, in place, and rotate k and q by position.

    Args:
        k_cache, v_cache: (B, Lk, Hkv, D) and (B, Lk, Hkv, Dv), or pages (num_pages, page_size,
            Hkv, D), page_size at least 1; fp32, fp16, bf16, or with scales int8, float8_e5m2 or
            float8_e4m3fn (on NVIDIA GPUs from sm_89 on). Written in place; contiguous in their
            last dimension.
        k, v: (B, Ln, Hkv, D) and (B, Ln, Hkv, Dv), fp32, fp16 or bf16; the dtype of the cache
            unless that is an eight-bit one.
        cache_seqlens: (B,), int32 or int64: the length of each row *before* the append; token i
            goes to position cache_seqlens[b] + i. None: 0. Left padding counts towards the length.
        cache_batch_idx: (B,), int32 or int64: row b is written to this row of the cache. Where two
            rows write to the same position, it ends up with the numbers of either, or a mixture.
        block_table: (B, max_pages), int32 or int64: position j is in page block_table[b, j //
            page_size]. Entries of pages that get no new token are not read.
        rotary_cos, rotary_sin: (max_pos, R/2), fp32, fp16 or bf16, R ≤ D even: the table row at
            the token's position rotates the first R dimensions of k and q. None: no rotation.
        interleaved: how dimensions are paired, see `kernels.append.rotary`.
        q: (B, Lq, Hq, D), the queries to rotate, in the dtype of k. Not changed.
        rotate_at: "each": query i at cache_seqlens[b] + i; "first": all at cache_seqlens[b].
        k_scale, v_scale: fp32, for an eight-bit cache, which stores x / scale rounded to
            nearest even and clamped. () or (1,): per tensor; (Hkv,): per head; (B, Hkv): per row
            of k and head, wherever the row is stored; the first three dimensions of the cache: per
            token, computed from the token's finite numbers and also written in place. Optional for
            fp8 (default 1). NaN stays NaN; inf becomes NaN too, except in e5m2, which has it. int8
            has neither: it gets -128, and a scale of its own becomes NaN.
            `kernels.append.quantization` has the table.

    Returns:
        The rotated q, or q itself if there is no rotation; None without q.

    Raises:
        TypeError: a dtype or type that is not one of those above.
        ValueError: shapes, strides or devices that do not fit; float8_e4m3fn on an NVIDIA GPU
            before sm_89; inputs that require grad while grad is enabled. And, checked only on the
            CPU, before anything is written: a position outside the cache, a row or page that the
            cache does not have, a position that the tables do not have; a given scale that is 0 or
            not finite, and k or v that are not finite where int8 has a given scale. On a GPU the
            check would make the host wait: there, nothing is written outside the cache, a position
            without an angle gives NaN, and -128 is all that int8 with a given scale keeps of NaN
            and inf.

    Source: Su et al. 2021, "RoFormer"; `reference.kv_cache.append_kv` is its twin.
    """
    x = Tokens(k_cache, v_cache, k, v, cache_seqlens, cache_batch_idx, block_table)
    x = x._replace(rotary_cos=rotary_cos, rotary_sin=rotary_sin, k_scale=k_scale, v_scale=v_scale)
    x = x._replace(q=q)
    check_tokens(x, rotate_at)
    if rotary_cos is None:  # no rotation: q itself is the result
        x = x._replace(q=None)
    run = _append_op if torch.compiler.is_compiling() else _append
    rotated = run(*x, interleaved, rotate_at == "each")
    return q if x.q is None else rotated


def _append(
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor,
    v: Tensor,
    cache_seqlens: Tensor | None,
    cache_batch_idx: Tensor | None,
    block_table: Tensor | None,
    rotary_cos: Tensor | None,
    rotary_sin: Tensor | None,
    q: Tensor | None,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
    interleaved: bool,
    each: bool,
) -> Tensor:
    """Launch. Returns the rotated q; an empty tensor if there is no q."""
    x = Tokens(k_cache, v_cache, k, v, cache_seqlens, cache_batch_idx, block_table)
    x = x._replace(rotary_cos=rotary_cos, rotary_sin=rotary_sin, k_scale=k_scale, v_scale=v_scale)
    x = x._replace(q=q)
    check_values(x, each)
    q_out = _empty_q(k, q)
    if k.numel() or q_out.numel():
        append_call(x, interleaved, each, q_out).launch(k.device)
    return q_out


def _empty_q(k: Tensor, q: Tensor | None) -> Tensor:
    return k.new_empty(0 if q is None else q.shape)


# A custom op costs the host microseconds, so it is used only while a graph is being captured.
_append_op = torch.library.custom_op(
    "flash_decoding_course::append_kv",
    _append,
    mutates_args=("k_cache", "v_cache", "k_scale", "v_scale"),
)


@_append_op.register_fake
def _fake_append(*arguments: Tensor | bool | None) -> Tensor:
    k, q = arguments[2], arguments[9]
    return _empty_q(k, q)
