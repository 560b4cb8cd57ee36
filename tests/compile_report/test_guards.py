"""kernels.compile_report.promises: every broken promise is named and fails."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import triton

from kernels.compile_report.case import LaunchCase
from kernels.compile_report.promises import violations
from kernels.compile_report.rows import Report, Reports
from kernels.compile_report.targets import target

CASE = LaunchCase("attend fp16", None, streams=("k", "v"), dots=True, unsupported={"sm_75": "old"})
GOOD = Report(
    "attend fp16",
    90,
    registers=128,
    shared_bytes=227 * 1024,
    resident_blocks=1,
    load_bits=128,
    stream_bits={"k": 128, "v": 128},
    tensor_core=8,
)
BROKEN = {
    "does not compile: no such thing": {"failure": "no such thing"},
    "spills 8 bytes, stack 0 bytes": {"spill_bytes": 8},
    "spills 0 bytes, stack 16 bytes": {"stack_bytes": 16},
    "takes 232449 bytes of shared memory, of 232448": {"shared_bytes": 227 * 1024 + 1},
    "finds no room on an SM: 128 registers per thread": {"resident_blocks": 0},
    "loads v 64 bits at a time": {"stream_bits": {"k": 128, "v": 64}},
    "loads k no bits at a time": {"stream_bits": {"k": 0, "v": 128}},
    "has no tensor-core instruction": {"tensor_core": 0},
}


def test_a_kept_promise_is_silent():
    assert violations(CASE, GOOD, target(90)) == []


@pytest.mark.parametrize("says", BROKEN)
def test_a_broken_promise_is_named(says):
    assert violations(CASE, replace(GOOD, **BROKEN[says]), target(90)) == [says]


def test_tensor_cores_where_none_belong_are_a_cut_to_tf32():
    fp32 = replace(CASE, dots=False)
    says = "has 8 tensor-core instructions where none belong"
    assert violations(fp32, GOOD, target(90)) == [says]
    amd = replace(GOOD, arch="gfx942", shared_bytes=0)  # multiplies full fp32 on the same cores
    assert violations(fp32, amd, target("gfx942")) == []


def test_old_and_other_gpus_are_asked_for_less():
    narrow = replace(GOOD, tensor_core=0, shared_bytes=0, stream_bits={"k": 64, "v": 64})
    assert violations(replace(CASE, unsupported={}), narrow, target(75)) == []
    assert len(violations(CASE, narrow, target(80))) == 3
    assert violations(CASE, narrow, target("gfx942")) == ["has no tensor-core instruction"]


def test_what_is_called_unsupported_has_to_fail():
    assert violations(CASE, replace(GOOD, failure="no bf16"), target(75)) == []
    small = replace(GOOD, arch=75, shared_bytes=64 * 1024)
    assert violations(CASE, small, target(75)) == ["is marked unsupported (old), but works"]
    assert violations(CASE, replace(small, shared_bytes=64 * 1024 + 1), target(75)) == []


def test_the_whole_table_ends_in_what_is_missing():
    cannot = Report("attend fp16", 75, failure="no", unsupported="old")
    bad = replace(GOOD, violations=("loads v 64 bits at a time",))
    head, *lines = Reports([GOOD, bad, cannot]).table().splitlines()
    assert " ".join(head.split()).startswith("kernel target warps stages regs spills stack shared")
    assert len(lines[0]) == len(head) and "sm_90" in lines[0] and "128 k,v" in lines[0]
    assert lines[2:] == [
        "not supported: attend fp16 on sm_75: old",
        "BROKEN: attend fp16 on sm_90 loads v 64 bits at a time",
        "2 compiled",
    ]
    assert Reports([GOOD]).table().endswith("1 compiled, and every promise is kept")


LIMITED = replace(CASE, at_most={"sm_90": 300}, at_least={"sm_90": 192 * 1024})
COUNTED = replace(GOOD, tile_instructions=300, bytes_in_flight=192 * 1024)


def test_a_tile_has_a_budget(monkeypatch):
    monkeypatch.setattr(triton, "__version__", "3.9.0")
    assert violations(LIMITED, COUNTED, target(90)) == []
    more = replace(COUNTED, tile_instructions=301)
    assert violations(LIMITED, more, target(90)) == [
        "issues 301 instructions a tile, of at most 300"
    ]
    less = replace(COUNTED, bytes_in_flight=96 * 1024)
    says = "has 98304 bytes in flight, of at least 196608"
    assert violations(LIMITED, less, target(90)) == [says]
    assert violations(LIMITED, GOOD, target(90)) == ["has no loop that loads tiles"]


def test_a_budget_is_one_target_s_and_one_compiler_s(monkeypatch):
    more = replace(COUNTED, tile_instructions=301, shared_bytes=0)
    assert violations(LIMITED, more, target(80)) == []
    monkeypatch.setattr(triton, "__version__", "3.8.0")
    assert violations(LIMITED, more, target(90)) == []
    monkeypatch.setattr(triton, "__version__", "3.10.1+git1")
    assert len(violations(LIMITED, more, target(90))) == 1


SOURCE = """
import torch
from kernels.compile_report import LaunchCase
from kernels.primer import vector_add_call

def sum_of(start):
    x, y, out = (torch.empty(4096 + start, device="meta")[start:] for _ in range(3))
    return lambda target: vector_add_call(x, y, out)

def compile_cases():
    stale = {"sm_80": "it has no addition"}
    return [
        LaunchCase("aligned", sum_of(0), ("x", "y")),
        LaunchCase("unaligned", sum_of(1), ("x", "y")),
        LaunchCase("stale claim", sum_of(0), unsupported=stale),
    ]
"""


def test_the_command_fails_and_says_which(tmp_path):
    file = tmp_path / "three_sums.py"
    file.write_text(SOURCE)
    command = [
        sys.executable,
        "-m",
        "kernels.compile_report",
        "--source",
        str(file),
        "--arch",
        "80",
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "0"},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1].startswith("stages: what a loop asks of Triton")
    assert [line for line in done.stdout.splitlines() if "BROKEN" in line] == [
        "BROKEN: unaligned on sm_80 loads x 32 bits at a time",
        "BROKEN: unaligned on sm_80 loads y 32 bits at a time",
        "BROKEN: stale claim on sm_80 is marked unsupported (it has no addition), but works",
    ]
    assert "[1/3, " in done.stderr and "aligned sm_80: ok" in done.stderr
