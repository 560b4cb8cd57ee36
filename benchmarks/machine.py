"""The GPU, the versions and the code that a record was made with; memory left and memory used."""

import gc
import hashlib
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from kernels.runtime import INTERPRETED

ROOT = Path(__file__).resolve().parents[1]
INTERPRETED_GPU = "none: interpreted on the CPU, not a measurement"


def gpu() -> dict[str, object]:
    """Name, SM count, memory and L2 of the GPU, CUDA and driver version; or that there is none."""
    if INTERPRETED:
        return {"gpu": INTERPRETED_GPU, "triton": version("triton")}
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": properties.name,
        "sms": properties.multi_processor_count,
        "gpu_memory_bytes": properties.total_memory,
        "l2_bytes": getattr(properties, "L2_cache_size", None),
        "cuda": torch.version.cuda or torch.version.hip,
        "driver": driver_version(),
        "triton": version("triton"),
    }


def driver_version() -> str:
    """The GPU driver's version, as nvidia-smi reports it; "" without nvidia-smi."""
    try:
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def code_digest(root: Path = ROOT) -> str:
    """12 hex digits of the code measured and the code that measures: kernels/ and benchmarks/.

    A machine may have the files without their history. Equal digests mean equal code.
    """
    digest = hashlib.sha256()
    for file in sorted([*root.glob("benchmarks/*.py"), *root.glob("kernels/**/*.py")]):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def version_of(*distributions: str) -> str:
    """The version of the first of these packages that is installed; "" if none is."""
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def free_bytes() -> float:
    """Bytes of GPU memory that a cell may fill: 80 % of what is free; no limit if interpreted."""
    if INTERPRETED:
        return float("inf")
    gc.collect()  # the inputs of the last cell may be in a reference cycle
    torch.cuda.empty_cache()
    return 0.8 * torch.cuda.mem_get_info()[0]


def memory_now_and_most() -> tuple[int, int]:
    """Bytes of memory that this process has now, and the most it has had so far (resident).

    Linux reports both in /proc. Its `ru_maxrss` won't do: a new process starts with its parent's.
    Elsewhere both are the most so far. Raises ImportError on Windows.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = [line.split() for line in status.read_text(encoding="ascii").splitlines()]
        found = {line[0]: int(line[1]) * 1024 for line in lines if line[0] in ("VmRSS:", "VmHWM:")}
        return found["VmRSS:"], found["VmHWM:"]
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return most, most
