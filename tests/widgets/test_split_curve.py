"""`widgets.split_curve`: every combination draws, and its sentence follows the numbers."""

import doctest
import sys

import pytest

from course.hardware import predict_flash_decoding
from course.widgets import split_curve
from course.widgets.explorer import page
from course.widgets.split_curve import HEADS, RULES, curve_sentence, split_curve_view
from kernels.split_rules import SplitShape

MODULE = sys.modules[split_curve.__module__]  # its name is the function's
LLAMA = "Llama 3 8B: 32 on 8"


@pytest.fixture(scope="module")
def box():
    return split_curve()


def test_doctests():
    results = doctest.testmod(MODULE)
    assert results.attempted and not results.failed


def test_the_extremes_of_all_controls_draw(box):
    device, batch, heads, context = (control.options for control in box.children[:-1])
    batch, context = ([value for _, value in options] for options in (batch, context))
    for gpu in ("T4", "MI300X"):
        assert gpu in device
        for B in (batch[0], batch[-1]):
            for Lk in (context[0], context[-1]):
                for name in (heads[0], heads[-1]):
                    view = split_curve_view(device=gpu, batch=B, heads=name, context=Lk)
                    assert view.sentence.endswith(".") and view.figure.axes


@pytest.mark.parametrize("gpu", ["A10", "A100 80GB SXM", "H100 SXM"])
@pytest.mark.parametrize("batch", [1, 22, 128])
@pytest.mark.parametrize("context", [256, 16384])
def test_the_sentence_is_true(gpu, batch, context):
    sentence = split_curve_view(device=gpu, batch=batch, heads=LLAMA, context=context).sentence
    call = {"batch": batch, "heads": HEADS[LLAMA], "head_dim": 128, "length": context}
    blocks = -(-context // 64)
    times = {
        S: predict_flash_decoding(**call, num_splits=S, device=gpu).time_us
        for S in range(1, min(128, blocks) + 1)
    }
    best = min(times, key=lambda S: times[S])
    told = "not splitting" if best == 1 else f"{best} splits take the least time, "
    assert told in sentence and f"{8 * batch:,} programs on" in sentence
    shape = predict_flash_decoding(**call, num_splits=1, device=gpu).shape
    lost = {name: times[rule(shape)] / times[best] - 1 for name, rule in RULES.items()}
    worst = max(lost, key=lambda name: lost[name])
    if lost[worst] < 0.005:
        assert "All rules come within" in sentence
    else:
        assert worst in sentence and f"{round(100 * lost[worst])} % longer" in sentence


def test_rules_that_choose_the_same_are_named_together():
    said = curve_sentence({1: 3.0, 2: 2.0}, {"a": 1, "b": 1, "c": 2}, SplitShape(1, 2, 9))
    assert said.startswith("1 program on 9 SMs") and "lost by a and b: 1 split takes 50 %" in said


def test_a_moved_control_changes_the_page(box):
    device, batch, heads, context, shown = box.children
    assert (device.value, batch.value, context.value) == ("H100 SXM", 1, 16384)
    first = shown.value
    assert first == page(split_curve_view(device="H100 SXM", batch=1, heads=LLAMA, context=16384))
    batch.value = 64
    assert shown.value != first
    device.value = "A10"
    wanted = split_curve_view(device="A10", batch=64, heads=heads.value, context=context.value)
    assert shown.value == page(wanted)


@pytest.mark.parametrize(
    ("wrong", "says"), [({"heads": "3 on 2"}, "heads must be one of"), ({"context": 0}, "context")]
)
def test_what_makes_no_sense_is_refused(wrong, says):
    values = {"device": "A10", "batch": 1, "heads": LLAMA, "context": 1024} | wrong
    with pytest.raises(ValueError, match=says):
        split_curve_view(**values)
