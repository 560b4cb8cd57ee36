"""reference.distributed on real processes: right answers, bytes by formula, and ranks that fail.

Processes take seconds to start, so each launch checks many cases.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from reference.distributed import MERGES
from reference.distributed.group import connect
from reference.distributed.launch import local_environment, torchrun
from reference.distributed.selfcheck import CASES, fail

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="no gloo in this PyTorch"
)
MODULE = "reference.distributed"


def lines_of(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("ranks", [2, 4])
def test_torchrun(ranks):
    run = torchrun(ranks, MODULE, "--json", seconds=300)
    assert run.returncode == 0, run.stderr
    told = {line["rank"]: line["rows"] for line in lines_of(run.stdout)}
    assert set(told) == set(range(ranks))
    for rows in told.values():
        assert len(rows) == len(CASES) * len(MERGES) * 3 + 2
        assert [row for row in rows if not row["right"]] == []
        counted = [row for row in rows if row.get("sent") is not None]
        assert len(counted) == len(CASES) * len(MERGES) * 2 + 1
        assert [row for row in counted if row["sent"] != row["formula"]] == []
        assert any(row["sent"] > 0 for row in counted)
        (appended,) = (row for row in rows if "shards differ by at most" in row)
        assert appended["shards differ by at most"] <= 2  # a block
    grids = {rows[-1]["case"] for rows in told.values()}
    assert grids == {f"2 head groups × {ranks // 2} shards"}


def start(store: dist.TCPStore, rank: int, ranks: int, *arguments: str) -> subprocess.Popen[str]:
    """One rank, without torchrun, which would end all others as soon as one is killed."""
    environment = local_environment() | {
        "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
        "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is in this process, not in rank 0's
    }  # fmt: skip
    command = [sys.executable, "-m", MODULE, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


@pytest.mark.parametrize(
    "how, says",
    [
        ("raise", "rank {} failed: ValueError: the cache of this rank is full"),
        (
            "hang",
            "rank {} failed: no sign of life; it entered collective 2, this rank is in number 3",
        ),
        (
            "kill",
            "rank {} failed: no sign of life; it entered collective 2, this rank is in number 3",
        ),
    ],
)
def test_the_others_hear_who_failed_within_the_timeout(how, says):
    ranks, failing, timeout = 3, 0 if how == "kill" else 1, 6.0
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    drill = ["--only", "--drill", how, "--rank", str(failing), "--timeout", str(timeout)]
    runs = [start(store, rank, ranks, *drill) for rank in range(ranks)]
    try:
        ends = [run.communicate(timeout=300) for run in runs]
    finally:
        for run in runs:
            run.kill()
            run.wait()
    told = {line["rank"]: line for out, _ in ends for line in lines_of(out)}
    survivors = [rank for rank in range(ranks) if rank != failing]
    assert set(told) >= set(survivors), ends
    for rank in survivors:
        assert told[rank]["error"] == "RankFailed" and told[rank]["ranks"] == [failing]
        assert told[rank]["says"].startswith(says.format(failing)), told[rank]
        assert told[rank]["seconds"] < timeout
        if how == "hang":  # gloo waited for it
            assert told[rank]["seconds"] > 0.6 * timeout
    if how == "kill":
        assert failing not in told and runs[failing].returncode == -9
    if how == "raise":
        assert told[failing]["error"] == "ValueError"


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
def test_a_launch_that_takes_too_long_leaves_no_rank_behind():
    mark = "86399.25"  # an argument that nothing else on this machine has
    arguments = ["--only", "--drill", "hang", "--rank", "0", "--timeout", mark]
    with pytest.raises(subprocess.TimeoutExpired):
        torchrun(2, MODULE, *arguments, seconds=15)
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "cmdline").read_text():
                left.append(process.name)
        except OSError:
            continue  # it has ended in the meantime
    assert left == []


def test_misuse():
    with (
        pytest.raises(ValueError, match="timeout must be above 0 seconds; got 0"),
        connect(timeout=0),
    ):
        pass
    with pytest.raises(ValueError, match="raise, hang or kill; got 'sulk'"):
        fail("sulk", 0)


def test_ranks_get_one_thread_and_the_loopback_interface(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    found = local_environment()
    assert found["OMP_NUM_THREADS"] == "1"
    assert found.get("GLOO_SOCKET_IFNAME") in (
        None,
        "lo",
        "lo0",
        os.environ.get("GLOO_SOCKET_IFNAME"),
    )
