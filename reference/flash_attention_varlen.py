"""Attention over packed sequences: a batch of mixed lengths, one after the other, no padding.

    tokens of q     ┌─ sequence 0 ─┬ 1 ┬────── sequence 3 ──────┐
    (Tq, Hq, D)     0              5   7                        16
    cu_seqlens_q    [0, 5, 7, 7, 16]           sequence 2 is empty

Padding to the longest sequence would make this 4 × 9 = 36 tokens instead of 16, and the work of
attention grows with their square. Here each sequence is cut out and attends only to itself.

Source: the layout of `flash_attn_varlen_func` in flash-attention (Dao).
"""

from itertools import pairwise

import torch
from torch import Tensor

from reference.attention import attention


def sequence_bounds(
    cu_seqlens: Tensor, tokens: int, longest: int | None = None
) -> list[tuple[int, int]]:
    """Turn cumulative lengths into a `(start, stop)` for each sequence.

    cu_seqlens: (B + 1,), integers that begin with 0, never fall, and end with `tokens`. longest: no
    sequence may have more tokens; default `tokens`. Raises TypeError for a non-integer dtype,
    ValueError for anything else.

    >>> sequence_bounds(torch.tensor([0, 5, 7, 7, 16]), tokens=16, longest=9)
    [(0, 5), (5, 7), (7, 7), (7, 16)]
    """
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens must be int32 or int64; got {cu_seqlens.dtype}")
    values = cu_seqlens.tolist()
    if cu_seqlens.ndim != 1 or not values or values[0] != 0 or values[-1] != tokens:
        raise ValueError(
            f"cu_seqlens must begin with 0 and end with the token count, {tokens}; got {values}"
        )
    longest = tokens if longest is None else longest
    bounds = list(pairwise(values))
    if any(not 0 <= stop - start <= longest for start, stop in bounds):
        raise ValueError(f"sequences must have 0 to {longest} tokens; got cu_seqlens {values}")
    return bounds


def longest_of(name: str, longest: int | Tensor | None) -> int | None:
    """Return a maximal length given as an int, a numpy integer, a 0-d integer tensor, or None.

    name: for the message. Raises TypeError for anything else, ValueError for a number below 0.
    """
    number = longest.item() if getattr(longest, "shape", None) == () else longest
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} must be an int, a 0-d integer tensor or None; got {longest!r}")
    if number < 0:
        raise ValueError(f"{name} must be at least 0; got {number}")
    return number


def flash_attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int | Tensor | None,
    max_seqlen_k: int | Tensor | None,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention within each sequence, by naive attention, one sequence after the other.

    q: (Tq, Hq, D); k: (Tk, Hkv, D); v: (Tk, Hkv, Dv): the tokens of B sequences. cu_seqlens_q,
    cu_seqlens_k: (B + 1,), as in `sequence_bounds`. max_seqlen_q, max_seqlen_k: length of the
    longest, or more, as in `longest_of`; a kernel needs them for its grid, here they are only
    checked. causal: bottom-right aligned within each sequence. scale: default 1/√D.

    Returns `o (Tq, Hq, Dv)` in the dtype of q and, with return_lse, `lse (Tq, Hq)`, natural log.
    Raises as `attention` and `sequence_bounds` do, and ValueError if q and k differ in B.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 3:
            raise ValueError(f"{name} must be (tokens, H, D); got {tuple(x.shape)}")
    longest_q = longest_of("max_seqlen_q", max_seqlen_q)
    longest_k = longest_of("max_seqlen_k", max_seqlen_k)
    bounds_q = sequence_bounds(cu_seqlens_q, q.shape[0], longest_q)
    bounds_k = sequence_bounds(cu_seqlens_k, k.shape[0], longest_k)
    if len(bounds_q) != len(bounds_k):
        raise ValueError(f"q has {len(bounds_q)} sequences, k has {len(bounds_k)}")
    o, lse = q.new_empty(0, q.shape[1], v.shape[2]), q.new_empty(0, q.shape[1]).float()
    parts = [(o, lse.double() if q.dtype == torch.float64 else lse)]
    for (q0, q1), (k0, k1) in zip(bounds_q, bounds_k, strict=True):
        one = q[None, q0:q1], k[None, k0:k1], v[None, k0:k1]
        o, lse = attention(*one, causal=causal, scale=scale, return_lse=True)
        parts.append((o[0], lse[0]))
    o, lse = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    return (o, lse) if return_lse else o
