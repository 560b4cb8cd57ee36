"""What decodes on this machine: judged, timed and reported; TPOT, from cold caches."""

import os

import pytest
import torch

from benchmarks import here, tpot
from reference.transformer import Config

SMALL = (1, 4, 2, 128)


@pytest.fixture
def small_cache(monkeypatch):
    monkeypatch.setattr(here, "last_level_cache", lambda: 2**19)


def test_everyone_on_a_cpu_is_timed_and_the_others_are_named(small_cache):
    cell = here.on_cpu(SMALL, quick=True, rounds=7)
    assert set(cell.quartiles) == {"naive", "SDPA", "Flash-Decoding"}
    assert all(0 < q1 <= median <= q3 for q1, median, q3 in cell.quartiles.values())
    assert cell.kv_bytes == 2 * 128 * 2 * here.D * 4 and cell.sets * cell.kv_bytes > 2**20
    assert set(cell.cannot) == {"FlexAttention", *here.GPU_ONLY}
    told = here.table(cell).splitlines()
    medians = [float(text.split()[1]) for text in told[1:4]]
    assert medians == sorted(medians) and " 1.00 ×" in told[1]
    assert "needs a GPU" in told[-1]


def test_a_wrong_answer_is_not_timed(small_cache, monkeypatch):
    def half(q, k, v):
        keys = k.shape[1] // 2
        return here.sdpa(q, k[:, :keys], v[:, :keys])

    monkeypatch.setattr(here, "flash_decode_threads", half)
    cell = here.on_cpu(SMALL, quick=True, rounds=7)
    assert "Flash-Decoding" not in cell.quartiles and "SDPA" in cell.quartiles
    assert cell.cannot["Flash-Decoding"].startswith("wrong: ")


def test_flex_that_does_not_compile_is_told_not_raised(small_cache, monkeypatch):
    def no_compiler(*_, **__):
        raise RuntimeError("no C++ compiler\nand a long trace")

    monkeypatch.setattr(torch, "compile", no_compiler)
    cell = here.on_cpu(SMALL, quick=False, rounds=7)
    assert cell.cannot["FlexAttention"] == "RuntimeError: no C++ compiler"
    assert set(cell.quartiles) == {"naive", "SDPA", "Flash-Decoding"}


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_takes_part_where_it_compiles(small_cache, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    cell = here.on_cpu(SMALL, quick=False, rounds=7)
    assert "FlexAttention" in cell.quartiles and set(cell.cannot) == {*here.GPU_ONLY}


def test_the_largest_cache_is_read_or_not_known(tmp_path, monkeypatch):
    for name, size in (("index0", "48K\n"), ("index3", "32M\n"), ("index4", "?\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "size").write_text(size)
    monkeypatch.setattr(here, "Path", lambda _: tmp_path)
    assert here.last_level_cache() == 32 * 2**20
    monkeypatch.setattr(here, "Path", lambda _: tmp_path / "nowhere")
    assert here.last_level_cache() is None


def test_on_a_gpu_the_peers_take_part_under_their_labels(monkeypatch):
    """Only the plumbing: interpreted kernels, the host's clock, a few contestants."""
    pytest.importorskip("triton", reason="triton has no wheels for this system")
    from benchmarks import contest, peers

    if not peers.INTERPRETED:
        pytest.skip("on a GPU the benchmarks themselves run")
    few = ("flash_decoding", "sdpa", "flex", "flashinfer")
    monkeypatch.setattr(peers, "PEERS", tuple(p for p in peers.PEERS if p.name in few))
    monkeypatch.setattr(here, "cold_bytes", lambda: 2**18)
    monkeypatch.setattr(
        here, "compete", lambda entrants, on_gpu: contest.compete(entrants, on_gpu=not on_gpu)
    )
    cell = here.on_gpu((1, 4, 2, 128))
    assert set(cell.quartiles) == {"Flash-Decoding", "SDPA"} and cell.dtype == "bfloat16"
    assert cell.cannot["FlexAttention"] == "needs a GPU" and "FlashInfer" in cell.cannot
    assert "Flash-Decoding" in here.table(cell)


# ---- TPOT --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoder():
    small = Config(layers=1, width=32, Hq=4, Hkv=2, D=8, hidden=48, context=96)
    return tpot.Decoder(small, cold=2**16)


def test_all_attentions_give_the_same_logits_and_half_the_keys_do_not(decoder):
    by_name = tpot.attentions()

    def half(q, k, v, lengths, *, causal):
        return by_name["naive"](q, k, v, lengths // 2, causal=causal)

    agreed = tpot.agree(decoder, 90, by_name | {"half": half})
    assert agreed == dict.fromkeys(by_name, True) | {"half": False}


def test_a_step_sees_so_many_keys_and_can_be_repeated(decoder):
    seen = []

    def attend(q, k, v, lengths, *, causal):
        seen.append(lengths.tolist())
        return torch.zeros_like(q)

    first = decoder.step(17, attend, 0)
    assert torch.equal(decoder.step(17, attend, 0), first) and seen == [[17], [17]]
    decoder.step(96, attend)
    assert seen[-1] == [96]  # the cache may be filled to the last position


def test_no_key_is_read_again_before_the_machine_s_cache_is_full(decoder):
    read, last = 0, {}

    def attend(q, k, v, lengths, *, causal):
        nonlocal read
        step = k.stride(1) * k.element_size()
        for key in range(k.data_ptr(), k.data_ptr() + k.shape[1] * step, step):
            assert read - last.get(key, -(2**20)) >= 2**16  # bytes of K and V
            last[key] = read
        read += 2 * k.shape[1] * step
        return torch.zeros_like(q)

    for context in (7, 96, 50, 96, 1, 64) * 200:
        decoder.step(context, attend)
    assert read > 4 * 2**16 and len(last) * 2 * 64 >= 2**16


def test_contexts_take_turns_too(decoder, monkeypatch):
    asked = []
    monkeypatch.setattr(decoder, "step", lambda context, attend: asked.append((context, attend)))
    tpot.measure(decoder, (8, 16), {"a": "A", "b": "B"}, 3)
    rounds = [asked[i : i + 4] for i in range(0, 16, 4)]
    assert len(asked) == 16 and all(len({*round_}) == 4 for round_ in rounds)
    assert len({round_[0] for round_ in rounds}) == 4  # nobody always goes first


def test_one_thread_is_left_to_the_rest_of_the_machine():
    assert 1 <= here.THREADS <= max(1, (os.cpu_count() or 2) - 1)
    assert here.cold() >= 2 * (here.last_level_cache() or 0)


def test_measure_gives_quartiles_for_each_context(decoder):
    done = []
    curves = tpot.measure(decoder, (8, 64), tpot.attentions(), 7, lambda: done.append(1))
    assert len(done) == 7 and set(curves) == {"naive", "SDPA", "Flash-Decoding"}
    for points in curves.values():
        assert len(points) == 2
        assert all(0 < q1 <= median <= q3 for q1, median, q3 in points)
