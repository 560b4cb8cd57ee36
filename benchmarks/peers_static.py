"""Our decode kernel beside other libraries', compiled and counted.

Nothing runs, so any machine gives the same table.

    python -m benchmarks peers_static [--quick] [--before COMMIT] [--out FILE]

An earlier build of ours is compiled and counted as well: the last one before the decode kernel was
made cheaper, or another whose compile report counts.

The sources of each peer come from its wheel, which is downloaded to a temporary folder and deleted
afterwards. `benchmarks.static_launch` compiles them through their own launchers, with the Triton
that is installed here, so that the compiler is the same for all. Only FlashInfer takes nvcc, if it
is on PATH (`benchmarks.static_nvcc`). `kernels.compile_report.counts` explains the columns. What is
missing is listed with the reason.
"""

import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from benchmarks import static_nvcc
from benchmarks.builds import build_of
from benchmarks.machine import ROOT
from benchmarks.protocol import RESULTS, save
from kernels.compile_report import run
from kernels.compile_report.counts import LINE
from kernels.compile_report.targets import target as find_target

TARGETS = ("sm_90", "sm_80")
BEFORE = "5e322c3"  # the last commit whose decode kernel took 364 instructions a tile
OURS = {
    "bf16, G 8": "split bf16 D=128 G=8 Lq=1",
    "bf16, G 8, pages of 64": "split bf16 D=128 G=8 Lq=1 pages of 64",
    "bf16, G 8, pages of 16": "split bf16 D=128 G=8 Lq=1 pages of 16",
    "bf16, G 1": "split bf16 D=128 G=1 Lq=1",
    "bf16, G 1, pages of 16": "split bf16 D=128 G=1 Lq=1 pages of 16",
    "e4m3, G 8": "split bf16 e4m3 D=128 G=8 Lq=1 scale a head",
    "int8, G 8": "split bf16 int8 D=128 G=8 Lq=1 scale a head",
    "e5m2, G 8": "split bf16 e5m2 D=128 G=8 Lq=1 scale a head",
}
_VLLM = "vllm/v1/attention/ops/triton_"
WHEELS = {  # package → how the files begin that its decode kernels are made from
    "flashinfer-python": ("flashinfer/data/include/", "flashinfer/data/cccl/"),
    "fasterkernels": ("fskernels/triton/triton_gqa_decode_hf.py",),
    "lmdeploy": ("lmdeploy/pytorch/kernels/cuda/pagedattention.py",),
    "sglang": ("sglang/kernels/ops/attention/decode_attention.py",),
    "vllm": tuple(
        f"{_VLLM}{name}.py"
        for name in ("decode_attention", "unified_attention", "attention_helpers")
    ),
}
NOT_COUNTED = {
    "flashinfer, tensor cores": "the prefill kernel, for grouped heads, is not compiled here",
    "triton tutorial 06": "no wheel of Triton contains its tutorials",
    "sdpa": "machine code in PyTorch's CUDA build",
}
FIELDS = ("registers", "spill_bytes", "num_warps", "shared_bytes", "resident_blocks", "tile_bytes")
FIELDS += ("tile_instructions", "issue_share", "pipe", "pipe_share", "bytes_in_flight")

PROTOCOL = (
    "compiled, never run: the loop that moves K and V found in SASS and counted, see "
    "kernels.compile_report.counts; D 128, one query per row, 4 rows of 4,096 keys, 8 KV heads; "
    "tiles, warps and stages as each launcher chooses them; shares are of the time that a tile's "
    "bytes take on an H200 (sm_90) or an A100 (sm_80), at datasheet bandwidth and boost clock; "
    "bytes in flight are of K and V, per SM."
)


def ours() -> Iterator[dict[str, Any]]:
    """Our rows: those of the compile report."""
    for name in OURS.values():
        yield from (_counted(row.as_dict()) for row in run(name, TARGETS) if not row.failure)


def earlier(commit: str, folder: Path) -> Iterator[dict[str, Any]]:
    """The same rows of an earlier build of ours, or one that says why there are none."""
    label = {"peer": f"ours at {commit}"}
    try:
        root = build_of(commit, folder)
    except (OSError, subprocess.CalledProcessError) as error:
        why = f"no build of it: {getattr(error, 'stderr', '') or error}".strip()
        yield label | {"case": "", "target": "", "missing": why}
        return
    names = f": ({'|'.join(OURS.values())})$"
    command = [sys.executable, "-m", "kernels.compile_report", "--json", "--kernel", names]
    env = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(root)}
    arch = ("--arch", *TARGETS)
    done = subprocess.run([*command, *arch], cwd=root, env=env, capture_output=True, text=True)
    rows = json.loads(done.stdout) if done.stdout else []
    if not all("tile_instructions" in row for row in rows) or not rows:
        why = "its compile report counts no tiles" if rows else done.stderr.strip()[-200:]
        yield label | {"case": "", "target": "", "missing": why}
        return
    yield from (_counted(row) | label for row in rows if not row["failure"])


def _counted(row: dict[str, Any]) -> dict[str, Any]:
    """One line of the table from a line of the compile report."""
    case = next(case for case, name in OURS.items() if name == row["name"])
    line = {"peer": "ours", "case": case, "target": f"sm_{row['arch']}"}
    return line | {field: row[field] for field in FIELDS}


def theirs(package: str, folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """Download a package and count its kernels. Returns its version ("" if missing) and rows."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    done = subprocess.run([*pip, package], capture_output=True, text=True)
    wheels = [*folder.glob(f"{package.replace('-', '_')}-*.whl")]
    if not wheels:
        why = (done.stderr.strip().splitlines() or ["pip found no wheel"])[-1]
        return "", [{"peer": package, "case": "", "target": "", "missing": why}]
    with ZipFile(wheels[0]) as wheel:
        wanted = (name for name in wheel.namelist() if name.startswith(WHEELS[package]))
        wheel.extractall(folder / package, [*wanted])
    wheels[0].unlink()  # hundreds of MB
    return wheels[0].name.split("-")[1], [
        row for target in TARGETS for row in _compiled(package, folder / package, target)
    ]


def _compiled(package: str, folder: Path, target: str) -> list[dict[str, Any]]:
    """Count a peer's kernels: those in Triton in a process of their own."""
    if package == "flashinfer-python":
        return static_nvcc.rows_of(folder / "flashinfer" / "data", find_target(target))
    command = [sys.executable, "-m", "benchmarks.static_launch", str(folder), package, target]
    env = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    if done.returncode == 0:
        return json.loads(done.stdout)
    why = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return [{"peer": package, "case": "", "target": target, "missing": why}]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, then what is missing and why."""
    head = f"{'':16} {'case':36} {'target':7} {'regs':>5} {'warps':>6} {'per SM':>7} {'tile':>7} "
    lines = [f"{head}{'instr':>6} {'a line':>7} {'issue':>7}  {'pipe':14} {'KV in flight':>12}"]
    for row in rows:
        if "missing" in row:
            continue
        count = row["tile_instructions"]
        line = count * row["num_warps"] * LINE / row["tile_bytes"]
        pipe = f"{100 * row['pipe_share']:.0f} % {row['pipe']}"
        lines.append(
            f"{row['peer']:16} {row['case']:36} {row['target']:7} {row['registers']:5} "
            f"{row['num_warps']:6} {row['resident_blocks']:7} {row['tile_bytes']:7} "
            f"{count:6} {line:7.1f} {100 * row['issue_share']:5.0f} %  {pipe:14} "
            f"{row['bytes_in_flight'] // 1024:8} KiB"
        )
    lines += [
        f"missing: {' '.join(filter(None, (r['peer'], r['case'], r['target'])))}: {r['missing']}"
        for r in rows
        if "missing" in r
    ]
    return "\n".join(lines)


def main(options: Namespace) -> None:
    """Count ours and every peer's, print the table, write the record. Quick: ours, and nothing is
    downloaded.
    """
    rows = [*ours()]
    versions = {"triton": version("triton"), "nvcc": static_nvcc.nvcc_version()}
    with tempfile.TemporaryDirectory() as folder:
        if not options.quick:
            rows += earlier(options.before or BEFORE, Path(folder, "before"))
        for package in () if options.quick else WHEELS:
            found, counted = theirs(package, Path(folder))
            versions[package] = found or "missing"
            rows += counted
    rows += [
        {"peer": name, "case": "", "target": "", "missing": why}
        for name, why in NOT_COUNTED.items()
    ]
    print(table(rows))
    path = Path(options.out) if options.out else RESULTS / "peers_static.json"
    print(f"written: {save(path, PROTOCOL, rows, versions=versions)}")
