"""The memory calculator: the sentence follows the numbers, at both ends of every control."""

import doctest
import sys

import pytest

from course.hardware import MODELS, users_that_fit
from course.widgets import kv_memory
from course.widgets.explorer import page
from course.widgets.kv_memory import MEMORIES, USABLE, kv_memory_sentence, kv_memory_view

MODULE = sys.modules["course.widgets.kv_memory"]
START = {
    "model": "Llama-3 8B",
    "context": 8192,
    "users": 32,
    "dtype": "fp16",
    "memory_gb": 80,
}


def test_every_end_of_every_control_draws():
    for control, name in zip(kv_memory().children[:-1], START, strict=True):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        for value in (values[0], values[-1]):
            assert kv_memory_view(**(START | {name: value})).figure.axes


@pytest.mark.parametrize("model", [model.name for model in MODELS])
@pytest.mark.parametrize("memory_gb", MEMORIES)
def test_the_sentence_says_how_many_fit(model, memory_gb):
    for context, users, dtype in ((512, 1, "fp16"), (8192, 64, "fp8"), (131072, 1024, "fp32")):
        said = kv_memory_sentence(model, context, users, dtype, memory_gb)
        fit = users_that_fit(model, context, memory_gb, dtype=dtype, usable=USABLE)
        if "nobody fits" in said:
            assert fit == 0
            continue
        assert f" {fit:,} user" in said
        assert ("enough for those asked for" in said) == (fit >= users)
        assert (f"{users - fit:,} fewer than asked for" in said) == (fit < users)


def test_one_user_is_not_users():
    model = next(m for m in MODELS if m.name == "Llama-3 8B")
    said = kv_memory_sentence(model.name, 2**15, 1, "fp16", 24)
    assert "1 user fits" in said and "made for 8,192" in said


def test_segments_turn_pale_where_the_next_user_does_not_fit():
    patches = kv_memory_view(**(START | {"users": 64})).figure.axes[0].patches
    weights, *users = patches
    assert weights.get_width() == pytest.approx(16.06)
    colors = [user.get_facecolor() for user in users]
    assert colors[:52] == [colors[0]] * 52 and colors[52] != colors[0]
    assert users[51].get_x() + users[51].get_width() <= 72 < users[52].get_x() + 1.08


def test_moving_a_control_changes_the_page():
    *made, shown = kv_memory().children
    assert shown.value == page(kv_memory_view(**START))
    made[3].value = "fp8"
    assert shown.value == page(kv_memory_view(**(START | {"dtype": "fp8"})))
    assert "104 users fit" in shown.value


def test_doctests():
    results = doctest.testmod(MODULE)
    assert results.attempted and not results.failed
