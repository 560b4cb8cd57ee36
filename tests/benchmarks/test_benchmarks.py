"""The benchmark harness runs end to end on tiny shapes, and its arithmetic is right."""

import json
import os
import subprocess
import sys

from benchmarks import protocol
from benchmarks.cpu import table
from benchmarks.timing import HostClock, take_turns


def test_quick_run_writes_a_record(tmp_path):
    out = tmp_path / "run.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "cpu", "--quick", "--out", str(out)],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert {"date", "commit", "cpu", "torch", "protocol", "rows"} <= record.keys()
    assert all(value > 0 for row in record["rows"] for key, value in row.items() if "ms" in key
               and not isinstance(value, list))  # fmt: skip
    assert str(record["rows"][0]["Hq"]) in done.stdout


def test_turns_are_taken_and_warm_up_is_not_counted():
    log = []
    steps = {"a": lambda _: log.append("a"), "b": lambda _: log.append("b")}
    times = take_turns(steps, HostClock(), 3, warm_up=1, warm_up_ms=0.0)
    assert log == ["b", "a", "a", "b"] * 2
    assert {name: len(t) for name, t in times.items()} == {"a": 3, "b": 3}


def test_ratio_is_taken_round_by_round():
    assert protocol.median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == 2.0


def test_load_of_what_nobody_recorded():
    assert protocol.load("no_such_run") is None


def test_table_shows_ratio_and_share():
    row = {"dtype": "float32", "Hq": 8, "Hkv": 1, "Lk": 4096, "ours_ms": 1.0, "sdpa_ms": 2.0}
    row |= {"ratio": 2.0, "ours_GBps": 5.0, "read_GBps": 10.0, "share_of_read": 0.5}
    assert "2.00×" in table([row]) and "50%" in table([row])
