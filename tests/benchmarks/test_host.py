"""The benchmark of the host's time: it runs without a GPU, and its arithmetic is right."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.builds import build_of
from benchmarks.host import Contestant, rows_of, table
from benchmarks.host_peers import PEERS, load

pytest.importorskip("triton")


def test_a_quick_run_writes_a_record(tmp_path):
    """Without peers, whose wheels it would have to download."""
    out = tmp_path / "run.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "host", "--quick", "--out", str(out)],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    cells = ["plain", "pages", "eight bits", "window", "all three", "kvcache", "append"]
    assert [row["cell"] for row in record["rows"] if row["who"] == "now"] == cells
    assert all(0 < row["us"] <= row["median_us"] for row in record["rows"])
    assert ("before" in record["cannot"]) != any("ratio" in row for row in record["rows"])
    assert "all three" in done.stdout and {"triton", "code", "commit", "protocol"} <= record.keys()


def test_a_ratio_is_taken_round_by_round():
    before, now = [(40.0, 50.0), (80.0, 90.0), (44.0, 50.0)], [(10.0, 11.0), (20.0, 21.0), (9.0, 9)]
    rows = rows_of(
        {"plain": {"now": now, "before": before, "vllm": before}, "window": {"now": now}}
    )
    assert [row.get("ratio") for row in rows] == [0.25, 1.0, 1.0, None]
    assert (rows[0]["us"], rows[0]["median_us"]) == (10.0, 11.0)
    assert len(table(rows).splitlines()) == 5


def test_a_contestant_that_cannot_start_says_why(tmp_path):
    one = Contestant("sglang", "sglang", tmp_path)
    said = one.ready()
    one.end()
    assert said["cannot"].startswith("ModuleNotFoundError: No module named 'sglang")


def test_a_commit_that_is_not_there(tmp_path):
    with pytest.raises((subprocess.CalledProcessError, OSError)):
        build_of("0" * 40, tmp_path / "build")


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_imported_without_the_packages_around_it(name, tmp_path, monkeypatch):
    """Its own module, of which there is a stand-in here; the server around it must not start."""
    before = set(sys.modules)
    parts = PEERS[name].split(".")
    folder = tmp_path.joinpath(*parts[:-1])
    folder.mkdir(parents=True)
    for n in range(1, len(parts)):
        tmp_path.joinpath(*parts[:n], "__init__.py").write_text("raise AssertionError('started')\n")
    (folder / f"{parts[-1]}.py").write_text("from .beside import x\n")
    (folder / "beside.py").write_text("x = 3\n")
    try:
        assert load(name, tmp_path).x == 3
    finally:
        for module in set(sys.modules) - before:
            monkeypatch.delitem(sys.modules, module)
