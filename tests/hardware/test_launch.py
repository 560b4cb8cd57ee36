"""course.hardware: waves, timelines, published figures, and the fit to recorded runs."""

import dataclasses
import itertools
import random

import pytest

from course.hardware import count_waves, fit, predict_fa2, predict_flash_decoding, status
from course.hardware.fitted import solve
from course.hardware.published import (
    ARTICLE,
    ARTICLE_SPEED_UPS,
    POST,
    as_text,
    bandwidth_needed,
    compare_article,
    compare_post,
)
from course.hardware.timeline import Run, makespan, schedule, timeline_of, utilisation
from kernels.devices import DEVICES, Device
from kernels.explain import explain

A100 = Device.named("A100 80GB SXM")
H100 = Device.named("H100 SXM")
CALL = {"batch": 1, "heads": (32, 8), "head_dim": 128, "length": 16384, "device": A100}


def test_one_model_not_two():
    whole, unsplit = (explain(**CALL, num_splits=n) for n in (None, 1))
    assert predict_flash_decoding(**CALL) == dataclasses.replace(whole, spent=None)
    assert predict_fa2(**CALL, packed=True) == dataclasses.replace(unsplit, spent=None)
    assert predict_flash_decoding(**CALL).time_us == whole.time_us  # bound by memory: no matter


def test_thirty_two_heads_on_108_sms():
    said = count_waves(predict_fa2(**CALL))
    assert (said.programs, said.full, said.tail, said.busy_sms) == (32, 0, 32, 32)
    assert said.slots == 216 and said.efficiency == 32 / 216
    many = count_waves(predict_fa2(**CALL | {"batch": 8}))  # 256 programs
    assert (many.full, many.tail, many.busy_sms) == (1, 40, 40)
    even = count_waves(predict_fa2(**CALL | {"batch": 27}))  # 864 = 4 · 216
    assert (even.full, even.tail, even.busy_sms, even.efficiency) == (4, 0, 108, 1.0)
    none = count_waves(predict_fa2(**CALL | {"length": 0}))
    assert (none.programs, none.busy_sms) == (0, 0)


def test_without_splits_time_grows_with_length_and_not_with_heads():
    long, short = (predict_fa2(**CALL | {"length": n}) for n in (65536, 32768))
    assert long.stage_1_us == pytest.approx(2 * short.stage_1_us, rel=1e-3)
    for heads in ((8, 8), (64, 8), (108, 108)):
        assert predict_fa2(**CALL | {"heads": heads}).stage_1_us == pytest.approx(
            predict_fa2(**CALL).stage_1_us, rel=1e-3
        )
    assert predict_fa2(**CALL | {"heads": (109, 109)}).stage_1_us == pytest.approx(
        2 * predict_fa2(**CALL).stage_1_us, rel=1e-3
    )


def test_splits_of_a_size_and_of_a_number():
    by_size = predict_flash_decoding(**CALL, split_keys=4096)
    assert by_size == predict_flash_decoding(**CALL, num_splits=4)
    assert predict_flash_decoding(**CALL | {"length": 0}, split_keys=4096).splits == 1
    for wrong in ({"split_keys": 0}, {"split_keys": 9, "num_splits": 2}):
        with pytest.raises(ValueError, match="give num_splits or split_keys"):
            predict_flash_decoding(**CALL, **wrong)
    with pytest.raises(ValueError, match="Hq must be a multiple of Hkv; got heads 8 and 3"):
        predict_fa2(**CALL | {"heads": (8, 3)})


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_splitting_never_loses_much_and_wins_where_programs_are_few(device):
    """It can cost a launch and the partial results, no more; one user's long context gains."""
    for batch, length in itertools.product((1, 8, 64), (512, 8192, 131072)):
        call = CALL | {"batch": batch, "length": length, "device": device}
        packed, split = predict_fa2(**call, packed=True), predict_flash_decoding(**call)
        partials_us = 2 * split.merge_us  # written, and read again
        assert split.time_us <= packed.time_us + device.launch_us + partials_us + 1
    assert (
        predict_fa2(**call | {"batch": 1}).time_us
        > 3 * predict_flash_decoding(**call | {"batch": 1}).time_us
    )


def test_the_article_within_35_percent():
    """The published table's speed-ups, on an A100; no figure in the model was changed."""
    rows = compare_article()
    for row, column in zip(rows, ARTICLE_SPEED_UPS, strict=True):
        assert row.speed_up == pytest.approx(column, rel=0.35)
        assert all(abs(error) < 0.2 for error in row.errors)  # and each of its times within 20 %
    assert [row.published for row in rows] == list(ARTICLE)


def test_the_speed_up_does_not_depend_on_the_number_of_layers():
    for one, all_ in zip(compare_article(layers=1), compare_article(layers=80), strict=True):
        assert one.speed_up == pytest.approx(all_.speed_up)
        assert all_.fa2_us == pytest.approx(80 * one.fa2_us)


def test_what_the_article_cannot_have_measured():
    """80 layers on one A100 would need more bandwidth than there is; one layer hardly any."""
    longest = ARTICLE[-1]
    assert bandwidth_needed(longest, 80) > 3 * A100.bandwidth
    assert bandwidth_needed(longest, 1) < 0.05 * A100.bandwidth
    assert bandwidth_needed(longest, 13) < A100.bandwidth
    by_rule = compare_article(split_keys=None)  # more splits: faster than the article
    assert by_rule[1].speed_up > 2 * ARTICLE_SPEED_UPS[1]


def test_the_post_within_15_percent():
    """The post's times; a speed-up is the ratio of two of them, and their errors add up."""
    rows = compare_post()
    assert [row.published for row in rows] == list(POST)
    for row in rows:
        assert all(abs(error) < 0.15 for error in row.errors[:2])
        assert abs(row.errors[2]) < 0.16
    lines = as_text(rows).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert "2.30 → 1.98" in lines[1] and lines[0].split()[-1] == "off"


def test_schedule_by_hand():
    runs = schedule([2, 1, 4, 1], sms=1, programs_per_sm=2)
    assert runs[2] == Run(slot=1, sm=0, start=1.0, stop=5.0, program=2)
    assert runs[3] == Run(slot=0, sm=0, start=2.0, stop=3.0, program=3)
    assert makespan(runs) == 5.0 and utilisation(runs, 1) == 1.0
    assert schedule([], sms=3) == [] and makespan([]) == 0.0 == utilisation([], 3)


@pytest.mark.parametrize("seed", range(5))
def test_schedule_is_whole_and_near_the_best(seed):
    rng = random.Random(seed)
    durations = [rng.choice([0.0, 1.0, rng.random() * 9]) for _ in range(rng.randint(1, 60))]
    sms, places = rng.randint(1, 7), rng.randint(1, 3)
    runs = schedule(durations, sms, places)
    assert [run.program for run in runs] == list(range(len(durations)))
    assert all(r.stop - r.start == pytest.approx(d) for r, d in zip(runs, durations, strict=True))
    for slot in range(sms * places):  # one at a time, without a gap
        mine = [run for run in runs if run.slot == slot]
        assert [r.start for r in mine] == pytest.approx([0.0, *(r.stop for r in mine)][: len(mine)])
        assert all(run.sm == slot % sms for run in mine)
    best = max(max(durations), sum(durations) / (sms * places))
    assert best - 1e-9 <= makespan(runs) <= 2 * best + 1e-9
    assert 0 < utilisation(runs, sms) <= 1 + 1e-12 or not sum(durations)


@pytest.mark.parametrize("programs", [1, 8, 107, 108, 109, 128, 215, 216, 217, 500])
def test_a_timeline_ends_when_the_model_says(programs):
    said = explain(**CALL | {"heads": (programs, programs)}, num_splits=1)
    runs = timeline_of(said)
    assert len(runs) == said.busy == programs
    assert [run.program for run in runs] == list(range(programs))
    assert makespan(runs) == pytest.approx(said.stage_1_us)
    wave = programs - (programs - 1) // 216 * 216
    sms = {run.sm for run in runs[-wave:]}
    assert len(sms) == min(wave, 108)  # every SM gets one before any gets two
    places = {(run.slot, run.start) for run in runs}
    assert len(places) == programs  # no slot used twice at once
    if programs <= 108:
        assert utilisation(runs, 108) == pytest.approx(programs / 108)


def test_a_timeline_of_splits_fills_the_gpu():
    starved = timeline_of(predict_fa2(**CALL, packed=True))
    split = timeline_of(predict_flash_decoding(**CALL))
    assert utilisation(starved, 108) == pytest.approx(8 / 108)
    assert utilisation(split, 108) > 0.8 and makespan(split) < makespan(starved) / 8
    assert timeline_of(predict_flash_decoding(**CALL | {"length": 0})) == []


def test_misuse_of_timelines_is_told():
    with pytest.raises(ValueError, match="sms must be above 0; got 0"):
        schedule([1], sms=0)
    with pytest.raises(ValueError, match="durations must not be negative; got -1 of program 1"):
        schedule([1, -1], sms=2)


def record_of(device, contestant="flash_decoding", noise=0.0, gpu="NVIDIA H100 80GB HBM3"):
    """A record as `benchmarks.decode` writes it, from a GPU that behaves as the model says."""
    predict = {"flash_decoding": predict_flash_decoding, "fa2": predict_fa2}[contestant]
    rng, rows = random.Random(0), []
    for B, (Hq, Hkv), Lk in itertools.product(
        (1, 8, 64), ((32, 8), (8, 1), (32, 32)), (512, 4096, 32768)
    ):
        said = predict(batch=B, heads=(Hq, Hkv), head_dim=128, length=Lk, device=device)
        ms = said.time_us / 1e3 * (1 + noise * rng.uniform(-1, 1))
        rows.append({"B": B, "Hq": Hq, "Hkv": Hkv, "Lk": Lk, f"{contestant}_ms": ms})
    return {"gpu": gpu, "rows": rows}


@pytest.mark.parametrize("contestant", ["flash_decoding", "fa2"])
@pytest.mark.parametrize(("reachable", "launch_us"), [(0.8, 2.5), (0.95, 0.0), (0.3, 40.0)])
def test_a_fit_finds_what_the_times_were_made_with(contestant, reachable, launch_us):
    truth = dataclasses.replace(H100, reachable=reachable, launch_us=launch_us)
    found = fit(record_of(truth, contestant), contestant=contestant)
    assert found.fitted.reachable == pytest.approx(reachable, rel=1e-3)
    assert found.fitted.launch_us == pytest.approx(launch_us, abs=0.01)
    assert found.fitted_worst < 1e-3 < found.assumed_error and found.rows == 27
    assert found.assumed is H100


def test_a_fit_in_noise_is_better_than_the_assumption_and_says_how_good():
    truth = dataclasses.replace(H100, reachable=0.7, launch_us=3.0)
    found = fit(record_of(truth, noise=0.1))
    assert found.fitted.reachable == pytest.approx(0.7, rel=0.05)
    assert 0.01 < found.fitted_error < 0.1 < found.assumed_error
    assert found.fitted_error <= found.fitted_worst < 0.15
    lines = str(found).splitlines()
    assert lines[0] == "H100 SXM, 27 recorded times of flash_decoding" and len(lines) == 3
    assert "fitted   " in lines[1] and "% of the bandwidth" in lines[1]
    assert status(record_of(truth, noise=0.1)) == str(found)


def test_a_fit_stays_within_what_is_possible():
    """Faster than the datasheet, or a launch time below zero: clamped, and the error shows it."""
    fast = record_of(dataclasses.replace(H100, reachable=1.0, launch_us=0.0))
    for row in fast["rows"]:
        row["flash_decoding_ms"] /= 2
    found = fit(fast)
    assert found.fitted.reachable == 1.0 and found.fitted.launch_us == 0.0
    assert found.fitted_error == pytest.approx(1.0, rel=0.05)
    # One mix of bytes and launches: one equation.
    same = [(predict_flash_decoding(**CALL), 50.0)] * 3
    reachable, launch_us = solve(same)
    assert 0 < reachable <= 1 and launch_us >= 0


def test_without_a_run_it_is_a_model():
    assert fit(None) is None and "no GPU run is recorded yet" in status(None)
    assert fit({"gpu": "NVIDIA H200", "rows": []}) is None
    interpreted = record_of(H100, gpu="none: interpreted on the CPU, not a measurement")
    assert fit(interpreted) is None and status(interpreted).startswith("a model")
    few = record_of(H100)
    few["rows"] = [*few["rows"][:3], {"B": 1, "Hq": 8, "Hkv": 8, "Lk": 9, "cannot": {}}]
    assert fit(few) is None


def test_misuse_of_a_fit_is_told():
    with pytest.raises(ValueError, match="no figures for NVIDIA Unheard-of: pass device"):
        fit(record_of(H100, gpu="NVIDIA Unheard-of"))
    with pytest.raises(ValueError, match="contestant must be one of flash_decoding, fa2; got 'x'"):
        fit(record_of(H100), contestant="x")
    assert fit(record_of(H100, gpu="NVIDIA Unheard-of"), device=H100).assumed is H100
    with pytest.raises(ValueError, match="no row is bound by memory"):
        solve([])
