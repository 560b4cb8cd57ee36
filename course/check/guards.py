"""Buffers with poisoned surroundings, so that a bad pointer shows even on a CPU.

A Triton kernel run by the interpreter reads past the end of a tensor without a word. Here every
tensor lies in the middle of a larger buffer of NaN: what is read out of bounds turns the result
into NaN, and what is written out of bounds changes the surroundings, which `intact()` notices.

    x = guarded(torch.randn(4, 100), row_gap=28)
    y = poisoned((4, 100))
    kernel[grid](x.tensor, y.tensor, ...)
    Seen(got=y.tensor, wanted=..., guards=(x, y))
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

MARGIN = 1024  # entries of poison on either side; larger than any block an exercise loads


@dataclass(frozen=True)
class Guarded:
    """A tensor inside poison: `tensor` is the view to hand out, `intact()` the question after."""

    tensor: torch.Tensor
    name: str
    _buffer: torch.Tensor
    _surroundings: torch.Tensor  # bool, True where only poison may be
    _before: torch.Tensor  # the buffer's bytes as they were

    def intact(self) -> bool:
        """Return whether everything outside `tensor` is bit for bit what it was."""
        now = _bytes(self._buffer)
        return torch.equal(now[self._surroundings], self._before[self._surroundings])


def guarded(
    tensor: torch.Tensor, name: str = "", *, row_gap: int = 0, margin: int = MARGIN
) -> Guarded:
    """Return a copy of `tensor` lying inside a larger buffer of NaN.

    row_gap: entries of poison between rows (the last dimension), so that running over the end
        of one row is seen too and does not just read the next; `stride(-2)` grows by it.
    margin: entries of poison before and behind. Integers have no NaN and get -1 (used as
        a page or row number it leads in front of its buffer: into NaN, and not into the wild).
    """
    last = tensor.shape[-1] if tensor.dim() else 1
    rows = math.prod(tensor.shape[:-1])
    pitch = last + row_gap
    poison = math.nan if tensor.dtype.is_floating_point else -1
    size = 2 * margin + rows * pitch
    buffer = torch.full((size,), poison, dtype=tensor.dtype, device=tensor.device)
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
    """Return an output buffer of `shape` that is NaN within and without.

    What a kernel forgets to write stays NaN, and no zero left by the allocator hides it.
    """
    fill = math.nan if dtype.is_floating_point else -1
    return guarded(torch.full(shape, fill, dtype=dtype, device=device), name, row_gap=row_gap)


@contextlib.contextmanager
def empty_is_nan() -> Iterator[None]:
    """Let `torch.empty` give NaN: rows that nobody wrote then look the same every time."""
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
