"""Compiled or interpreted? Decided here, once, before any kernel is decorated.

`@triton.jit` reads `TRITON_INTERPRET` at the moment it decorates, and triton's own helpers
(`tl.sum`, `tl.max`, …) are decorated when triton is imported. The choice must therefore be made
before the first `import triton`, and it holds for the whole process:

    TRITON_INTERPRET is set     it is respected (1: interpreted; 0: compiled, GPU or not)
    not set, GPU present        compiled (CUDA, or ROCm, which torch also calls "cuda")
    not set, no GPU             interpreted: the kernel runs on the CPU in numpy, slowly but exactly

Every module with a kernel in it imports this one before triton; the comment "isort: split" keeps
the import sorter from changing that order.
"""

import importlib.util
import os
import sys
from functools import cache
from importlib.metadata import version

import torch

STAND_IN_SMS = 16
"""Number of SMs assumed where there is no GPU: enough for an interpreted call to be split."""

_NO_TRITON = (
    "kernels need triton, whose wheels are for Linux only: use a Linux container, WSL or "
    "Colab, or call the function of the same name in `reference`, which needs torch alone."
)
_TOO_LATE = (
    "triton was imported before kernels.runtime, in {actual} mode, but this process needs {wanted} "
    "mode: restart Python (in Jupyter: restart the kernel) and import kernels before anything that "
    "imports triton, or set TRITON_INTERPRET={setting} before Python starts."
)
_TWICE = (
    "{here} cannot be imported beside {there}: they are two copies of one package, the "
    "repository's and the installed one, and define the same PyTorch operators. Restart Python and "
    "import only one of them."
)
_NUMPY_TOO_NEW = (
    "the interpreter of triton {triton} cannot loop over a loaded number with numpy {numpy}: "
    "install triton 3.7 or newer, or numpy older than 2.4."
)


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _refuse_a_copy() -> None:
    """Raise ImportError if this package is loaded under its other name, too.

    `custom_op` lets a second definition replace the first silently, for those who call the first.
    """
    for name, module in list(sys.modules.items()):
        same = name.split(".")[-2:] == ["kernels", "runtime"] and hasattr(module, "INTERPRETED")
        if same and name != __name__:
            here, there = (x.rpartition(".")[0] for x in (__name__, name))
            raise ImportError(_TWICE.format(here=here, there=there), name=here)


def _decide() -> bool:
    """Decide the mode, import triton in it, and return whether kernels are interpreted."""
    if importlib.util.find_spec("triton") is None:
        raise ImportError(_NO_TRITON, name="triton")
    if "TRITON_INTERPRET" not in os.environ and not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    # a * b + c as one instruction, rounded once: Triton 3.9 warns unless it is told to.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

    import triton
    import triton.language as tl

    wanted = bool(triton.knobs.runtime.interpret)
    actual = type(tl.sum).__name__ == "InterpretedFunction"  # what `import triton` decided
    if wanted != actual:
        names = {True: "interpreted", False: "compiled"}
        raise ImportError(
            _TOO_LATE.format(actual=names[actual], wanted=names[wanted], setting=int(wanted))
        )
    if wanted and _version(triton.__version__) < (3, 7) and _version(version("numpy")) >= (2, 4):
        raise ImportError(_NUMPY_TOO_NEW.format(triton=triton.__version__, numpy=version("numpy")))
    return wanted


_refuse_a_copy()
INTERPRETED: bool = _decide()


def device() -> str:
    """Return the torch device that this process's kernels run on.

    Returns:
        "cpu" when interpreted, "cuda" when compiled (also torch's name for a ROCm GPU). A process
        that compiles without a GPU (`TRITON_INTERPRET=0`) gets "cuda" as well: it can compile
        kernels, but not launch them.
    """
    return "cpu" if INTERPRETED else "cuda"


@cache
def num_sms(device: torch.device) -> int:
    """Return how many streaming multiprocessors to fill; on a CPU, which has none, a stand-in."""
    if device.type != "cuda":
        return STAND_IN_SMS
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def has_tensor_cores(device: torch.device) -> bool:
    """Say whether Triton multiplies 16-bit tiles on tensor cores: sm_80 and later, and AMD."""
    if device.type != "cuda":
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def has_small_shared_memory(device: torch.device) -> bool:
    """Say whether a program gets 64 KiB of shared memory or less: AMD's LDS, and before sm_80."""
    return device.type == "cuda" and not (
        torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
    )
