"""What this lesson's kernels have in common: how they are launched, and how exact they must be."""

import warnings

import torch

from course.check.guards import guarded
from course.check.kernel_inputs import EPS
from kernels.runtime import device

MARGIN = 4096  # of NaN before and after: a wrong head or tile may be far off


def tolerance(q, k, v, scale):
    """How far off fp32 may be: D roundings per score, at its size, then Lk in the sums.

    An error in a score is a relative error in its p, in both numerator and denominator.
    """
    size = (scale * (q.abs().double() @ k.abs().double().T)).max().item()
    return EPS * (2 * (q.shape[1] + 4) * size + len(k) + 8) * max(1.0, v.abs().max().item())


def inside_nan(*qkv, gaps=(0, 0, 0)):
    """Return q, k and v on the device, each inside NaN. gaps: entries of NaN after their rows."""
    return [
        guarded(x.to(device()), name, row_gap=gap, margin=MARGIN)
        for x, name, gap in zip(qkv, "qkv", gaps, strict=True)
    ]


def drawn(rng, *shapes):
    return [torch.randn(shape, generator=rng) for shape in shapes]


def launch(kernel, grid, *arguments, **constants):
    """Run a kernel without numpy's warnings on stderr: the report says it better."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        kernel[grid](*arguments, **constants)
