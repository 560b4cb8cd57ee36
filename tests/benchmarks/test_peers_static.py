"""python -m benchmarks peers_static: its record, and how a launcher is made to compile only."""

import json
import subprocess
from argparse import Namespace

import pytest

from benchmarks import peers_static as module
from benchmarks import protocol, static_nvcc
from benchmarks.peers_static import _compiled, earlier, table, theirs
from kernels import compile_report
from kernels.compile_report.targets import target

PEER = """
import torch
import triton
import triton.language as tl

@triton.jit
def stream_kernel(k_ptr, v_ptr, out_ptr, length, NUM_KEYS: tl.constexpr, BLOCK_N: tl.constexpr):
    offs = tl.arange(0, BLOCK_N)[:, None] * 128 + tl.arange(0, 128)[None, :]
    total = tl.zeros((BLOCK_N, 128), tl.float32)
    for start in range(0, length, BLOCK_N):
        total += tl.load(k_ptr + start * 128 + offs).to(tl.float32)
        total += tl.load(v_ptr + start * 128 + offs).to(tl.float32)
    tl.store(out_ptr + offs, total)

def flash_decode_gqa_hf_dense_optimized(q, k, v, lengths, first, splits):
    if q.shape[1] == k.shape[1]:
        raise ValueError("one head per KV head\\nis not served")
    stream_kernel[(1,)](k, v, torch.empty_like(q), k.shape[2], 7, BLOCK_N=16, num_warps=2)
"""


@pytest.fixture(scope="module")
def record():
    return protocol.load("peers_static")


def test_the_record_says_what_it_counted(record):
    assert record["protocol"] == module.PROTOCOL
    assert {"triton", "nvcc", *module.WHEELS} == set(record["versions"])
    assert any(row["peer"] == f"ours at {module.BEFORE}" for row in record["rows"])
    done = [row for row in record["rows"] if "missing" not in row]
    assert {row["target"] for row in done} == set(module.TARGETS)
    for row in done:
        assert set(module.FIELDS) <= set(row) and row["tile_instructions"] > 0, row
        assert row["spill_bytes"] == 0 and row["issue_share"] > 0
    for row in record["rows"]:
        assert row.get("missing", "counted") and row["peer"]


def test_ours_are_in_it_as_they_were_when_it_was_made(record):
    found = {(row["case"], row["target"]) for row in record["rows"] if row["peer"] == "ours"}
    whole = {(case, on) for case in module.OURS for on in module.TARGETS}
    assert found == whole - {("e4m3, G 8", "sm_80")}  # no instruction converts it there
    assert all(compile_report.cases(name)[0].name == name for name in module.OURS.values())


def test_an_earlier_build_that_cannot_be_had_is_a_row(tmp_path):
    (row,) = earlier("0" * 40, tmp_path / "before")
    assert row["peer"] == f"ours at {'0' * 40}" and row["missing"].startswith("no build of it")


def test_an_earlier_build_is_counted_by_its_own_report(tmp_path, monkeypatch):
    """Its kernels, not today's: a report that prints one row stands for them."""
    report = tmp_path / "made" / "kernels" / "compile_report"
    report.mkdir(parents=True)
    field = dict.fromkeys(module.FIELDS, 7)
    row = field | {"name": "split bf16 D=128 G=1 Lq=1", "arch": 80, "failure": ""}
    (report / "__init__.py").touch()
    (report / "__main__.py").write_text(f"import json\nprint(json.dumps([{row!r}]))")
    monkeypatch.setattr(module, "build_of", lambda commit, folder: tmp_path / "made")
    (found,) = earlier("abc", tmp_path)
    assert found == field | {"peer": "ours at abc", "case": "bf16, G 1", "target": "sm_80"}
    (report / "__main__.py").write_text("print('[{}]')")
    (found,) = earlier("abc", tmp_path)
    assert found["missing"] == "its compile report counts no tiles"


def test_a_launcher_compiles_and_launches_nothing(tmp_path):
    """Its own tiles and warps: 16 keys, two warps; and what it refuses is a row with the reason."""
    folder = tmp_path / "fskernels" / "triton"
    folder.mkdir(parents=True)
    (folder / "triton_gqa_decode_hf.py").write_text(PEER)
    grouped, single = _compiled("fasterkernels", tmp_path, "sm_90")
    assert grouped["case"] == "bf16, G 8" and grouped["num_warps"] == 2
    assert grouped["tile_bytes"] == 2 * 16 * 128 * 2
    loads, sums = 2 * 16 * 128 * 2 // 2 // 512, 2 * 16 * 128 // 64  # of a warp, per tile
    assert loads + sums <= grouped["tile_instructions"] <= 3 * (loads + sums)
    assert single["missing"] == "is not served"


def test_a_peer_that_cannot_be_imported_is_a_row(tmp_path):
    (row,) = _compiled("fasterkernels", tmp_path, "sm_80")
    assert "No module named 'fskernels'" in row["missing"] and row["target"] == "sm_80"


def test_a_wheel_that_cannot_be_had_is_a_row(tmp_path, monkeypatch):
    done = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: no matching distribution\n")
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: done)
    version, (row,) = theirs("sglang", tmp_path)
    assert version == "" and row["missing"] == "ERROR: no matching distribution"


def test_without_nvcc_flashinfer_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(static_nvcc.shutil, "which", lambda _: None)
    (row,) = static_nvcc.rows_of(tmp_path, target(90))
    assert row["missing"] == "there is no nvcc on PATH"
    assert static_nvcc.nvcc_version() == "missing"


def test_a_quick_run_counts_ours_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "OURS", {"bf16, G 8": "split bf16 D=128 G=8 Lq=1"})
    out = tmp_path / "peers_static.json"
    module.main(Namespace(quick=True, out=str(out)))
    rows = json.loads(out.read_text())["rows"]
    assert [row["target"] for row in rows if row["peer"] == "ours"] == list(module.TARGETS)
    printed = capsys.readouterr().out
    assert "missing: sdpa: machine code" in printed and table(rows) in printed
