"""What a decode call costs the host before the GPU starts, on a machine without one.

    python -m benchmarks host [--quick] [--before COMMIT] [--wheels FOLDER] [--out FILE]

Each contestant is a process of its own (`benchmarks.host_worker`): this tree, an earlier commit of
it, and the launchers of SGLang, vLLM and LMDeploy, from their wheels (`benchmarks.host_peers`).
--wheels: a folder that keeps those; what is missing there is downloaded, half a gigabyte in all.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from benchmarks.builds import build_of
from benchmarks.host_peers import HKV, HQ, LK, PAGE, PEERS, B, D
from benchmarks.machine import code_digest
from benchmarks.protocol import RESULTS, median_ratio, save

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "5f50190"  # the last commit that checked and described every call anew
NOW, EARLIER = "now", "before"
ROUNDS, TIMES = 25, 200

PROTOCOL = (
    f"bf16, B {B}, heads {HQ}/{HKV}, D {D}, {LK} keys, pages of {PAGE}; Lq = 1. Tensors are on the "
    "CPU and taken for an H100's (132 SMs): Triton binds the arguments and compiles for sm_90; the "
    "function in C that would start the kernel is replaced by one that does nothing "
    "(benchmarks/absent_gpu.py). In nobody's figures, therefore: that function, making a GPU the "
    "current one, allocating on a GPU. One process per contestant, warmed up by 100 calls; in each "
    f"round each contestant times {TIMES} calls, one by one, garbage collector off, while the "
    "others wait; the order turns from round to round. us: median over the rounds of the 10th "
    "percentile; median_us: of the median; us_quartiles: of the 10th percentile, over the rounds; "
    "ratio: median over the rounds of its 10th percentile over that of `before` in the same cell. "
    "SGLang's and vLLM's callers own what is written to; LMDeploy's launcher and ours allocate it. "
    "plain: one cache; pages: with a block table; eight bits: int8 pages, a scale per head; "
    "window: pages and a left window of 512; all three: the last two at once; kvcache: "
    "flash_attn_with_kvcache; append: the same with one new token, rotated."
)


class Contestant:
    """A process that times calls when asked. calls: their names; cannot: why it has none."""

    def __init__(self, name: str, kind: str, folder: Path) -> None:
        self.name = name
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.host_worker", kind, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,  # first on the path: whose `kernels` is measured
            env=environment | {"OMP_NUM_THREADS": "1"},
        )

    def ready(self) -> dict:
        """Wait until its calls are warm. Returns {"calls": names} or {"cannot": reason}."""
        line = self.process.stdout.readline()
        if not line:
            return {"cannot": self.process.stderr.read().strip().splitlines()[-1]}
        return json.loads(line)

    def time(self, call: str, times: int) -> list[float]:
        """Microseconds that each of so many calls takes."""
        self.process.stdin.write(json.dumps([call, times]) + "\n")
        self.process.stdin.flush()
        return [ns / 1000 for ns in json.loads(self.process.stdout.readline())]

    def end(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait(30)


def unpacked(peer: str, wheels: Path, folder: Path) -> tuple[Path, str]:
    """Download a peer's wheel unless it is there, unpack its Python; its folder and version."""
    if not list(wheels.glob(f"{peer}-*.whl")):
        get = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(wheels), peer]
        subprocess.run(get, check=True, capture_output=True, text=True)
    wheel = sorted(wheels.glob(f"{peer}-*.whl"))[-1]
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder, [name for name in file.namelist() if name.endswith(".py")])
    return folder, wheel.name.split("-")[1]


def contestants(options: Namespace, room: Path) -> tuple[list[Contestant], dict, dict]:
    """Start everybody who can take part. Also returns versions by name, and reasons why not."""
    found, versions, cannot = [Contestant(NOW, "ours", ROOT)], {}, {}
    commit = options.before or BEFORE
    try:
        found.append(Contestant(EARLIER, "ours", build_of(commit, room / EARLIER)))
        versions[EARLIER] = commit
    except (OSError, subprocess.CalledProcessError) as error:
        cannot[EARLIER] = f"no build of {commit}: {getattr(error, 'stderr', '') or error}".strip()
    wheels = Path(options.wheels).resolve() if options.wheels else room
    for peer in () if options.quick and not options.wheels else PEERS:
        try:
            folder, versions[peer] = unpacked(peer, wheels, room / f"{peer}.src")
            found.append(Contestant(peer, peer, folder))
        except (OSError, subprocess.CalledProcessError) as error:
            cannot[peer] = f"no wheel: {getattr(error, 'stderr', '') or error}".strip()[-200:]
    return found, versions, cannot


def measure(
    present: list[Contestant], calls: dict[str, list[str]], rounds: int, times: int
) -> dict:
    """By cell and contestant, one list of microseconds per round: 10th percentile, median."""
    found: dict[str, dict[str, list]] = {}
    for turn in tqdm(range(rounds), unit="round", desc="host"):
        for cell in calls[NOW]:
            who = [one for one in present if cell in calls[one.name]]
            turned = who[turn % len(who) :] + who[: turn % len(who)]
            for one in turned:
                took = sorted(one.time(cell, times))
                pair = took[len(took) // 10], statistics.median(took)
                found.setdefault(cell, {}).setdefault(one.name, []).append(pair)
    return found


def rows_of(found: dict[str, dict[str, list]]) -> list[dict]:
    """One row per cell and contestant."""
    rows = []
    for cell, by_name in found.items():
        for name, pairs in by_name.items():
            low, middle = zip(*pairs, strict=True)
            quartiles = statistics.quantiles(low) if len(low) > 1 else [low[0]] * 3
            row = {"cell": cell, "who": name, "us": round(statistics.median(low), 2)}
            row["median_us"] = round(statistics.median(middle), 2)
            row["us_quartiles"] = [round(x, 2) for x in quartiles]
            if EARLIER in by_name:
                before = [pair[0] for pair in by_name[EARLIER]]
                row["ratio"] = round(median_ratio(low, before), 3)
            rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    """The rows as text."""
    lines = ["call        who            us   median   quartiles           / before"]
    for r in rows:
        low, _, high = r["us_quartiles"]
        ratio = f"{r['ratio']:>10.3f}" if "ratio" in r else ""
        lines.append(
            f"{r['cell']:<11} {r['who']:<10} {r['us']:>6.1f} {r['median_us']:>8.1f}   "
            f"{low:>6.1f} … {high:<6.1f}{ratio}"
        )
    return "\n".join(lines)


def main(options: Namespace) -> None:
    """Measure, print the table, write the record."""
    rounds, times = (2, 20) if options.quick else (ROUNDS, TIMES)
    room, started = Path(tempfile.mkdtemp(prefix="host-")), []
    try:
        started, versions, cannot = contestants(options, room)
        said = {one.name: one.ready() for one in started}
        cannot |= {name: x["cannot"] for name, x in said.items() if "cannot" in x}
        if NOW in cannot:
            raise SystemExit(cannot[NOW])
        present = [one for one in started if one.name not in cannot]
        calls = {one.name: said[one.name]["calls"] for one in present}
        rows = rows_of(measure(present, calls, rounds, times))
    finally:
        for one in started:
            one.end()
        shutil.rmtree(room)
    print(table(rows), *(f"{name}: {why}" for name, why in cannot.items()), sep="\n")
    path = Path(options.out) if options.out else RESULTS / "host_cpu.json"
    more = {"triton": version("triton"), "code": code_digest(), "rounds": rounds}
    path = save(path, PROTOCOL, rows, **more, versions=versions, cannot=cannot)
    print(f"written: {path}")
