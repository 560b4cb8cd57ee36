"""Append the keys and values of new tokens to a KV cache, in place, with rotary embedding.

The kernel and its diagram are in `kernels.append.append_kernel`. This module has the public op,
and the same as an operator for `torch.compile`, which must be told what is written to. Autograd is
told, too: a gradient that needs the cache as it was before would be wrong, and becomes an error.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.append.append_kernel import Tokens, append_call
from kernels.append.checks import NO_BACKWARD, check_rotate_at, check_tokens, check_values
from kernels.call import may_launch
from kernels.call_cache import CALLS, DIRECT, Relaunch, launch_again, relaunches, sign
from kernels.checks import check_no_grad, per_token
from kernels.operators import define, may_check


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
    x = Tokens(
        k_cache, v_cache, k, v, cache_seqlens, cache_batch_idx, block_table,
        rotary_cos, rotary_sin, q, k_scale, v_scale,
    )  # fmt: skip
    key, addresses = sign(("append_kv",), (*x, interleaved, rotate_at))
    known = CALLS.get(key)
    if known is None:
        check_rotate_at(rotate_at)
    each = rotate_at == "each"
    if known is not None and known.launches is not None:
        rotated = known.again(addresses)
    elif may_launch(k, *x):
        rotated = _launch(x, interleaved, each, key, addresses)
    else:
        rotated = _by_operator(x, interleaved, each)
        return q if rotary_cos is None or q is None else rotated
    torch.autograd.graph.increment_version(_written(x))
    return q if rotary_cos is None or q is None else rotated


class Known(NamedTuple):
    """What is remembered of a call. Of its tensors, what they were, but not themselves.

    rotated: shape, dtype and device of the rotated q. launches: None where kernels are interpreted.
    """

    rotated: tuple[torch.Size, torch.dtype, torch.device]
    launches: tuple[Relaunch, ...] | None

    def again(self, addresses: list[int]) -> Tensor:
        """Launch the kernel for other tensors of the same kind, and return the rotated q."""
        shape, dtype, device = self.rotated
        q_out = torch.empty(shape, dtype=dtype, device=device)
        launch_again(self.launches, [*addresses, q_out.data_ptr()], device)
        return q_out


def _by_operator(x: Tokens, interleaved: bool, each: bool) -> Tensor:
    """Append by the one of two operators that declares what is written, and no more."""
    for name in ("k_cache", "v_cache", "k", "v", "q"):
        if isinstance(getattr(x, name), Tensor):
            check_no_grad(name, getattr(x, name), NO_BACKWARD)
    op = append_op if len(_written(x)) > 2 else append_given_scales_op
    if may_check(*x):
        check_tokens(x)
    return op(*x, interleaved, each)


def _written(x: Tokens) -> list[Tensor]:
    """The tensors that are written to: the caches, and scales that are computed from the tokens."""
    return [x.k_cache, x.v_cache, *filter(per_token, (x.k_scale, x.v_scale))]


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
    """Check and launch. Returns the rotated q; an empty tensor if there is none to rotate."""
    x = Tokens(
        k_cache, v_cache, k, v, cache_seqlens, cache_batch_idx, block_table,
        rotary_cos, rotary_sin, q, k_scale, v_scale,
    )  # fmt: skip
    return _launch(x, interleaved, each)


def _launch(
    x: Tokens,
    interleaved: bool,
    each: bool,
    key: tuple | None = None,
    addresses: Sequence[int] = (),
) -> Tensor:
    """Check what is not known yet, and launch; returns what `_append` does.

    key, addresses: of the call (`kernels.call_cache.sign`), if it is to be remembered.
    """
    known, launched = CALLS.get(key), []
    if known is None:
        check_tokens(x)
    check_values(x, each)
    if x.rotary_cos is None:
        x = x._replace(q=None)
    q_out = _empty_q(x)
    if x.k.numel() or q_out.numel():
        call = append_call(x, interleaved, each, q_out)
        launched.append((call, call.launch(x.k.device)))
    if known is None and key is not None:
        again = relaunches(launched, addresses, (q_out,)) if DIRECT else None
        CALLS.put(key, Known((q_out.shape, q_out.dtype, q_out.device), again))
    return q_out


def _empty_q(x: Tokens) -> Tensor:
    return x.k.new_empty(0 if x.q is None or x.rotary_cos is None else x.q.shape)


def _fake(*arguments: Tensor | bool | None) -> Tensor:
    return _empty_q(Tokens(*arguments[:-2]))


def _check(*arguments: Tensor | bool | None) -> None:
    check_tokens(Tokens(*arguments[:-2]))


_CACHES, _SCALES = ("k_cache", "v_cache"), ("k_scale", "v_scale")
append_op = define("append_kv", _append, _fake, check=_check, writes=_CACHES + _SCALES)
append_given_scales_op = define(
    "append_kv_given_scales", _append, _fake, check=_check, writes=_CACHES
)
