"""What this machine has: Python, PyTorch, Triton, a GPU or the interpreter, and what to fix.

`report()` is what lesson 00 shows. `python -m course.environment` prints it in a terminal.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

NO_TRITON = (
    "Triton has no build for {system}. The lessons that need only PyTorch run as they are (00 to"
    " 04, 07, 08, 14, 16 and 17); for the kernel lessons (05, 06, 09, 10 and 12) use Linux: a"
    " container, WSL on Windows, or Colab."
)
ON_WINDOWS = (
    "Triton here is its community's build for Windows, with which this course has not been tested:"
    " if a kernel lesson fails, use WSL."
)
TRITON_MISSING = (
    "Triton is missing: quit Jupyter, run `make lab` (or `python course/bootstrap.py lab`), and"
    " start again."
)
SHADOWED = (
    "`import kernels` finds {found}, not this course's package: do not trust any kernel"
    " lesson here. If it is Hugging Face's `kernels`, remove it (`pip uninstall kernels`), or start"
    " with `make lab`, whose .venv does not have it; then restart Jupyter's kernel."
)
BESIDE = (
    "Hugging Face's package `kernels` {version} is installed too. The course's own comes first, so"
    " the lessons run, but a library that needs the other one, such as transformers, finds ours."
    " Use another environment for such work."
)
NO_GPU = (
    "No GPU was found: `make gpu` compiles the kernels and measures them, so run it on a machine"
    " with an NVIDIA or AMD GPU (without one, `make test` checks the same kernels interpreted)."
)


@dataclass(frozen=True)
class Environment:
    """What `report()` found; prints as a small table, then what to fix, if anything.

    Attributes:
        python: its version, such as "3.11.9".
        system: operating system and processor, such as "Linux x86_64".
        torch: PyTorch's version, or "missing".
        triton: Triton's version, or "missing".
        gpu: the GPU's name and memory in GB, or "none".
        mode: how kernels run here: "compiled", "interpreted" or "not at all".
        cores: the number of CPU cores this process may use.
        notices: what does not work here and what to do about it, one or two sentences each.
    """

    python: str
    system: str
    torch: str
    triton: str
    gpu: str
    mode: str
    cores: int
    notices: tuple[str, ...] = ()

    def __str__(self) -> str:
        meaning = {
            "compiled": "compiled for the GPU: fast",
            "interpreted": "interpreted on the CPU: exact but slow; small shapes only",
        }
        rows = {
            "Python": self.python,
            "System": f"{self.system}, {self.cores} CPU core{'s' * (self.cores != 1)}",
            "PyTorch": self.torch,
            "Triton": self.triton,
            "GPU": self.gpu,
            "Kernels": meaning.get(self.mode, self.mode),
        }
        lines = [f"{name:<9}{value}" for name, value in rows.items()]
        lines += ["", *(f"! {notice}" for notice in self.notices)] if self.notices else []
        return "\n".join(lines)

    __repr__ = __str__


def report() -> Environment:
    """Look at this machine and return what the course can do on it.

    Returns:
        An `Environment`. What is missing raises no error: it is listed in `notices`.
    """
    mode, trouble = _mode()  # first: kernels.runtime must be imported before triton
    untested = ON_WINDOWS if sys.platform == "win32" and not trouble else ""
    notices = [notice for notice in (trouble, untested, namespace_notice()) if notice]
    return Environment(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        torch=_version("torch"),
        triton=_version("triton"),
        gpu=_gpu(),
        mode=mode,
        cores=_cores(),
        notices=tuple(notices),
    )


def namespace_notice() -> str:
    """Say what to do if Hugging Face's `kernels` hides ours or is installed; else return ""."""
    spec = importlib.util.find_spec("kernels")
    found = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
    if not found or Path(found).resolve() != ROOT / "kernels" / "__init__.py":
        return SHADOWED.format(found=found or "nothing")
    try:
        return BESIDE.format(version=importlib.metadata.version("kernels"))
    except importlib.metadata.PackageNotFoundError:
        return ""


def _version(name: str) -> str:
    """Return the version of an importable package, or "missing"."""
    if importlib.util.find_spec(name) is None:
        return "missing"
    return str(getattr(importlib.import_module(name), "__version__", "of unknown version"))


def _mode() -> tuple[str, str]:
    """Return how kernels run here and, if they do not, what to do about it."""
    if importlib.util.find_spec("triton") is None:
        windows = sys.platform == "win32" and platform.machine() == "AMD64"
        built = sys.platform.startswith("linux") or windows
        return "not at all", TRITON_MISSING if built else NO_TRITON.format(system=platform.system())
    try:
        from kernels.runtime import INTERPRETED
    except ImportError as error:
        return "not at all", "" if namespace_notice() else str(error)
    return ("interpreted" if INTERPRETED else "compiled"), ""


def _gpu() -> str:
    """Return the first GPU's name and memory, or "none"."""
    if importlib.util.find_spec("torch") is None:
        return "none"
    import torch

    if not torch.cuda.is_available():
        return "none"
    gpu = torch.cuda.get_device_properties(0)
    more = torch.cuda.device_count() - 1
    return f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB" + (f" (and {more} more)" if more else "")


def _cores() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: in a container, fewer than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main(arguments: list[str]) -> int:
    """Print the report; with `need-gpu`, fail with one sentence if there is no GPU."""
    if arguments == ["need-gpu"] and _gpu() == "none":
        print(NO_GPU, file=sys.stderr)
        return 1
    print(report())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
