"""Shared by the kernel exercises: launching a kernel with one fault in it, and random inputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels.runtime import device

EPS = torch.finfo(torch.float32).eps


class Faulty:
    """A Triton kernel with `WRONG` fixed; launched like any other, `faulty[grid](...)`.

    A catalogued mistake is a line or two of a kernel. Writing the kernel out again for each would
    bury them, so one kernel contains them all; the value of `WRONG` picks one by name.
    """

    def __init__(self, kernel: Any, wrong: str) -> None:
        self.kernel, self.wrong = kernel, wrong

    def __getitem__(self, grid: tuple[int, ...]) -> Callable:
        def launch(*args: Any, **kwargs: Any) -> None:
            self.kernel[grid](*args, **kwargs, WRONG=self.wrong)

        return launch

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Refuse, as a kernel called without a grid does."""
        raise TypeError("a kernel must be launched with a grid: kernel[grid](...)")


def randn(rng: torch.Generator, *shape: int) -> Tensor:
    """Return random numbers drawn on the CPU, so that they are the same on every device."""
    return torch.randn(*shape, generator=rng).to(device())
