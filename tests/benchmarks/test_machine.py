"""What a process knows of its own memory."""

import subprocess
import sys

import pytest
import torch

from benchmarks.machine import memory_now_and_most

pytest.importorskip("resource", reason="Windows has no getrusage")


def test_memory_is_that_of_this_process_alone():
    now, most = memory_now_and_most()
    block = torch.ones(2**26)  # 256 MiB
    assert memory_now_and_most()[1] >= now + 0.9 * 2**28
    del block
    code = "from benchmarks.machine import memory_now_and_most as m; print(*m())"
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    child_now, child_most = map(int, out.split())
    assert child_now <= child_most < max(most, now) + 0.9 * 2**28
