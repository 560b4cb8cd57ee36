"""How every figure in `benchmarks/results/` comes about: record, repeat, take the median.

A result without its circumstances is worth nothing, so `save` stores them with it: machine,
versions, commit, date, protocol.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

from course import recorded
from course.hardware.machine import cpu_model
from course.recorded import RESULTS


def interleave(
    contestants: dict[str, Callable[[], object]], rounds: int, on_round: Callable[[], object]
) -> dict[str, list[float]]:
    """Time all contestants in turn, `rounds` times; returns seconds per call, one list each.

    Taking turns lets a slow moment of the machine hit everyone. The first round is warm-up and
    does not count. `on_round` is called after each counted round (a progress bar's update).
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            if round_:
                times[name].append(time.perf_counter() - start)
        if round_:
            on_round()
    return times


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
