"""Packed sequences: several of any length, one after the other, without padding.

    tokens of q     ┌─ sequence 0 ─┬ 1 ┬────── sequence 3 ──────┐
    (Tq, Hq, D)     0              5   7                        16
    cu_seqlens_q    [0, 5, 7, 7, 16]           sequence 2 is empty

Sequence b owns the tokens cu_seqlens[b] … cu_seqlens[b + 1] - 1. "cu" is for cumulative: the
lengths, summed up.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.call import may_launch
from kernels.checks import check_int, check_same_device, kind
from kernels.runtime import INTERPRETED

# isort: split
import triton
import triton.language as tl

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@triton.jit
def sequence(cu_seqlens_ptr, batch, L) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return (row, first, length): where sequence `batch` is in a tensor (B, L, H, D).

    Padded (cu_seqlens_ptr None): row `batch`, from token 0, L long. Packed: all of them are in
    row 0. Wrong numbers cannot lead out of the tensor: they are clamped to 0 … L.
    """
    if cu_seqlens_ptr is None:
        where = (batch, 0, L)
    else:
        first = tl.minimum(tl.maximum(tl.load(cu_seqlens_ptr + batch), 0), L)
        stop = tl.minimum(tl.maximum(tl.load(cu_seqlens_ptr + batch + 1), first), L)
        where = (batch * 0, first.to(tl.int64), stop - first)
    return where


class Packing(NamedTuple):
    """Where packed sequences are: cu_seqlens (sequences + 1,) int32, and upper bounds on lengths.

    The maxima are plain numbers: the host lays out the grid, and does not know the lengths. None:
    not known yet, since there is nothing to read while a graph is being captured; see `pack`.
    """

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int | None
    max_seqlen_k: int | None


def pack(
    q: Tensor,
    k: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
) -> Packing | None:
    """Return the packing that an operator's flat arguments describe, its maxima measured if None.

    q, k: (1, T, H, D). None without cu_seqlens: padded.
    """
    if cu_seqlens_q is None:
        return None
    if max_seqlen_q is None:
        max_seqlen_q = measure(cu_seqlens_q, q.shape[1])
    if max_seqlen_k is None:
        max_seqlen_k = measure(cu_seqlens_k, k.shape[1])
    return Packing(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)


def measure(cu_seqlens: Tensor, tokens: int) -> int:
    """Return the length of the longest sequence; on a GPU the host waits for it.

    At most `tokens`, as the kernels read no more whatever cu_seqlens says.
    """
    if cu_seqlens.shape[0] < 2:
        return 0
    return min(max(int(cu_seqlens.diff().max()), 0), tokens)


def longest_of(name: str, longest: Any, cu_seqlens: Tensor, tokens: int) -> int | None:
    """Return a caller's upper bound on the lengths as an int; None: the operator must measure it.

    longest: an int, a numpy integer, a 0-d integer tensor, or None: measured. Under torch.compile a
    tensor has no value to read, and making it a number would break the graph: the operator then
    measures cu_seqlens itself, which says the same. Raises TypeError for anything else, ValueError
    for a number below 0 or that does not fit in 31 bits.
    """
    captured = not may_launch(cu_seqlens)
    if longest is None:
        return None if captured else measure(cu_seqlens, tokens)
    number = longest
    if isinstance(longest, Tensor):
        if longest.ndim == 0 and longest.dtype in _WHOLE:
            if captured or type(longest) is not Tensor:
                return None
            number = longest.item()
    elif not isinstance(longest, int | torch.SymInt) and getattr(longest, "shape", None) == ():
        number = longest.item()  # a numpy number
    if isinstance(number, bool) or not isinstance(number, int | torch.SymInt):
        raise TypeError(
            f"{name} must be an int, a 0-d integer tensor or None (measured); got {longest!r}"
        )
    if not captured:
        check_int(name, number, 0)
    return number


def extent(q: Tensor, k: Tensor, packing: Packing | None) -> tuple[int, int, int]:
    """Return what a grid needs: the number of sequences, their largest Lq and largest Lk."""
    if packing is None:
        return q.shape[0], q.shape[1], k.shape[1]
    return packing.cu_seqlens_q.shape[0] - 1, packing.max_seqlen_q, packing.max_seqlen_k


def check_cu_seqlens(name: str, cu_seqlens: Tensor, device: torch.device) -> None:
    """Check a tensor of cumulative lengths, without looking at its values.

    Args:
        name: the argument's name, for the message.
        cu_seqlens: (B + 1,), int32, contiguous, on `device`.

    Raises:
        TypeError: not an int32 tensor. ValueError: wrong shape, strides or device.
    """
    if not isinstance(cu_seqlens, Tensor) or cu_seqlens.dtype != torch.int32:
        raise TypeError(f"{name} must be an int32 tensor; got {kind(cu_seqlens)}")
    if cu_seqlens.ndim != 1 or not cu_seqlens.numel() or not cu_seqlens.is_contiguous():
        raise ValueError(
            f"{name} must be (B + 1,) and contiguous, where each of B sequences begins and, last, "
            f"the number of tokens; got {tuple(cu_seqlens.shape)}"
        )
    check_same_device(name, cu_seqlens, device, "q")


def check_sequences(name: str, cu_seqlens: Tensor | None, tokens: int, longest: int) -> None:
    """Check the values of cu_seqlens where no GPU has to wait: on the CPU.

    Raises ValueError unless they begin with 0, never fall, end with `tokens`, and no sequence is
    longer than `longest`.
    """
    if cu_seqlens is None or not (INTERPRETED or cu_seqlens.device.type == "cpu"):
        return
    values = cu_seqlens.tolist()
    lengths = [stop - start for start, stop in pairwise(values)]
    if values[0] != 0 or values[-1] != tokens or min(lengths, default=0) < 0:
        raise ValueError(
            f"{name} must begin with 0, never fall, and end with the number of tokens, {tokens}; "
            f"got {values}"
        )
    if max(lengths, default=0) > longest:
        raise ValueError(
            f"the longest sequence of {name} has {max(lengths)} tokens, more than the given "
            f"maximum, {longest}"
        )
