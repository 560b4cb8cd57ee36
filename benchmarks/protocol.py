"""How every figure in `benchmarks/results/` comes about: record, repeat, take the median.

A result without its circumstances is worth nothing, so `save` stores them with it: machine,
versions, commit, date, protocol.
"""

import json
import os
import platform
import statistics
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch

from course import recorded
from course.hardware.machine import cpu_model
from course.recorded import RESULTS


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """Median over the rounds of slow / fast, taken within each round (unitless)."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def git_commit() -> str:
    """The commit the code was at, with "+changes" if the tree was not clean; "" without git."""

    def ask(*args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=RESULTS.parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = ask("status", "--porcelain", "--", "../reference", "../kernels", ".")
        return ask("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def circumstances() -> dict[str, object]:
    """Where and when: CPU, threads, versions, commit, date (UTC)."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def save(path: Path, protocol: str, rows: list[dict], **more: object) -> Path:
    """Write circumstances, protocol, `more` and rows as JSON. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {**circumstances(), "protocol": protocol, **more, "rows": rows}
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def load(name: str) -> dict | None:
    """The recorded run `results/NAME.json`, or None if nobody has recorded one yet."""
    return recorded.load(name, RESULTS)
