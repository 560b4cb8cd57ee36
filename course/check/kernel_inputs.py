"""Inputs of the kernel exercises: random numbers on the device that kernels run on."""

import torch
from torch import Tensor

from kernels.runtime import device

EPS = torch.finfo(torch.float32).eps


def randn(rng: torch.Generator, *shape: int) -> Tensor:
    """Return random numbers drawn on the CPU, so that they are the same on every device."""
    return torch.randn(*shape, generator=rng).to(device())
