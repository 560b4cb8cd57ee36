"""The roofline explorer: the sentence follows the numbers, at both ends of every control."""

import doctest
import itertools
import sys

import pytest

from course.hardware import DEVICES, Device, decode_intensity, prefill_intensity, ridge_point
from course.widgets import roofline
from course.widgets.explorer import page
from course.widgets.roofline import ARITHMETIC, roofline_sentence, roofline_view

MODULE = sys.modules["course.widgets.roofline"]
START = {"device": "A100 80GB SXM", "group": 8, "queries": 1, "dtype": "fp16", "prompt": 8192}
SLOW = Device("this CPU (a slow one)", 2, 20.0, 0.1, 0.1, 0.0, tensor_cores=False)


def controls():
    return roofline(SLOW).children[:-1]


def test_every_end_of_every_control_draws():
    for control in controls():
        name = {"G": "group", "Lq in decode": "queries", "cache": "dtype"}.get(
            control.description, control.description
        )
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        for value in (values[0], values[-1]):
            value = SLOW if value == SLOW.name else value
            assert roofline_view(**(START | {name: value})).figure.axes


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_the_sentence_says_on_which_side_of_the_ridge_both_are(device):
    for group, queries, dtype, prompt in itertools.product(
        (1, 8, 128), (1, 32), ("fp32", "fp16", "fp8"), (16, 1024, 131072)
    ):
        said = roofline_sentence(device, group, queries, dtype, prompt).split(". A prompt")
        ridge = ridge_point(device, ARITHMETIC[dtype])
        prefill = prefill_intensity(prompt, group, dtype=ARITHMETIC[dtype])
        for part, intensity in zip(
            said, (decode_intensity(group, queries, dtype), prefill), strict=True
        ):
            assert ("waits for memory" in part) == (intensity < ridge)
            assert ("limited by arithmetic" in part) == (intensity >= ridge)
        both = (decode_intensity(group, queries, dtype) < ridge) == (prefill < ridge)
        assert said[1].endswith(", too.") == both


def test_both_dots_stand_on_the_roof():
    ax = roofline_view(**START).figure.axes[0]
    dots = [tuple(c.get_offsets()[0]) for c in ax.collections if len(c.get_offsets())]
    assert dots[0] == (pytest.approx(ridge_point("A100 80GB SXM")), 312.0)
    assert dots[1] == pytest.approx((8.0, 8 * 2.039))
    assert dots[2] == pytest.approx((prefill_intensity(8192, 8), 312.0))


def test_moving_a_control_changes_the_page():
    box = roofline(SLOW)
    *made, shown = box.children
    assert shown.value == page(roofline_view(**START))
    made[2].value = 4
    assert shown.value == page(roofline_view(**(START | {"queries": 4})))
    made[0].value = SLOW.name
    assert shown.value == page(roofline_view(**(START | {"queries": 4, "device": SLOW})))
    assert "of this CPU levels off" in shown.value


def test_a_share_above_one_is_told_in_times():
    said = roofline_sentence("H100 SXM", 128, 32, "fp8", 8192)
    assert "8,192 operations per byte, 27.7 times the 295 where" in said


def test_a_dot_keeps_its_colour_when_it_passes_the_other():
    views = (roofline_view(**(START | {"prompt": prompt})) for prompt in (16, 8192))
    colours = [
        {t.get_text().split()[0]: ax.lines[1 + i].get_color() for i, t in enumerate(ax.texts[1:])}
        for ax in (view.figure.axes[0] for view in views)
    ]
    assert colours[0] == colours[1] and len(set(colours[0].values())) == 2


def test_doctests():
    results = doctest.testmod(MODULE)
    assert results.attempted and not results.failed
