"""Who decodes on this machine: judged, timed, told; TPOT and the shapes of its curves."""

import math

import pytest
import torch

from benchmarks import here, tpot
from benchmarks.curves import line, noise_of, shape_of
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
    """The plumbing alone: kernels interpreted, the host's clock, three contestants."""
    pytest.importorskip("triton", reason="triton has wheels for Linux only")
    from benchmarks import contest, peers

    if not peers.INTERPRETED:
        pytest.skip("on a GPU the benchmarks themselves are run")
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
    return tpot.Decoder(Config(layers=1, width=32, Hq=4, Hkv=2, D=8, hidden=48, context=96))


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

    first = decoder.step(17, attend)
    assert torch.equal(decoder.step(17, attend), first) and seen == [[17], [17]]
    decoder.step(96, attend)
    assert seen[-1] == [96]  # the cache may be filled to the last place


def test_measure_gives_quartiles_for_each_context(decoder):
    done = []
    curves = tpot.measure(decoder, (8, 64), tpot.attentions(), 7, lambda: done.append(1))
    assert len(done) == 2 and set(curves) == {"naive", "SDPA", "Flash-Decoding"}
    for points in curves.values():
        assert len(points) == 2
        assert all(0 < q1 <= median <= q3 for q1, median, q3 in points)


# ---- shapes ------------------------------------------------------------------------------------


def test_line_by_hand():
    assert line([1, 2, 3, 4], [1.0, 1.0, 3.0, 3.0]) == pytest.approx((0.0, 0.8))
    with pytest.raises(ValueError, match="three points or more; got 2 and 2"):
        line([1, 2], [1.0, 2.0])
    with pytest.raises(ValueError, match="got 3 and 4"):
        line([1, 2, 3], [1.0, 2.0, 3.0, 4.0])


def test_growth_and_misfit_by_hand():
    shape = shape_of([1, 2, 3, 4], [1.0, 1.0, 3.0, 3.0])
    assert shape.misfit == pytest.approx(math.sqrt(0.8 / 4) / 2.4)
    assert shape.growth == pytest.approx(2.4 / 2)


@pytest.mark.parametrize("treads", [2, 3, 5, 8, 11])
def test_staircases_are_stepped_as_the_docstring_says(treads):
    x = range(20 * treads)
    shape = shape_of(x, [10 + i // 20 for i in x])
    if treads >= 5:  # it grows by a tenth at least
        assert shape.name == "stepped"
    assert shape.misfit == pytest.approx(0.29 / treads, rel=0.2)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e6])
def test_shapes_do_not_depend_on_units(unit):
    x = [unit * i for i in range(40)]
    named = {
        "flat": [5 + 0.005 * i for i in range(40)],
        "linear": [5 + 0.5 * i for i in range(40)],
        "stepped": [5.0 + i // 10 for i in range(40)],
    }
    for name, times in named.items():
        assert shape_of(x, times).name == name == shape_of(x, [t / unit for t in times]).name


def test_points_within_their_own_noise_of_the_line_are_on_it():
    x = range(40)
    times = [5 + 0.5 * i + 0.6 * (-1) ** i for i in x]
    assert shape_of(x, times).name == "stepped"
    assert shape_of(x, times, noise=0.7).name == "linear"
    assert shape_of(x, [5.0 + i // 10 for i in x], noise=0.1).name == "stepped"
    assert noise_of([[1.0, 2.0, 2.0], [0.0, 1.0, 4.0], [1.0, 3.0, 4.0]]) == 1.5


def test_noise_is_unclear():
    shape = shape_of(range(8), [1.0, 3.0, 1.0, 2.0, 1.0, 3.0, 2.0, 2.0])
    assert shape.growth > 0.1 and shape.misfit > 0.3 and shape.name == "unclear"


def test_a_falling_curve_is_flat():
    shape = shape_of(range(10), [5 - 0.1 * i for i in range(10)])
    assert (shape.name, shape.misfit) == ("flat", 0.0)
    assert shape_of(range(10), [5 - 0.4 * i for i in range(10)]).name == "flat"
