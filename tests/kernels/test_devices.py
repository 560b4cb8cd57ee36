"""kernels.devices: figures for GPUs, and which GPU this machine has."""

import dataclasses
import doctest
from types import SimpleNamespace

import pytest
import torch

from kernels import devices
from kernels.compile_report.targets import TARGETS
from kernels.devices import DEVICES, Device, recognise


def test_docstrings_tell_the_truth():
    assert doctest.testmod(devices).failed == 0


def test_figures_are_of_one_unit():
    """GB/s, TFLOP/s and MB: a figure in TB/s or with sparsity would stand out."""
    assert len({device.name for device in DEVICES}) == len(DEVICES)
    for device in DEVICES:
        assert 250 <= device.bandwidth <= 10_000
        assert 40 <= device.sms <= 304
        assert 16 <= device.memory_gb <= 192 and device.memory_gb < device.bandwidth
        # Tensor cores are 2 to 30 times as fast as the rest; bytes are scarcer than operations.
        assert 1.9 <= device.tensor_tflops / device.fp32_tflops <= 30
        assert device.tensor_tflops * 1e3 / device.bandwidth > 75
        assert Device.named(device.name.upper()) is device


def test_fp32_is_lanes_times_clock():
    """FP32 figures are 2 operations × lanes × SMs × clock: the implied clock is plausible."""
    lanes = {"sm_70": 64, "sm_75": 64, "sm_80": 64}  # all others: 128
    for device in DEVICES:
        per_sm = lanes.get(device.arch, 128)
        gigahertz = device.fp32_tflops * 1e3 / (2 * per_sm * device.sms)
        assert 1.3 <= gigahertz <= 2.55, device.name


def test_tensor_cores_do_a_power_of_two_of_operations_a_clock():
    """Dense, per SM and clock, by architecture; a figure with sparsity would be twice that."""
    per_clock = {"sm_70": 1024, "sm_75": 1024, "sm_80": 2048, "sm_86": 1024, "sm_89": 1024}
    per_clock |= {"sm_90": 4096, "sm_100": 8192, "gfx942": 2048}
    for device in DEVICES:
        lanes = 64 if device.arch in ("sm_70", "sm_75", "sm_80") else 128
        wanted = per_clock[device.arch]
        if device.name.startswith("RTX"):  # GeForce: half rate with fp32 sums
            wanted //= 2
        got = device.tensor_tflops / device.fp32_tflops * 2 * lanes  # at the fp32 clock
        assert got == pytest.approx(wanted, rel=0.08), device.name


def test_every_figure_has_a_source_and_every_architecture_is_known():
    known = {target.name: target for target in TARGETS}
    for device in DEVICES:
        assert "NVIDIA" in device.source or "AMD" in device.source
        assert "white paper" in device.source or "device properties" in device.source
        if device.arch == "sm_70":  # Triton cannot compile for it
            assert not device.tensor_cores
        else:
            assert device.tensor_cores == known[device.arch].tensor_cores


@pytest.mark.parametrize(
    ("driver_name", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", "A100 80GB SXM"),
        ("NVIDIA A10", "A10"),
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("Tesla V100-SXM2-16GB", "V100 SXM2 16GB"),
        ("Tesla V100-SXM2-32GB", "V100 SXM2 32GB"),
        ("NVIDIA B200", "B200"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_names_of_drivers(driver_name, name):
    assert recognise(driver_name).name == name


@pytest.mark.parametrize(
    "name",
    ["NVIDIA A10G", "NVIDIA L40", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GB200"],
)
def test_a_gpu_that_is_only_called_alike_is_not_taken_for_it(name):
    assert recognise(name) is None


def pretend(monkeypatch, name, sms):
    there = SimpleNamespace(name=name, multi_processor_count=sms)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: there)


def test_the_gpu_that_is_here(monkeypatch):
    pretend(monkeypatch, "NVIDIA H100 80GB HBM3", 132)
    assert Device.here() is Device.named("H100 SXM")


def test_a_part_of_a_gpu_has_a_part_of_its_figures(monkeypatch):
    pretend(monkeypatch, "NVIDIA H100 80GB HBM3 MIG 3g.40gb", 66)
    half, whole = Device.here(), Device.named("H100 SXM")
    assert half.name == "H100 SXM, 66 of 132 SMs" and half.sms == 66
    assert half.bandwidth == whole.bandwidth / 2 and half.tensor_tflops == whole.tensor_tflops / 2
    assert half.memory_gb == 40


def test_a_gpu_without_figures_is_not_guessed(monkeypatch):
    pretend(monkeypatch, "NVIDIA Unheard-of", 10)
    with pytest.raises(ValueError, match="no figures for NVIDIA Unheard-of: give Device"):
        Device.here()


def test_a_stand_in_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device = Device.here()
    assert "a stand-in: there is no GPU here" in device.name
    assert dataclasses.replace(device, name="A100 80GB SXM") == Device.named("A100 80GB SXM")


def test_misuse_is_told():
    with pytest.raises(
        ValueError, match="no device is called 'abacus'; there are V100 SXM2 16GB, V100"
    ):
        Device.named("abacus")
    with pytest.raises(ValueError, match="bandwidth must be above 0; got 0"):
        dataclasses.replace(DEVICES[0], bandwidth=0)
    for field in ("l2_mb", "launch_us", "fill_us"):
        with pytest.raises(ValueError, match=f"{field} must not be negative; got -1"):
            dataclasses.replace(DEVICES[0], **{field: -1})
    for field in ("reachable", "alone"):
        with pytest.raises(ValueError, match=rf"{field} must be above 0 and at most 1; got 1\.1"):
            dataclasses.replace(DEVICES[0], **{field: 1.1})
    with pytest.raises(ValueError, match=r"pace must be at least 1; got 0\.5"):
        dataclasses.replace(DEVICES[0], pace=0.5)
    with pytest.raises(ValueError, match="memory_gb must be above 0; got 0"):
        dataclasses.replace(DEVICES[0], memory_gb=0)
