"""Buffers with poisoned surroundings, so that a bad pointer shows up even on a CPU.

A Triton kernel run by the interpreter silently reads past the end of a tensor. Here every
tensor lies in the middle of a larger buffer of NaN: a read out of bounds turns the result
into NaN, and a write out of bounds changes the surroundings, which `intact()` notices.
Inputs and outputs lie in different NaNs (the bits below the exponent tell them apart), since
arithmetic passes a NaN on unchanged: a kernel without a mask writes an input's poison over an
output's.

    x = guarded(torch.randn(4, 100), row_gap=28)
    y = poisoned((4, 100))
    kernel[grid](x.tensor, y.tensor, ...)
    Seen(got=y.tensor, wanted=..., guards=(x, y))

Not detected: a stray read that is then discarded; a write that lands in the tensor itself or beyond
the margin; and poison written back where it came from, as by an in-place update without a mask.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

MARGIN = 1024  # entries of poison on either side; larger than any block an exercise loads

UNWRITTEN = -2
"""What an output of integers holds before it is written."""

_INPUT, _OUTPUT = 0b010101, 0b101010  # six bits of a NaN; no processor produces either on its own
_PAYLOAD = 6
_FP8_NAN = {torch.float8_e4m3fn: 0x7F, torch.float8_e5m2: 0x7E}


@dataclass(frozen=True)
class Guarded:
    """A tensor inside poison: `tensor` is the view to hand out; ask `intact()` afterwards."""

    tensor: torch.Tensor
    name: str
    _buffer: torch.Tensor
    _surroundings: torch.Tensor  # bool, True where there may only be poison
    _before: torch.Tensor  # the buffer's bytes as they were

    def intact(self) -> bool:
        """Return whether everything outside `tensor` is bit for bit as it was."""
        # entry by entry: indexing by a mask wakes all threads, which costs 100 times as much
        changed = (_bytes(self._buffer) != self._before).any(-1)
        return not bool((changed & self._surroundings).any())


def guarded(
    tensor: torch.Tensor, name: str = "", *, row_gap: int = 0, margin: int = MARGIN
) -> Guarded:
    """Return a copy of `tensor` lying inside a larger buffer of NaN.

    row_gap: entries of poison between rows (the last dimension), so that running past the end
        of a row is detected too, instead of just reading the next row; `stride(-2)` grows by it.
    margin: entries of poison before and after. Integers have no NaN and get -1 (used as
        a page or row number, it points just before its buffer: into NaN, not into the wild).
    """
    return _inside(_poison(tensor, _INPUT), tensor, name, row_gap, margin)


def _inside(
    poison: torch.Tensor, tensor: torch.Tensor, name: str, row_gap: int, margin: int
) -> Guarded:
    last = tensor.shape[-1] if tensor.dim() else 1
    rows = math.prod(tensor.shape[:-1])
    pitch = last + row_gap
    size = 2 * margin + rows * pitch
    buffer = poison.repeat(size)
    strides = _strides(tensor.shape, pitch)
    view = buffer.as_strided(tensor.shape, strides, margin)
    view.copy_(tensor)
    outside = torch.ones(size, dtype=torch.bool, device=tensor.device)
    outside.as_strided(tensor.shape, strides, margin).fill_(False)
    return Guarded(view, name, buffer, outside, _bytes(buffer).clone())


def poisoned(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    name: str = "",
    *,
    row_gap: int = 0,
    device: str | torch.device = "cpu",
) -> Guarded:
    """Return an output buffer of `shape` that is NaN inside and around.

    What a kernel forgets to write stays NaN, and no zero left by the allocator hides it.
    Integers get -2, which is no input's poison.
    """
    fill = math.nan if dtype.is_floating_point else UNWRITTEN
    tensor = torch.full(shape, fill, dtype=dtype, device=device)
    return _inside(_poison(tensor, _OUTPUT), tensor, name, row_gap, MARGIN)


def _poison(like: torch.Tensor, payload: int) -> torch.Tensor:
    """Return one entry of poison, (1,), with the dtype and device of `like`.

    The payload sits in the highest bits below the one that makes a NaN quiet: there it survives
    a cast to fewer bits. An 8-bit float has no room for it: an output's poison is negative there,
    which no cast makes of an input's.
    """
    if not like.dtype.is_floating_point:
        return torch.full((1,), -1 if payload == _INPUT else UNWRITTEN, dtype=like.dtype).to(
            like.device
        )
    if like.dtype in _FP8_NAN:
        sign = 0x80 if payload == _OUTPUT else 0
        entry = torch.tensor([_FP8_NAN[like.dtype] | sign], dtype=torch.uint8)
        return entry.view(like.dtype).to(like.device)
    entry = torch.tensor([math.nan], dtype=like.dtype)
    mantissa = round(-math.log2(torch.finfo(like.dtype).eps))
    if mantissa > _PAYLOAD:
        whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[entry.element_size()]
        entry.view(whole)[0] |= payload << (mantissa - 1 - _PAYLOAD)
    return entry.to(like.device)


@contextlib.contextmanager
def empty_is_nan() -> Iterator[None]:
    """Let `torch.empty` return NaN: rows never written then look the same every time."""
    before = torch.are_deterministic_algorithms_enabled()
    gently = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=gently)
        torch.utils.deterministic.fill_uninitialized_memory = filling


def _strides(shape: torch.Size, pitch: int) -> tuple[int, ...]:
    strides, step = [], pitch
    for i, extent in enumerate(reversed(shape)):
        strides.append(1 if i == 0 else step)
        step = step if i == 0 else step * extent
    return tuple(reversed(strides))


def _bytes(buffer: torch.Tensor) -> torch.Tensor:
    """Return the buffer as (entries, bytes per entry): NaN compares equal to itself as bytes."""
    return buffer.view(torch.uint8).view(buffer.numel(), buffer.element_size())
