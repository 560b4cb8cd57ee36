"""kernels.call_cache, compiled: a launch that is made again is the launch that Triton makes.

In a process of its own, with a GPU that is not there: `relaunched` in tests/given.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from similar_calls import APPEND, DECODE, GPU_ONLY

from kernels import call
from kernels.runtime import INTERPRETED

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not INTERPRETED, reason="without a GPU")
NAMES = [f"decode: {x}" for x in (*DECODE, *GPU_ONLY)] + [f"append: {x}" for x in APPEND]
EQUAL_NUMBERS = ("decode: scale 0", "decode: scale -0")


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, ROOT / "tests/given/relaunched.py"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "0"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_the_same_is_launched(found, name):
    assert found[name] == (["not remembered"] if name in EQUAL_NUMBERS else [])


def test_every_kind_of_call_has_a_key(found):
    n = len(DECODE) + len(GPU_ONLY)
    assert found["decode: keys"] == [f"{n - len(EQUAL_NUMBERS)} for {n}"]
    assert found["append: keys"] == [f"{len(APPEND)} for {len(APPEND)}"]


def test_settings_and_hooks_of_triton(found):
    """Another setting, another kernel; and a hook sees every launch, as Triton makes it."""
    assert found["watched"] == {
        "first": 1,
        "again": 1,
        "debug": 2,
        "instrumented": True,
        "a profiler's hook": None,
        "a kernel's hook": [1, 1, 2],
        "torch.compile": [2, 0],
    }


def test_the_gpu_of_the_tensors_becomes_the_current_one(monkeypatch):
    entered = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered.append(device) or "guard")
    assert call.on_device(torch.device("cuda:1")) == "guard"
    for device in ("cuda:0", "cpu"):
        with call.on_device(torch.device(device)):
            pass
    assert entered == [torch.device("cuda:1")]
