"""Append the keys and values of new tokens to a KV cache, in place, with rotary embedding.

The kernel and its picture are in `kernels.append.append_kernel`. Here are the public op and the
same op for `torch.compile`, which must be told that it writes into the cache.
"""

from contextlib import nullcontext

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
    """Write the k and v of Ln new tokens into the cache, in place, and turn k and q by position.

    Args:
        k_cache, v_cache: (B, Lk, Hkv, D) and (B, Lk, Hkv, Dv), or pages (num_pages, page_size,
            Hkv, D), page_size a power of two; fp32, fp16, bf16, or int8, float8_e4m3fn or
            float8_e5m2 with scales. Written in place; contiguous in their last dimension.
        k, v: (B, Ln, Hkv, D) and (B, Ln, Hkv, Dv), fp32, fp16 or bf16; the dtype of the cache
            unless that has eight bits.
        cache_seqlens: (B,), int32 or int64: the length of each row *before*; token i goes to
            place cache_seqlens[b] + i. None: 0. Left padding counts as part of the row.
        cache_batch_idx: (B,), int32 or int64: row b is written to this row of the cache. Two rows
            that write the same place leave either's numbers there, or some of both.
        block_table: (B, max_pages), int32 or int64: place j lies in page block_table[b, j //
            page_size]. Entries of pages without a new token are not looked at.
        rotary_cos, rotary_sin: (max_pos, R/2), fp32, fp16 or bf16, R ≤ D even: turns the first R
            dimensions of k, and of q, by the row of the token's place. None: nothing is turned.
        interleaved: which dimensions are pairs, see `kernels.append.rotary`.
        q: (B, Lq, Hq, D), the queries to turn, in the dtype of k. Not changed.
        rotate_at: "each": query i at cache_seqlens[b] + i; "first": all at cache_seqlens[b].
        k_scale, v_scale: fp32, for a cache of eight bits, which stores x / scale rounded to
            nearest even and clamped. () or (1,): per tensor; (Hkv,): per head; the first three
            dimensions of the cache: each token's own, computed from it and written in place too.
            fp8 may leave them out (1).

    Returns:
        q turned, or q itself where there is nothing to turn; None without q.

    Raises:
        TypeError: a dtype or type that is not one of those above.
        ValueError: shapes, strides or devices that do not fit; inputs that require grad while
            grad is enabled. And, looked at only on the CPU, before anything is written: a place
            outside the cache, a row or page that it does not have, a position that the tables do
            not have. On a GPU looking would stop the host: there, a place outside the cache is
            not written, and a position without an angle gives NaN.

    Source: Su et al. 2021, "RoFormer"; `reference.kv_cache.append_kv` is its twin.
    """
    x = Tokens(k_cache, v_cache, k, v, cache_seqlens, cache_batch_idx, block_table)
    x = x._replace(rotary_cos=rotary_cos, rotary_sin=rotary_sin, k_scale=k_scale, v_scale=v_scale)
    x = x._replace(q=q)
    check_tokens(x, rotate_at)
    if rotary_cos is None:  # nothing to turn: q itself is the answer
        x = x._replace(q=None)
    run = _append_op if torch.compiler.is_compiling() else _append
    turned = run(*x, interleaved, rotate_at == "each")
    return q if x.q is None else turned


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
    """Launch. Returns the turned q; an empty tensor where there is no q."""
    x = Tokens(k_cache, v_cache, k, v, cache_seqlens, cache_batch_idx, block_table)
    x = x._replace(rotary_cos=rotary_cos, rotary_sin=rotary_sin, k_scale=k_scale, v_scale=v_scale)
    x = x._replace(q=q)
    check_values(x, each)
    q_out = _empty_q(k, q)
    if k.numel() or q_out.numel():
        with torch.cuda.device(k.device) if k.is_cuda else nullcontext():
            append_call(x, interleaved, each, q_out).launch()
    return q_out


def _empty_q(k: Tensor, q: Tensor | None) -> Tensor:
    return k.new_empty(0 if q is None else q.shape)


# A custom op costs microseconds of the host, so it is used where a graph is being captured only.
_append_op = torch.library.custom_op(
    "flash_decoding_course::append_kv",
    _append,
    mutates_args=("k_cache", "v_cache", "k_scale", "v_scale"),
)


@_append_op.register_fake
def _fake_append(*arguments: Tensor | bool | None) -> Tensor:
    k, q = arguments[2], arguments[9]
    return _empty_q(k, q)
