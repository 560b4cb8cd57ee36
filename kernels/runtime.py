"""Compiled or interpreted? Decided here, once, before any kernel is decorated.

`@triton.jit` reads `TRITON_INTERPRET` at the moment it decorates, and triton's own helpers
(`tl.sum`, `tl.max`, …) are decorated when triton is imported. So the choice is made here, without
importing triton, and it holds for the whole process:

    TRITON_INTERPRET is set     it is respected (1: interpreted; 0: compiled, GPU or not)
    not set, GPU present        compiled (CUDA, or ROCm, which torch also calls "cuda")
    not set, no GPU             interpreted: the kernel runs on the CPU in numpy, slowly but exactly

PyTorch imports triton on its own: making an optimizer is enough. If it did so before this module
was imported, triton's helpers may be decorated for a compiler where there is no GPU to compile for.
They are then decorated again, for the interpreter.

Every module with a kernel in it imports this one before triton; the comment "isort: split" keeps
the import sorter from changing that order.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import torch

STAND_IN_SMS = 16
"""Number of SMs assumed where there is no GPU: enough for an interpreted call to be split."""

_NO_TRITON = (
    "kernels need triton: install it (on Windows, triton-windows, which this project has not "
    "tested). Where it has no build, as on macOS, use a Linux container, WSL or Colab, or call the "
    "function of the same name in `reference`, which needs torch alone."
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


def _decide() -> bool:
    """Decide the mode, put triton into it if it is loaded, return whether kernels are interpreted.

    Raises:
        ImportError: triton is missing, too old for the installed numpy, or loaded in a mode that it
            cannot leave; the message says what to do.
    """
    if importlib.util.find_spec("triton") is None:
        raise ImportError(_NO_TRITON, name="triton")
    # Asking NVML, as device_count does, leaves CUDA untouched: the process can still fork.
    if "TRITON_INTERPRET" not in os.environ and torch.cuda.device_count() == 0:
        os.environ["TRITON_INTERPRET"] = "1"
    # a * b + c as one instruction, rounded once: Triton 3.9 warns unless it is told to.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

    interpreted = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
    if interpreted:
        _check_numpy()
    if "triton" in sys.modules:
        _adopt(sys.modules["triton"], interpreted)
    return interpreted


def _check_numpy() -> None:
    """Raise ImportError if the interpreter of this triton is older than a change in numpy."""
    numpy = version("numpy")
    if _version(numpy) < (2, 4):
        return
    for name in ("triton", "triton-windows"):
        try:
            triton = version(name)
        except PackageNotFoundError:
            continue
        if _version(triton) < (3, 7):
            raise ImportError(_NUMPY_TOO_NEW.format(triton=triton, numpy=numpy))


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


def _adopt(triton: ModuleType, interpreted: bool) -> None:
    """Make sure that a triton which is already loaded is in this mode, or raise ImportError."""
    is_interpreted = type(triton.language.sum).__name__ == "InterpretedFunction"
    if interpreted == is_interpreted:
        return
    # With a GPU, torch.compile uses these helpers too, and needs them compiled.
    if interpreted and torch.cuda.device_count() == 0:
        _interpret_helpers(triton)
        return
    names = {True: "interpreted", False: "compiled"}
    raise ImportError(
        _TOO_LATE.format(
            actual=names[is_interpreted], wanted=names[interpreted], setting=int(interpreted)
        )
    )


def _interpret_helpers(triton: ModuleType) -> None:
    """Decorate triton's own helpers again, for the interpreter: `tl.sum`, `tensor.max`, …

    A helper calls others by their names in its module, so each is replaced wherever it has a name.
    """
    from triton.runtime.jit import JITFunction

    @cache
    def again(function: Callable[..., Any]) -> Any:
        return triton.jit(function)

    def as_method(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: again(function)(*args, **kwargs)

    owners = [module for name, module in sys.modules.items() if name.startswith("triton.language")]
    for owner, wrap in [
        *((module, again) for module in owners),
        (triton.language.tensor, as_method),
    ]:
        for name, member in list(vars(owner).items()):
            if type(member) is JITFunction:  # its hash would compile it: pass on what it decorates
                setattr(owner, name, wrap(member.fn))


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


@cache
def has_dependent_launch(device: torch.device) -> bool:
    """Say whether a kernel can be put in place before the one ahead of it is done: from sm_90 on.

    Source: NVIDIA, "CUDA C++ Programming Guide", programmatic dependent launch.
    """
    if INTERPRETED or device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


@cache
def has_e4m3(device: torch.device) -> bool:
    """Say whether kernels read and write float8_e4m3fn there: sm_89 and later, AMD, interpreted.

    Before sm_89 NVIDIA has no instruction for it, and Triton no substitute. AMD's gfx942 has one
    for a format with other values (fnuz), so Triton converts with integer arithmetic there; into
    bf16 it makes 480 of a NaN (Triton 3.9; into fp16 and fp32 a NaN stays one).
    """
    if INTERPRETED or device.type != "cuda" or torch.version.hip is not None:
        return True
    return torch.cuda.get_device_capability(device) >= (8, 9)
