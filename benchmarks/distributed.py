"""Merges and decode steps over 2 and 4 ranks of this machine, connected by gloo.

    python -m benchmarks distributed [--quick] [--out FILE]

What it is for: do the bytes agree with the formulas, does the time of a merge grow with rounds and
bytes as the model of `course.hardware.interconnects` says (latency + bytes / bandwidth), and does
a second core halve a decode step? Times of gloo over loopback say nothing about NVLink.
"""

import json
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.protocol import RESULTS, save
from reference.distributed import sent_bytes
from reference.distributed.launch import torchrun

D = 128
RANKS = (1, 2, 4)
PROTOCOL = (
    "R processes on one machine, one thread each, gloo over the loopback interface; fp32, D=128, "
    "Hq=32, Hkv=8, B=1, Lq=1 for steps. A sample is the slowest rank's time from a common barrier; "
    "two calls warm up; median ms and quartiles. sent, messages: counted where they are sent, rank "
    "0. formula: reference.distributed.sent_bytes. wire: tx_bytes of the loopback interface, all "
    "ranks together, for the backend's own collectives, TCP/IP headers included. model: ms = "
    "a · rounds + b · bytes, fitted by least squares of relative errors to the merges of 2 ranks "
    "(ring, gather and heads), then asked for those of 4. load_average_before: of the machine, 1, "
    "5 and 15 minutes: above 0, others were working there, too. Ranks beyond `cores` share cores."
)


def fit(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """The a (ms for a round) and b (ms for a byte) that fit rows best, relative errors squared."""
    import numpy as np

    table = np.array([[row["messages"], row["sent"]] for row in rows], dtype=float)
    took = np.array([row["ms"] for row in rows])
    (a, b), *_ = np.linalg.lstsq(table / took[:, None], np.ones(len(rows)), rcond=None)
    return float(a), float(b)


def with_formula(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what the formula says: bytes that a rank sends, or that all put on the wire."""
    if row["kind"] == "merge":
        return row | {"formula": sent_bytes(row["merge"], row["ranks"], row["rows"], D, 4)}
    if row["kind"] == "wire":
        one = sent_bytes(row["merge"], row["ranks"], row["rows"], D, 4)
        return row | {"formula": one * row["ranks"] * row["times"]}
    return row


def model(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fit to 2 ranks, and the ratio measured / predicted of each merge over 2 and 4."""
    counted = [r for r in rows if r["kind"] == "merge" and r["how"] == "ring"]
    own = [r for r in counted if r["ranks"] == 2 and r["merge"] != "reduce"]
    a, b = fit(own)
    ratios = [
        {
            "ranks": r["ranks"], "merge": r["merge"], "rows": r["rows"],
            "ratio": round(r["ms"] / (a * r["messages"] + b * r["sent"]), 3),
        }
        for r in counted if r["ranks"] > 1
    ]  # fmt: skip
    return {"ms_per_round": round(a, 5), "ms_per_mb": round(b * 1e6, 5), "ratios": ratios}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = ["ranks  merge   collectives     rows   bytes sent      formula         ms"]
    for r in (r for r in rows if r["kind"] == "merge"):
        sent = f"{r['sent']:,}" if "sent" in r else "–"
        lines.append(
            f"{r['ranks']:>5}  {r['merge']:8}{r['how']:11}{r['rows']:>9,}{sent:>13}"
            f"{r['formula']:>13,.0f}{r['ms']:>11.3f}"
        )
    lines.append("\nranks   length   attention ms   with merge ms")
    for r in (r for r in rows if r["kind"] == "step"):
        lines.append(f"{r['ranks']:>5}{r['length']:>9,}{r['attend_ms']:>15.3f}{r['ms']:>16.3f}")
    lines.append("\nranks  merge   bytes on the wire / formula")
    for r in (r for r in rows if r["kind"] == "wire" and r["formula"]):
        lines.append(f"{r['ranks']:>5}  {r['merge']:8}{r['bytes'] / r['formula']:.3f}")
    return "\n".join(lines)


def main(options: Namespace) -> None:
    """Start the ranks, print what they measured, write the record."""
    rows: list[dict[str, Any]] = []
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    quick = ["--quick"] if options.quick else []
    for ranks in tqdm(RANKS, desc="distributed", unit="launch"):
        run = torchrun(ranks, "benchmarks.distributed_worker", *quick, seconds=1800)
        if run.returncode:
            raise SystemExit(f"{ranks} ranks failed:\n{run.stderr[-2000:]}")
        (line,) = (text for text in run.stdout.splitlines() if text.startswith("["))
        rows += [with_formula(row) for row in json.loads(line)]
    fitted = model(rows)
    print(table(rows))
    print(f"\nms = {fitted['ms_per_round']:.4f} · rounds + {fitted['ms_per_mb']:.4f} · MB sent")
    path = Path(options.out) if options.out else RESULTS / "distributed.json"
    save(path, PROTOCOL, rows, model=fitted, load_average_before=[round(x, 2) for x in load])
    print(f"written: {path}")
