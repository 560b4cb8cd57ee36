"""kernels.explain: limits that can be computed by hand, and the choices that the kernel makes."""

import dataclasses
import doctest
import itertools

import pytest
import torch

from kernels import explain as module
from kernels.devices import Device
from kernels.explain import explain
from kernels.explain import model as explanation
from kernels.explain.model import REACHABLE
from kernels.flash_decoding.features import Features, Splits
from kernels.flash_decoding.launch import choose_splits
from kernels.runtime import INTERPRETED

H100 = Device.named("H100 SXM")
CALL = {"batch": 1, "heads": (32, 8), "head_dim": 128, "length": 65536, "device": H100}


def say(**changes):
    return explain(**CALL | changes)


@pytest.mark.parametrize("place", [module, explanation], ids=["explain", "explanation"])
def test_docstrings_tell_the_truth(place):
    result = doctest.testmod(place)
    assert result.attempted and not result.failed


def test_one_program_is_bound_by_too_few_programs():
    said = say(heads=(8, 1), num_splits=1)
    assert (said.programs, said.bound) == (1, "too few programs")
    assert said.idle_us == pytest.approx(131 * said.memory_us)  # one of 132 SMs works
    assert say(heads=(8, 1)).time_us < said.time_us / 10  # splits are the cure


def test_a_large_batch_is_bound_by_memory():
    said = say(batch=256, length=8192)
    assert said.splits == said.launches == 1 and said.bound == "memory bandwidth"
    kv = 256 * 8192 * 8 * 2 * 128 * 2  # batch, keys, KV heads, K and V, D, bytes
    assert said.kv_bytes == kv and said.partial_bytes == said.merge_us == 0
    assert said.time_us == pytest.approx(kv / (3350e9 * REACHABLE) * 1e6, rel=0.05)


def test_a_short_cache_is_bound_by_launches():
    said = say(length=512)
    assert said.bound == "launch overhead" and said.launch_us == 2 * H100.launch_us
    graph = dataclasses.replace(H100, launch_us=2.0)
    assert say(length=512, device=graph).time_us == pytest.approx(said.time_us - 16)


def test_many_queries_without_tensor_cores_are_bound_by_arithmetic():
    said = say(batch=8, heads=(8, 8), queries=32, device="T4")
    assert said.bound == "arithmetic" and " arithmetic + " in str(said)
    assert said.operations == 2 * 8 * 8 * 32 * 65536 * 2 * 128  # QKᵀ and PV; no padding here


def test_a_padded_tile_counts():
    sixteen = say(heads=(128, 8))
    for heads in (8, 24):  # 1 row, or 3, become 16
        padded = say(heads=(heads, 8))
        assert padded.operations == sixteen.operations
        assert padded.peak_tflops == H100.tensor_tflops


def test_a_single_row_is_not_padded_where_there_are_no_tensor_cores():
    for options in ({"dtype": "fp32"}, {"device": "T4"}):
        single, sixteen = (say(heads=(heads, 8), **options) for heads in (8, 128))
        assert sixteen.operations == 16 * single.operations
        assert single.peak_tflops == sixteen.peak_tflops == single.device.fp32_tflops
    assert say(dtype="fp32").peak_tflops == H100.fp32_tflops


def test_partial_results_by_hand():
    said = say(num_splits=7)
    assert said.partial_bytes == 7 * 32 * (128 + 1) * 4
    assert said.other_bytes == 32 * (128 + 128) * 2 + 32 * 4  # q and o, lse
    assert said.merge_us == pytest.approx(said.partial_bytes / (3350e3 * REACHABLE))


def test_what_makes_the_cache_smaller_makes_it_faster():
    whole = say()
    for quantised in ("int8", "e4m3", "e5m2"):
        assert 2 * say(kv_dtype=quantised).kv_bytes == whole.kv_bytes
    assert say(window=4095).kv_bytes * 16 == whole.kv_bytes
    assert say(heads=(32, 4)).kv_bytes * 2 == whole.kv_bytes
    latent = {"heads": (128, 1), "head_dim": 576, "value_dim": 512}
    assert say(**latent, latent=True).kv_bytes == 65536 * 576 * 2
    assert say(**latent).kv_bytes == 65536 * (576 + 512) * 2
    assert say(page_size=16).other_bytes - whole.other_bytes == 4 * 65536 // 16


@pytest.mark.parametrize("change", ["length", "batch", "queries", "head_dim"])
@pytest.mark.parametrize("num_splits", [1, 8])
def test_more_work_takes_more_time(change, num_splits):
    amounts = {
        "length": (0, 1, 64, 1000, 5000, 10**5, 10**6),
        "batch": (1, 2, 16, 33, 34, 100, 1000),
        "queries": (1, 2, 4, 16, 17, 64, 300),
        "head_dim": (16, 40, 64, 128, 256),
    }[change]
    times = [say(**{change: n, "num_splits": num_splits}).time_us for n in amounts]
    for less, more in itertools.pairwise(times):
        assert more >= less * (1 - 1e-12)  # equal times differ by rounding
    assert times[0] < times[-1]


def test_tiles_that_read_the_same_keys():
    """Up to two per KV head cost nothing; beyond that, each gets no more than its SM's share."""
    calls = (say(batch=64, heads=(64 * n, 1), length=4096) for n in (2, 4))
    two, four = (dataclasses.replace(call, spent=None) for call in calls)
    assert (two.m_tiles, four.m_tiles) == (2, 4) and four.kv_bytes == two.kv_bytes
    assert two.again_us < 0.05 * two.memory_us
    assert four.memory_us / 2 < four.again_us < 1.1 * four.memory_us and "again" in str(four)


def test_a_faster_device_takes_less_time():
    times = [say(batch=8, device=name).time_us for name in ("T4", "A10", "A100 40GB", "H200")]
    assert times == sorted(times, reverse=True)


def test_room_in_the_cache_costs_splits_without_keys():
    """The weakness of a rule that sees only the capacity: a short row's programs are idle."""
    said = say(length=512, capacity=65536)
    assert said.splits == say().splits == 32
    assert (said.programs, said.busy) == (32 * 8, 8 * 8)  # 8 blocks of 64 keys, 8 KV heads
    assert "192 without a key" in str(said)
    assert say(length=0, capacity=65536).busy == 0


@pytest.mark.parametrize("G", [1, 4, 12])
@pytest.mark.parametrize("queries", [1, 3])
def test_choices_are_those_of_flash_decode(G, queries, monkeypatch):
    q = torch.empty(2, queries, 2 * G, 80, dtype=torch.float16, device="meta")
    cache = torch.empty(2, 5000, 2, 80, dtype=torch.float16, device="meta")
    splits = Splits(num_sms=H100.sms)
    choice = choose_splits(q, cache, cache, Features(window=3000), splits)
    said = explain(
        batch=2,
        heads=(2 * G, 2),
        head_dim=80,
        length=5000,
        queries=queries,
        dtype="fp16",
        window=3000,
        device=H100,
    )
    if INTERPRETED:  # tiles differ there; the rule is asked the same question
        assert choice.launch.block_n == said.block_n == 64
    assert said.splits == choice.parts
    assert said.programs == choice.parts * 2 * 2 * -(-queries * G // choice.launch.block_m)
    assert "batch 2, heads" in said.call and "window 3,000, fp16" in said.call


def test_a_call_with_pages_and_a_latent_head():
    call = {"batch": 3, "heads": (16, 1), "head_dim": 576, "length": 500, "device": H100}
    said = explain(**call, value_dim=512, latent=True, capacity=640, page_size=16)
    assert said.kv_bytes == 3 * 500 * 576 * 2  # the values are part of the keys: read once
    plain = explain(**call, value_dim=512, latent=True, capacity=640)
    assert said.other_bytes - plain.other_bytes == 4 * 3 * 32  # entries of 32 pages of 16 tokens
    int8 = torch.empty(3, 500, 1, 576, dtype=torch.int8)
    assert explain(**call, kv_dtype="int8").kv_bytes == 2 * int8.numel()
    with pytest.raises(ValueError, match="kv_dtype must be bf16, int8, e4m3 or e5m2; got 'fp64'"):
        explain(**call, kv_dtype="fp64")


def test_a_machine_without_a_gpu_explains_a_stand_in(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(say(device=None)).startswith("A100 80GB SXM (a stand-in: there is no GPU here): ")


def test_the_block_is_aligned_and_says_what_it_is():
    lines = str(say()).splitlines()
    assert lines[-1].strip() == "a model from datasheet figures, not a measurement"
    assert all(line[:2] == "  " and line[11] == " " != line[12] for line in lines[1:-1])
    assert "partial results" not in str(say(num_splits=1))
    assert "2 queries" in str(say(queries=2)) and "bf16 on int8" in str(say(kv_dtype="int8"))


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"batch": 0}, ValueError, "batch must be at least 1; got 0"),
        ({"batch": 1.0}, TypeError, "batch must be an int; got 1.0"),
        ({"queries": True}, TypeError, "queries must be an int; got True"),
        ({"heads": 8}, TypeError, r"heads must be a pair \(Hq, Hkv\); got 8"),
        ({"heads": (8, 3)}, ValueError, "Hq must be a multiple of Hkv; got heads 8 and 3"),
        ({"heads": (8, 0)}, ValueError, "Hkv must be at least 1; got 0"),
        ({"head_dim": 577}, ValueError, "must be at most 576"),
        ({"length": -1}, ValueError, "length must be at least 0; got -1"),
        ({"capacity": 65535}, ValueError, "capacity must be at least 65536; got 65535"),
        ({"window": -1}, ValueError, "window must be at least 0; got -1"),
        ({"num_splits": 0}, ValueError, "num_splits must be at least 1; got 0"),
        ({"dtype": "int8"}, ValueError, "dtype must be fp32, bf16 or fp16; got 'int8'"),
        ({"kv_dtype": "fp16"}, ValueError, "kv_dtype must be bf16, int8, e4m3 or e5m2"),
        ({"device": "abacus"}, ValueError, "no device is called 'abacus'"),
    ],
)
def test_misuse_is_told(wrong, error, says):
    with pytest.raises(error, match=says):
        say(**wrong)
