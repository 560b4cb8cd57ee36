"""kernels.runtime: the mode is decided once, early; a triton in the wrong mode is put right."""

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


@pytest.mark.parametrize("package", ["reference", "course", "kernels"])
def test_every_package_settles_the_mode(package):
    code = f"""
import torch, {package}
torch.optim.AdamW([torch.zeros(1)])  # loads triton
import triton.language as tl
print(type(tl.sum).__name__)
"""
    assert python(code, CUDA_VISIBLE_DEVICES="", HIP_VISIBLE_DEVICES="") == "InterpretedFunction"


USES_EVERY_KERNEL = """
import sys
import torch

weight = torch.zeros(2, requires_grad=True)
torch.optim.AdamW([weight])
torch.compile(torch.sin)
torch.utils.checkpoint.checkpoint(torch.sin, weight, use_reentrant=False)
torch.func.grad(lambda x: x.sin().sum())(torch.zeros(2))
import triton.language
assert type(triton.language.sum).__name__ == "JITFunction"  # compiled: nothing of ours is loaded

from reference.attention import attention
from kernels.append import append_kv
from kernels.flash_attention import flash_attention
from kernels.flash_decoding import flash_decode, flash_decode_plan
from kernels.merge import merge_states
from kernels.primer import matmul
from kernels.softmax import softmax

def close(ours, wanted):
    torch.testing.assert_close(ours, wanted.to(ours.dtype), rtol=1e-5, atol=1e-5)

x = torch.randn(5, 7)
close(softmax(x), x.softmax(1))
close(matmul(x, x.T.contiguous()), x @ x.T)
q, k, v = torch.randn(2, 1, 4, 16), torch.randn(2, 33, 2, 16), torch.randn(2, 33, 2, 16)
append_kv(k, v, k[:, :1] + 1, v[:, :1] + 1, torch.tensor([32, 5]))
lengths = torch.tensor([33, 6])
plan = flash_decode_plan(q, k, v, lengths)
close(flash_decode(q, k, v, lengths, plan=plan), flash_decode(q, k, v, lengths, num_splits=2))
for b, n in enumerate(lengths):
    given = q[b : b + 1].double(), k[b : b + 1, :n].double(), v[b : b + 1, :n].double()
    close(flash_decode(q, k, v, lengths, num_splits=2)[b : b + 1], attention(*given))
halves = [flash_decode(q, k[:, s], v[:, s], return_lse=True) for s in (slice(16), slice(16, 33))]
close(merge_states(*zip(*halves))[0], flash_decode(q, k, v))
q, k, v = (torch.randn(1, 9, h, 16, requires_grad=True) for h in (4, 2, 2))
wide = [t.detach().double().requires_grad_() for t in (q, k, v)]
ours, wanted = flash_attention(q, k, v, causal=True), attention(*wide, causal=True)
close(ours, wanted)
gradients = torch.autograd.grad(wanted.square().sum(), wide)
for mine, theirs in zip(torch.autograd.grad(ours.square().sum(), (q, k, v)), gradients):
    close(mine, theirs)
print("right")
"""


def test_kernels_work_where_torch_has_loaded_triton_for_a_compiler():
    """As after an optimizer in an earlier cell: no kernel of ours, no helper of triton fails."""
    environment = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    assert python(USES_EVERY_KERNEL, **environment) == "right"


def test_every_helper_of_triton_is_put_into_the_mode():
    """In their modules, among each other and as methods: a helper left behind fails when called."""
    code = """
import sys
import triton, triton.language as tl
from triton.runtime.jit import JITFunction
def left():
    owners = [m for name, m in sys.modules.items() if name.startswith("triton.language")]
    members = [x for owner in [*owners, tl.tensor] for x in vars(owner).values()]
    return sum(type(x) is JITFunction for x in members)
before = left()
import kernels.runtime
print(before > 20, left(), tl.sum is tl.standard.sum, callable(tl.tensor.sum))
"""
    assert python(code, CUDA_VISIBLE_DEVICES="") == "True 0 True True"


def test_a_mode_that_triton_cannot_leave_is_told(monkeypatch):
    """Where there is a GPU, torch.compile needs triton's helpers as they are."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    wrong = "0" if runtime.INTERPRETED else "1"
    monkeypatch.setenv("TRITON_INTERPRET", wrong)  # as if decided after triton was imported
    import triton  # noqa: F401

    with pytest.raises(ImportError, match=rf"restart Python.*set TRITON_INTERPRET={wrong} before"):
        runtime._decide()


def test_an_earlier_import_of_triton_in_the_right_mode_is_fine():
    assert runtime._decide() == runtime.INTERPRETED


@pytest.mark.skipif(not runtime.INTERPRETED, reason="concerns only the interpreter")
@pytest.mark.parametrize(("old", "new"), [("3.6.0", "2.4.1"), ("3.6.1", "2.10.0")])
@pytest.mark.parametrize("name", ["triton", "triton-windows"])
def test_a_numpy_too_new_for_the_interpreter_is_told(monkeypatch, old, new, name):
    def version(wanted: str) -> str:
        if wanted not in (found := {name: old, "numpy": new}):
            raise runtime.PackageNotFoundError(wanted)
        return found[wanted]

    monkeypatch.setattr(runtime, "version", version)
    with pytest.raises(ImportError, match=f"triton {old} cannot loop.*numpy {new}: install"):
        runtime._decide()


def test_without_triton_the_way_out_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # as on macOS: no such module
    with pytest.raises(ImportError, match=r"container, WSL or Colab.*same name in `reference`"):
        runtime._decide()


def test_the_door_to_decoding_opens_without_loading_triton():
    """It takes longer than all the rest, and is loaded at the first call."""
    code = """
import sys, torch
from kernels.flash_decoding import flash_decode
print("triton" in sys.modules)
"""
    assert python(code) == "False"


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
        monkeypatch.setattr(torch.cuda, "device_count", lambda has_gpu=has_gpu: int(has_gpu))
        try:
            runtime._decide()
        except ImportError as error:  # not this process's mode: reported, not adopted
            assert has_gpu == runtime.INTERPRETED, error
        assert os.environ.get("TRITON_INTERPRET") == (None if has_gpu else "1")
        monkeypatch.setenv("TRITON_INTERPRET", "1" if runtime.INTERPRETED else "0")
