"""kernels.runtime: the mode is decided once, early, and a wrong one raises an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import runtime

ROOT = Path(__file__).parents[2]


def python(code: str, **environment: str) -> str:
    """Run code in a fresh Python and return what it printed."""
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=inherited | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_device_goes_with_the_mode():
    assert runtime.device() == ("cpu" if runtime.INTERPRETED else "cuda")


def test_without_a_gpu_kernels_are_interpreted():
    code = "from kernels import runtime as r; print(r.INTERPRETED, r.device())"
    assert python(code, CUDA_VISIBLE_DEVICES="", HIP_VISIBLE_DEVICES="") == "True cpu"


def test_the_environment_is_respected():
    code = "from kernels import runtime as r; print(r.INTERPRETED, r.device())"
    assert python(code, TRITON_INTERPRET="0") == "False cuda"


def test_an_earlier_import_of_triton_in_the_wrong_mode_is_told(monkeypatch):
    wrong = "0" if runtime.INTERPRETED else "1"
    monkeypatch.setenv("TRITON_INTERPRET", wrong)  # as if decided after triton was imported
    with pytest.raises(ImportError, match=rf"restart Python.*set TRITON_INTERPRET={wrong} before"):
        runtime._decide()


def test_an_earlier_import_of_triton_in_the_right_mode_is_fine():
    assert runtime._decide() == runtime.INTERPRETED


@pytest.mark.skipif(not runtime.INTERPRETED, reason="concerns only the interpreter")
@pytest.mark.parametrize(("old", "new"), [("3.6.0", "2.4.1"), ("3.6.1", "2.10.0")])
def test_a_numpy_too_new_for_the_interpreter_is_told(monkeypatch, old, new):
    monkeypatch.setattr("triton.__version__", old)
    monkeypatch.setattr(runtime, "version", {"numpy": new}.get)
    with pytest.raises(ImportError, match=f"triton {old} cannot loop.*numpy {new}: install"):
        runtime._decide()


def test_without_triton_the_way_out_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # as on macOS: no such module
    with pytest.raises(ImportError, match=r"container, WSL or Colab.*same name in `reference`"):
        runtime._decide()


def test_the_light_modules_need_no_triton():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import kernels, kernels.heuristics\n"
        "print(hasattr(kernels, '__version__'), 'torch' in sys.modules)"
    )
    assert python(code) == "False False"


def test_torch_is_what_decides_without_a_setting(monkeypatch):
    """With a GPU and nothing set, TRITON_INTERPRET is left unset; without one it becomes 1."""
    for has_gpu in (True, False):
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        try:
            runtime._decide()
        except ImportError as error:  # not this process's mode: reported, not adopted
            assert has_gpu == runtime.INTERPRETED, error
        assert os.environ.get("TRITON_INTERPRET") == (None if has_gpu else "1")
        monkeypatch.setenv("TRITON_INTERPRET", "1" if runtime.INTERPRETED else "0")
