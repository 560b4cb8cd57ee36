"""What exercise 3.1 reads from: tiles in one place in memory, and a count of what is kept."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from course.check.observe import tensors_in


def stream(scores: Tensor, v: Tensor, widths: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the tiles one after another, all in the same memory, as in a GPU's fast memory.

    Asking for the next tile overwrites the previous one; a second loop gets nothing.
    """
    score_tile = torch.empty(scores.shape[0], max(widths))
    v_tile = torch.empty(max(widths), v.shape[1])
    start = 0
    for n in widths:
        score_tile[:, :n] = scores[:, start : start + n]
        v_tile[:n] = v[start : start + n]
        yield score_tile[:, :n], v_tile[:n]
        start += n


class Alive(TorchDispatchMode):
    """Counts the numbers in tensors that were made under it and are still referenced."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.made += [weakref.ref(tensor) for _, tensor in tensors_in((result,))]
        return result

    def numbers(self) -> int:
        """How many numbers are held now."""
        held = [tensor for ref in self.made if (tensor := ref()) is not None]
        once = {id(tensor): tensor.numel() for tensor in held}  # x.copy_() gives x again
        return sum(once.values())


def numbers_kept(answer: Callable, scores: Tensor, v: Tensor, widths: list[int]) -> int:
    """How many numbers an answer to 3.1 holds after the last tile has gone by."""
    kept = 0

    def watched() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal kept
        yield from stream(scores, v, widths)
        kept = alive.numbers()

    with Alive() as alive:
        answer(watched(), scores.shape[0], v.shape[1])
    return kept
