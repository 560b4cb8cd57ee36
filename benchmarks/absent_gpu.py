"""A GPU that is not there: the host's part of a launch, on a machine without one.

Triton does all it does before a kernel starts: it reads the arguments, looks up or compiles the
kernel for an H100. Only the last step is missing, the function in C that hands the kernel to the
driver; in its place is one that does nothing, or what a test wants to see. Tensors are on the CPU.
Used in a process of its own, with TRITON_INTERPRET=0.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch

SMS = 132
NAMES = {
    "check_device": lambda device: None,  # takes the CPU for a GPU …
    "has_values": lambda x: False,  # … whose memory the host does not read
    "sms_of": lambda device: SMS,
    "has_tensor_cores": lambda device: True,
    "has_small_shared_memory": lambda device: False,
}
"""What modules of `kernels` are told about the device, by the names that they import it under."""


def nothing(*arguments: Any) -> None:
    """Launch nothing."""


class AbsentGpu:
    """Triton's driver for a GPU that is not there. launch: called in place of each launch."""

    def __init__(self, launch: Callable[..., None] = nothing) -> None:
        self.utils = self
        self.launcher_cls = lambda source, metadata: launch

    def get_current_target(self) -> Any:
        """Return an H100, as Triton calls it."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """Return the number of the only GPU."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """Return the default stream."""
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        """Return what Triton asks for before it loads a kernel."""
        return {"max_shared_mem": 232448, "multiprocessor_count": SMS}

    def load_binary(self, *kernel: Any) -> tuple[None, int, int, int, int]:
        """Load nothing: module, function, registers, spills, threads."""
        return None, 0, 32, 0, 1024


def install(launch: Callable[..., None] = nothing) -> None:
    """Let Triton and every module of `kernels` that is loaded take the CPU for this GPU."""
    from triton.runtime.driver import driver

    driver.set_active(AbsentGpu(launch))
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "kernels":
            for known, answer in NAMES.items():
                if hasattr(module, known):
                    setattr(module, known, answer)


def bf16(*shape: int) -> torch.Tensor:
    """A tensor whose numbers nobody reads."""
    return torch.empty(shape, dtype=torch.bfloat16)
