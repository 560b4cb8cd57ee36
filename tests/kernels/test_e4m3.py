"""float8_e4m3fn on GPUs that cannot convert it: refused before a launch, naming the way out."""

import pytest
import torch
from fake_cuda import FakeCuda
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels import checks, runtime
from kernels.append import append_kv
from kernels.append import checks as append_checks
from kernels.append.append_kernel import Tokens
from kernels.cascade import cascade_decode
from kernels.devices import DEVICES, Device
from kernels.explain import explain
from kernels.flash_decoding import checks as decode_checks
from kernels.flash_decoding import flash_decode, flash_decode_plan, workspace_bytes
from kernels.flash_decoding.features import Features
from kernels.kvcache_api import flash_attn_with_kvcache

E4M3 = torch.float8_e4m3fn
OLD, NEW = ((7, 0), (7, 5), (8, 0), (8, 6), (8, 7)), ((8, 9), (9, 0), (10, 0), (12, 0))


@pytest.fixture
def gpu(monkeypatch):
    """gpu(capability): a process that compiles for this GPU, and tensors on it without memory."""

    def pretend(capability):
        cuda = FakeCuda(capability=capability)
        for module in (runtime, checks):
            monkeypatch.setattr(module, "INTERPRETED", False)
        monkeypatch.setattr(torch.cuda, "get_device_capability", cuda.get_device_capability)
        monkeypatch.setattr(torch.version, "hip", None)
        runtime.has_e4m3.cache_clear()
        return cuda

    with FakeTensorMode():
        yield pretend
    runtime.has_e4m3.cache_clear()


def empty(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="cuda")


def calls(dtype):
    """Each public function that would launch a kernel on such a cache, by name."""
    q, new = empty(2, 1, 4, 64), empty(2, 1, 2, 64)
    prefix, cache = empty(8, 2, 64), empty(2, 32, 2, 64, dtype=dtype)
    lengths = empty(2, dtype=torch.int32)
    return {
        "flash_decode": lambda: flash_decode(q, cache, cache, lengths),
        "flash_decode_plan": lambda: flash_decode_plan(q, cache, cache, lengths),
        "workspace_bytes": lambda: workspace_bytes(q, cache, cache),
        "append_kv": lambda: append_kv(cache, cache, new, new, lengths),
        "cascade_decode": lambda: cascade_decode(q, prefix, prefix, cache, cache, lengths),
        "kvcache, append": lambda: flash_attn_with_kvcache(
            q, cache, cache, new, new, cache_seqlens=lengths
        ),
        "kvcache": lambda: flash_attn_with_kvcache(q, cache, cache, cache_seqlens=lengths),
    }


@pytest.mark.parametrize(
    "name",
    [
        "flash_decode",
        "flash_decode_plan",
        "workspace_bytes",
        "append_kv",
        "cascade_decode",
        "kvcache, append",
        "kvcache",
    ],
)
@pytest.mark.parametrize("capability", OLD, ids=str)
def test_refused_before_the_launch_and_the_way_out_is_named(gpu, name, capability):
    gpu(capability)
    says = r"float8_e4m3fn.*sm_89.*got cuda:0, sm_{}{}: take float8_e5m2 or int8".format(
        *capability
    )
    with pytest.raises(ValueError, match=says):
        calls(E4M3)[name]()


def check(dtype):
    """What both doors check of shapes and dtypes."""
    q, new, cache = empty(2, 1, 4, 64), empty(2, 1, 2, 64), empty(2, 32, 2, 64, dtype=dtype)
    one = empty(dtype=torch.float32) if dtype == torch.int8 else None
    decode_checks.check_shapes(q, cache, cache, Features(k_scale=one, v_scale=one))
    append_checks.check_tokens(Tokens(cache, cache, new, new, k_scale=one, v_scale=one))


@pytest.mark.parametrize("capability", NEW, ids=str)
def test_from_sm_89_on_it_passes_and_the_gpu_is_asked_once(gpu, capability):
    cuda = gpu(capability)
    for _ in range(3):
        check(E4M3)
    assert cuda.asked == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8, torch.float8_e5m2], ids=str)
def test_other_dtypes_are_not_asked_about(gpu, dtype):
    cuda = gpu((8, 0))
    check(dtype)
    assert cuda.asked == 0


def test_amd_passes(gpu, monkeypatch):
    gpu((9, 4))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (0, 0))
    check(E4M3)


def test_interpreted_it_passes_wherever_the_tensors_are(gpu, monkeypatch):
    gpu((8, 0))
    monkeypatch.setattr(runtime, "INTERPRETED", True)
    check(E4M3)


@pytest.mark.parametrize(
    "door",
    [flash_decode, append_kv, cascade_decode, Features, flash_attn_with_kvcache],
    ids=lambda door: door.__name__,
)
def test_the_documentation_says_so(door):
    assert "float8_e4m3fn" in door.__doc__ and "sm_89" in door.__doc__


def test_devices_know_and_explain_says_so():
    call = {"batch": 1, "heads": (32, 8), "head_dim": 128, "length": 4096}
    refused = {
        "V100 SXM2 16GB",
        "V100 SXM2 32GB",
        "T4",
        "A10",
        "RTX 3090",
        "A100 40GB",
        "A100 80GB SXM",
        "A100 80GB PCIe",
    }
    for device in DEVICES:
        assert device.has_e4m3 == (device.name not in refused)
        said = str(explain(**call, kv_dtype="e4m3", device=device))
        note = f"refuses this call: {device.arch} cannot convert float8_e4m3fn, sm_89 is the first"
        assert (note in said) == (device.name in refused)
        assert ("take float8_e5m2 or int8" in said) == (device.name in refused)
        for other in (None, "int8", "e5m2"):
            assert "note" not in str(explain(**call, kv_dtype=other, device=device))
    mine = Device("mine", sms=10, bandwidth=100.0, tensor_tflops=10.0, fp32_tflops=1.0, l2_mb=1.0)
    assert mine.has_e4m3 and "note" not in str(explain(**call, kv_dtype="e4m3", device=mine))
