"""One launch of one kernel, as a value: what is measured, compiled and launched is the same.

A module that has a kernel describes its launch once, in a function that returns a `KernelCall`.
The public op launches it; `kernels.compile_report` builds the same call from tensors on the "meta"
device, which have shapes but no memory, and compiles it for GPUs that need not be present.

`may_launch` decides, for every public op, between a launch and the operator of `torch.library` that
stands for it (`kernels.operators`). `kernels.call_cache` makes a launch again with other tensors.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active, _len_torch_dispatch_stack
from torch.compiler import is_dynamo_compiling
from torch.nn import Parameter

from kernels.runtime import INTERPRETED

ORDINARY = frozenset((Tensor, Parameter, type(None)))
"""Types of tensors that are nothing but memory, and of a tensor that is not given."""
_TURN = RLock()
"""Held while a kernel is interpreted: Triton's interpreter replaces members of `tl` meanwhile and
keeps the number of the running program in one place, so that two threads would mix theirs up."""


def is_watched() -> bool:
    """Say whether somebody must be told what is computed: a compiler, a mode or a transform."""
    return bool(
        is_dynamo_compiling() or _len_torch_dispatch_stack() or _are_functorch_transforms_active()
    )


def may_launch(first: Tensor, *others: object) -> bool:
    """Say whether a kernel can be launched on these tensors here and now.

    True for ordinary tensors, which have memory, and which nobody but the caller looks at; other
    arguments don't matter. False for all that must be told what is being computed, and gets an
    operator to look at: `torch.compile` and `torch.export`; a dispatch mode (FakeTensorMode,
    `make_fx`, FlopCounterMode …); a subclass of Tensor; vmap and the other transforms of
    `torch.func`; the meta device (told by the first). A decode step asks this, so it takes a
    fraction of a microsecond; the dispatcher would take longer than some short contexts do.
    """
    if is_watched():
        return False
    for x in others:
        if type(x) not in ORDINARY and isinstance(x, Tensor):
            return False
    if not isinstance(first, Tensor):  # told by the op's own checks
        return True
    return type(first) in ORDINARY and not first.is_meta


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one: Triton launches there, wherever the tensors are."""
    if device.type != "cuda" or torch.cuda.current_device() == device.index:
        return nullcontext()
    return torch.cuda.device(device)


@dataclass(frozen=True)
class KernelCall:
    """A kernel, its grid and every argument.

    kernel: a `@triton.jit` function. grid: programs along each axis. args: name → value for every
    parameter, in parameter order: tensors, numbers, None, NamedTuples of these, and
    the constexprs as plain values. num_warps, num_stages: as in Triton. launch_pdl: it may be put
    in place before the kernel ahead of it in the stream is done, and waits for that one itself
    (programmatic dependent launch, sm_90 and later).
    """

    kernel: Any
    grid: tuple[int, ...]
    args: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    launch_pdl: bool = False

    def launch(self, device: torch.device) -> Any:
        """Start the kernel on the device of its tensors; does not wait for it.

        May be called from any thread. Interpreted kernels run one at a time, and are then done.
        Returns the compiled kernel; None if it was interpreted.
        """
        if INTERPRETED:
            with _TURN:
                return self._start()
        with on_device(device):
            return self._start()

    def _start(self) -> Any:
        # By position: Triton binds keywords more slowly, and a decode step takes microseconds.
        # enable_fp_fusion: a · b + c rounded once; Triton 3.9 warns unless it is told to.
        return self.kernel[self.grid](
            *self.args.values(),
            num_warps=self.num_warps,
            num_stages=self.num_stages,
            enable_fp_fusion=True,
            **({"launch_pdl": True} if self.launch_pdl else {}),  # AMD knows no such option
        )


class Cells(NamedTuple):
    """Q, K or V (or one scale per token and head) in memory: a pointer and three strides."""

    ptr: Any
    stride_b: Any  # from one row of the cache to the next, or from page to page
    stride_n: Any  # from token to token
    stride_h: Any
