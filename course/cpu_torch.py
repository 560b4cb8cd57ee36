"""PyTorch's CPU build, for a machine without a GPU.

On Linux the PyTorch on PyPI comes with NVIDIA's libraries: 5 GB in all. The CPU build has a tenth
of that. Where no GPU is found it is taken if one is at hand: in a folder of wheels that pip
knows (`PIP_FIND_LINKS`), or else on PyTorch's own index, unless packages come from an index of the
user's own. If neither has one, the set-up goes the usual way.

Like `bootstrap.py`, which uses it, this keeps to the standard library and Python 3.6's syntax.
"""

import glob
import os
import platform
import re
import shutil
import sys
import threading
import urllib.request

from course.heartbeat import follow
from course.installers import output_of, own_index, pip_environment

PAGE = "https://download.pytorch.org/whl/cpu/torch/"  # the links to all CPU builds
PATIENCE = 8.0  # seconds that the page may take; without a network it never comes


def has_gpu() -> bool:
    """Say whether this machine has a GPU that PyTorch can use; COURSE_GPU=1 or 0 overrules."""
    told = os.environ.get("COURSE_GPU", "")
    if told in ("0", "1"):
        return told == "1"
    if glob.glob("/dev/nvidia[0-9]*") or os.path.exists("/dev/kfd"):  # NVIDIA's; AMD's
        return True
    nvidia_smi = shutil.which("nvidia-smi")  # WSL has no such device, but this program
    return bool(nvidia_smi) and b"GPU 0" in output_of([nvidia_smi, "-L"])


def requirement(root: str) -> str:
    """Return the project's requirement of PyTorch, such as "torch>=2.11", or "" if it has none."""
    import tomllib  # not before check_python: it is new in 3.11

    with open(os.path.join(root, "pyproject.toml"), "rb") as file:
        wanted = tomllib.load(file)["project"].get("dependencies", [])
    return next((text for text in wanted if re.match(r"torch\b(?!-)", text)), "")


def from_folder(python: str, wanted: str) -> str:
    """Ask pip, without its index, which PyTorch it would install.

    So pip judges what fits this Python, this machine and the user's constraints.

    Returns:
        A version such as "2.13.0+cpu", "installed" if .venv has one, or "" if there is none.
    """
    said = []

    def read(line: str) -> tuple:
        said.append(line)
        return "", ""

    command = [python, "-m", "pip", "install", "--dry-run", "--no-deps", "--no-index", wanted]
    follow(command, "looking for PyTorch's CPU build", read, env=pip_environment())
    text = "".join(said)
    if "already satisfied: torch" in text:
        return "installed"
    found = re.search(r"^Would install torch-(\S+\+cpu)$", text, re.MULTILINE)
    return found.group(1) if found else ""


def on_index(page: str = PAGE, patience: float = PATIENCE) -> bool:
    """Say whether PyTorch's index answers and has a CPU build for this Python and processor."""
    answers = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(page, timeout=patience) as answer:
                answers.append(answer.read().decode("utf-8", "replace"))
        except Exception:  # whatever it is, there is another way
            answers.append("")

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name knows no time limit
    asking.start()
    asking.join(patience)
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    wheel = rf"torch-[\d.]+(%2B|\+)cpu-{tag}-{tag}-\w*linux\w*_{platform.machine()}\.whl"
    return bool(answers and re.search(wheel, answers[0]))


def options(python: str, root: str, settings: dict) -> list:
    """Return what to add to `pip install` or `uv pip install` to get a CPU build, or [].

    Args:
        python: .venv's Python, which has pip.
        root: the project's folder.
        settings: those of `installers.pip_settings`.
    """
    wanted = requirement(root)
    if not wanted or not sys.platform.startswith("linux") or has_gpu():
        return []  # elsewhere PyPI's PyTorch is the CPU build
    version = from_folder(python, wanted)
    if version == "installed":
        return []
    if version:
        print(f"  no GPU found: taking PyTorch's CPU build, {version}", flush=True)
        return [f"torch=={version}"]
    if not own_index(settings) and not os.environ.get("UV_TORCH_BACKEND") and on_index():
        print("  no GPU found: taking PyTorch's CPU build from its own index", flush=True)
        return ["--find-links", PAGE]  # of two builds of one version, the one marked +cpu wins
    return []
