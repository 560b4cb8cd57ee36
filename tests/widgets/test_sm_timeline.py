"""The widget of lesson 07: every SM over time, and a sentence that is true in every case."""

import doctest
import re
import sys

import pytest

from course.hardware import DEVICES, predict_flash_decoding, timeline_of
from course.widgets import sm_timeline
from course.widgets.explorer import page
from course.widgets.sm_timeline import BATCHES, HEADS, LENGTHS, SPLITS, sm_timeline_view

MODULE = sys.modules["course.widgets.sm_timeline"]
START = {
    "device": "A100 80GB SXM",
    "batch": 1,
    "heads": "32/32",
    "length": 65536,
    "splits": 1,
}


def view(**changes):
    return sm_timeline_view(**(START | changes))


def test_what_the_lesson_says_of_32_heads_on_108_sms():
    said = view().sentence
    assert said.startswith("32 programs on 108 SMs: 30% of the SM time is used, and 76 SMs never")
    assert "predicts 1,985 µs, 10 of them for launching" in said and "would take 585 µs" in said


def test_three_splits_fill_it_and_four_leave_a_tail():
    assert view(splits=3).sentence.startswith("96 programs on 108 SMs: 89% of the SM time")
    assert view(splits=4).sentence.startswith("128 programs on 108 SMs: 59% of the SM time")
    assert "every SM gets a program" in view(splits=4).sentence
    assert "20 of them for launching" in view(splits=3).sentence  # the merge is a second launch


def test_programs_without_keys_are_not_counted_as_working():
    said = view(heads="8/1", length=512, splits=32).sentence
    assert said.startswith("8 programs with keys (of 32) on 108 SMs: 7% of the SM time")
    assert view(heads="8/1", batch=1).sentence.startswith("1 program on 108 SMs: 1% of")


def test_amd_calls_them_otherwise():
    shown = view(device="MI300X")
    assert "304 CUs" in shown.sentence and "SM" not in shown.sentence
    assert shown.figure.axes[0].get_ylabel() == "CU 0 to 303"


@pytest.mark.parametrize("device", ["T4", "A100 80GB SXM", "MI300X"])
@pytest.mark.parametrize("batch", [BATCHES[0], BATCHES[-1]])
@pytest.mark.parametrize("splits", [SPLITS[0], SPLITS[-1]])
def test_the_extremes_are_drawn_and_the_sentence_has_the_model_s_numbers(device, batch, splits):
    for heads in (HEADS[0], HEADS[-1]):
        for length in (LENGTHS[0], LENGTHS[-1]):
            shown = view(device=device, batch=batch, heads=heads, length=length, splits=splits)
            pair = tuple(int(count) for count in heads.split("/"))
            call = {"batch": batch, "heads": pair, "head_dim": 128, "length": length}
            said = predict_flash_decoding(**call, dtype="fp16", num_splits=splits, device=device)
            programs = int(re.match(r"[\d,]+", shown.sentence)[0].replace(",", ""))
            assert programs == said.busy == len(timeline_of(said))
            assert f"The model predicts {said.time_us:,.0f} µs" in shown.sentence
            assert shown.sentence.count(". ") == 1 and shown.sentence.endswith("µs.")
            assert len(shown.figure.axes) == 1


def test_the_last_of_all_is_still_drawn():
    most = {"device": "MI300X", "batch": BATCHES[-1], "length": LENGTHS[-1], "splits": SPLITS[-1]}
    assert page(view(**most)).startswith('<img src="data:image/png;base64,')


def test_moving_a_control_changes_the_page():
    *controls, shown = sm_timeline().children
    said = [control.description for control in controls]
    assert said == ["GPU", "users", "query/KV heads", "keys each", "splits"]
    for control in controls:
        before = shown.value
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        control.value = values[0] if control.value != values[0] else values[1]
        assert shown.value != before, control.description
        assert "<img" in shown.value


def test_every_gpu_can_be_chosen():
    assert {*sm_timeline().children[0].options} == {device.name for device in DEVICES}


@pytest.mark.parametrize("changes", [{"heads": "32"}, {"heads": "a/b"}, {"device": "Cray-1"}])
def test_what_there_is_not_is_refused(changes):
    with pytest.raises(ValueError, match=r"heads must be|no device is called"):
        view(**changes)


def test_doctests():
    results = doctest.testmod(MODULE)
    assert results.attempted and not results.failed
