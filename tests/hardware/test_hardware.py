"""course.hardware: figures, roofline, this CPU and KV memory, with numbers a person can check."""

import dataclasses
import doctest
import importlib
import itertools
import pkgutil

import pytest
import torch

from course import hardware
from course.hardware import machine
from course.hardware.roofline import (
    Work,
    attainable_tflops,
    decode_intensity,
    decode_work,
    linear_work,
    peak_tflops,
    prefill_intensity,
    prefill_work,
    ridge_point,
    roofline_us,
)
from kernels.devices import DEVICES, Device
from reference.attention import attention

H100 = Device.named("H100 SXM")
MODULES = [info.name for info in pkgutil.iter_modules(hardware.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_tell_the_truth(name):
    result = doctest.testmod(importlib.import_module(f"course.hardware.{name}"))
    assert not result.failed and (result.attempted or name == "machine")


def test_the_list_of_names_is_whole():
    assert len(set(hardware.__all__)) == len(hardware.__all__)
    assert all(hasattr(hardware, name) for name in hardware.__all__)
    assert hardware.DEVICES is DEVICES  # one table


def test_the_table_has_a_line_a_device():
    lines = hardware.table().splitlines()
    assert len(lines) == len(DEVICES) + 1 and len({len(line) for line in lines}) == 1
    unknown = Device(
        name="home-made", sms=1, bandwidth=1, tensor_tflops=1, fp32_tflops=0.01, l2_mb=0
    )
    assert hardware.table([unknown]).split()[-7:] == ["1", "1", "?", "1.0", "0.010", "0", "–"]


def test_limits_of_an_sm():
    assert hardware.limits("V100 SXM2 32GB").shared_per_sm == 96 * 1024
    assert hardware.limits(H100).name == "sm_90" and hardware.limits("MI300X").warp_size == 64
    for device in DEVICES:
        assert hardware.resident_programs(device, registers=64, shared_bytes=16 * 1024) >= 2
        assert hardware.resident_programs(device, registers=64, shared_bytes=2**20) == 0
    with pytest.raises(ValueError, match=r"this CPU .* has no GPU architecture"):
        hardware.limits(hardware.this_cpu())


def test_the_roof_meets_at_the_ridge():
    for device, dtype in itertools.product(DEVICES, ("fp32", "fp16", "bf16")):
        ridge, peak = ridge_point(device, dtype), peak_tflops(device, dtype)
        assert attainable_tflops(ridge, device, dtype) == pytest.approx(peak)
        assert attainable_tflops(ridge / 2, device, dtype) == pytest.approx(peak / 2)
        assert attainable_tflops(ridge * 2, device, dtype) == peak
        work = Work(operations=ridge * 1e9, bytes=1e9)
        assert roofline_us(work, device, dtype) == pytest.approx(1e6 / device.bandwidth)


def test_a_dtype_that_tensor_cores_do_not_know_is_done_without_them():
    for name in ("T4", "V100 SXM2 16GB"):
        assert peak_tflops(name, "bf16") == Device.named(name).fp32_tflops
        assert peak_tflops(name, "fp16") == Device.named(name).tensor_tflops


def test_decode_work_counts_what_attention_does():
    """The bytes of the tensors themselves; the operations of both products, from the shapes."""
    B, Lq, Lk, Hq, Hkv, D = 2, 3, 40, 8, 2, 16
    shape = {"batch": B, "heads": (Hq, Hkv), "head_dim": D, "length": Lk, "dtype": "fp32"}
    for Dv, given in ((D, {}), (24, {"value_dim": 24})):
        q = torch.randn(B, Lq, Hq, D)
        k, v = torch.randn(B, Lk, Hkv, D), torch.randn(B, Lk, Hkv, Dv)
        work = decode_work(queries=Lq, **shape, **given)
        tensors = (q, k, v, attention(q, k, v))
        assert work.bytes == sum(x.numel() * x.element_size() for x in tensors)
        products = [B * Hq * Lq * D * Lk, B * Hq * Lq * Dv * Lk]  # QKᵀ and PV
        assert work.operations == sum(2 * n for n in products)


@pytest.mark.parametrize("kv_dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(("group", "queries"), [(1, 1), (8, 1), (4, 5)])
def test_intensity_of_decode_is_that_of_a_long_context(group, queries, kv_dtype):
    limit = decode_intensity(group, queries, kv_dtype)
    shape = {"heads": (2 * group, 2), "head_dim": 64, "queries": queries, "kv_dtype": kv_dtype}
    found = [
        decode_work(batch=b, length=n, **shape).intensity for b in (1, 9) for n in (512, 10**7)
    ]
    assert found[0] == found[2] < limit and found[1] == pytest.approx(limit, rel=1e-4)


def test_decode_is_left_of_every_ridge_and_prefill_right_of_it():
    for device in DEVICES:
        assert decode_intensity(8) < ridge_point(device, "fp16") / 4
        assert prefill_intensity(8192, 8, dtype="fp16") > 2 * ridge_point(device, "fp16")


def test_a_fused_prefill_moves_less_and_computes_the_same():
    shape = {"batch": 2, "heads": (8, 2), "head_dim": 64, "length": 1024}
    fused, naive = prefill_work(**shape), prefill_work(**shape, fused=False)
    assert naive.operations == fused.operations
    assert naive.bytes - fused.bytes == 4 * 2 * 8 * 1024**2 * 2  # S and P, written and read, bf16
    whole = prefill_work(**shape, causal=False)
    assert fused.operations / whole.operations == 1025 / 2048
    token = prefill_work(**shape | {"length": 1}, causal=True)
    assert token == decode_work(**shape | {"length": 1})  # one token: prefill is decode


def test_a_prompt_whose_values_have_a_width_of_their_own():
    """MLA: q and k have 192 columns, v and o 128; two heads, three tokens, six pairs."""
    shape = {"batch": 1, "heads": (2, 2), "head_dim": 192, "length": 3, "value_dim": 128}
    work = prefill_work(**shape)
    assert work.operations == 2 * 2 * 6 * (192 + 128)
    assert work.bytes == 2 * (2 * 3 * 2 * 192 + 2 * 3 * 2 * 128)
    assert prefill_work(**shape | {"length": 1}) == decode_work(**shape | {"length": 1})
    with pytest.raises(ValueError, match="value_dim must be at least 1; got 0"):
        prefill_work(**shape | {"value_dim": 0})


def test_work_adds_up_and_a_batch_helps_weights_alone():
    one, many = linear_work(1, 4096, 4096), linear_work(64, 4096, 4096)
    assert many.operations == 64 * one.operations and many.bytes < 1.04 * one.bytes
    assert (one + many).bytes == one.bytes + many.bytes
    assert (one + many).operations == one.operations + many.operations


def test_this_cpu_is_measured_once_and_is_plausible():
    cpu = hardware.this_cpu()
    assert hardware.this_cpu() is cpu
    assert cpu.sms == torch.get_num_threads() and "measured" in cpu.source
    assert 0.5 < cpu.bandwidth < 2000 and 0.001 < cpu.fp32_tflops < 100  # GB/s, TFLOP/s
    assert 0.05 < cpu.launch_us < 1000 and cpu.reachable == 1.0
    assert ridge_point(cpu, "fp32") == pytest.approx(cpu.fp32_tflops * 1e3 / cpu.bandwidth)
    assert peak_tflops(cpu, "bf16") == cpu.fp32_tflops


def test_the_clock_takes_the_shortest_round_and_forgets_the_first(monkeypatch):
    ticks = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(ticks))
    calls = []
    assert machine.best_seconds(lambda: calls.append(None), 3) == 1.0
    assert len(calls) == 4


def test_kv_bytes_of_known_models():
    assert hardware.bytes_per_token("Llama-3 8B") == 2 * 32 * 8 * 128 * 2
    assert hardware.bytes_per_token("Falcon 7B") == 2 * 32 * 1 * 64 * 2
    assert [model.group for model in hardware.MODELS] == [4, 8, 4, 71]
    for model in hardware.MODELS:
        fp16 = hardware.bytes_per_token(model)
        assert hardware.bytes_per_token(model, "int8") * 2 == fp16
        assert hardware.bytes_per_token(model, "fp8") * 2 == fp16
        assert hardware.bytes_per_user(model, 1000) == 1000 * fp16
        assert hardware.bytes_per_user(model, 0) == 0


def test_users_fill_the_memory_and_not_more():
    for model, context, dtype in itertools.product(
        hardware.MODELS, (1, 1000, 8192), ("fp16", "fp8", "int8")
    ):
        users = hardware.users_that_fit(model, context, 80.0, dtype=dtype, weights_dtype="fp8")
        taken = model.parameters * 1e9 + users * hardware.bytes_per_user(model, context, dtype)
        one = hardware.bytes_per_user(model, context, dtype)
        assert taken <= 72e9 < taken + one


def test_more_memory_shorter_contexts_and_fewer_bytes_fit_more_users():
    def users(memory_gb=80, context=8192, **more):
        return hardware.users_that_fit("Llama-3 8B", context, memory_gb, **more)

    counts = [users(gb) for gb in (24, 40, 80, 141, 192)]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    assert users(context=1024) >= 8 * users()
    assert users() < users(weights_dtype="int8") < users(dtype="fp8", weights_dtype="int8")
    assert users(16) == 0  # 8.03 · 10⁹ weights of two bytes


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: peak_tflops(H100, "int8"), "dtype must be fp32, bf16 or fp16; got 'int8'"),
        (lambda: ridge_point("abacus"), "no device is called 'abacus'"),
        (lambda: attainable_tflops(0, H100), "intensity must be above 0; got 0"),
        (lambda: decode_intensity(0), "group must be at least 1; got 0"),
        (lambda: decode_intensity(1, kv_dtype="fp4"), "dtype must be one of fp32, fp16.*'fp4'"),
        (lambda: decode_work(batch=1, heads=(8, 3), head_dim=8, length=8), "got heads 8 and 3"),
        (lambda: prefill_work(batch=0, heads=(8, 2), head_dim=8, length=8), "batch must be at"),
        (lambda: linear_work(0, 1, 1), "tokens must be at least 1; got 0"),
        (lambda: hardware.bytes_per_token("GPT"), "no model is called 'GPT'; there are Llama-3 8B"),
        (lambda: hardware.bytes_per_user("Mistral 7B", -1), "context must not be negative; got -1"),
        (lambda: hardware.users_that_fit("Mistral 7B", 0, 80), "context must be above 0"),
        (lambda: hardware.users_that_fit("Mistral 7B", 1, 80, usable=2), "usable must be above 0"),
        (
            lambda: dataclasses.replace(hardware.MODELS[0], query_heads=30),
            "query_heads must be a multiple of kv_heads; got 30 and 8",
        ),
    ],
)
def test_misuse_is_told(call, says):
    with pytest.raises(ValueError, match=says):
        call()
