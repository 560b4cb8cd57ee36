"""Packed sequences: several of any length, one after the other, without padding.

    tokens of q     ┌─ sequence 0 ─┬ 1 ┬────── sequence 3 ──────┐
    (Tq, Hq, D)     0              5   7                        16
    cu_seqlens_q    [0, 5, 7, 7, 16]           sequence 2 is empty

Sequence b owns the tokens cu_seqlens[b] … cu_seqlens[b + 1] - 1. "cu" is for cumulative: the
lengths, summed up.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.checks import check_same_device, kind
from kernels.runtime import INTERPRETED

# isort: split
import triton
import triton.language as tl


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

    The maxima are plain numbers: the host lays out the grid, and does not know the lengths.
    """

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int


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
