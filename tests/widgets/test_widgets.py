"""`course.widgets`: what the stepper says, and that figures follow their controls."""

import doctest
import sys

import pytest
import torch

from course import style
from course.widgets import stepper
from course.widgets.explorer import Choice, Steps, View, explorer, page
from course.widgets.stepper import step_page, step_sentence
from reference.online_softmax import init, update


@pytest.fixture
def stream():
    x, v = torch.tensor([1.0, 3.0, 3.0, 2.0]), torch.tensor([10.0, 20.0, 30.0, 40.0])
    states = [init(1, 1)]
    for x_i, v_i in zip(x, v, strict=True):
        states.append(update(states[-1], x_i.view(1, 1), v_i.view(1, 1)))
    return x, v, states


def test_each_step_has_its_sentence(stream):
    x, _, states = stream
    said = [step_sentence(x, states, t) for t in range(5)]
    assert said[0] == "No key seen: m = −∞, l = 0, acc = 0."
    assert "first score, 1, is the largest" in said[1]
    assert "larger than m = 1: the ruler moves" in said[2] and "exp(1 − 3) = 0.1353" in said[2]
    assert "not larger than m = 3: the ruler stays" in said[3] and "= 1.0000" in said[3]  # a tie
    assert "ruler stays. Key 4 gets weight exp(2 − 3) = 0.3679" in said[4]


def test_a_page_has_the_figure_and_its_text_for_those_who_cannot_see_it(stream):
    page = step_page(*stream, 2)
    sentence = step_sentence(stream[0], stream[2], 2)
    assert page.startswith('<img src="data:image/png;base64,')
    assert f'alt="{sentence}"' in page and f"<p>{sentence}</p>" in page


def test_the_page_follows_the_slider(stream):
    box = stepper(*stream)
    (play, slider), page = box.children[0].children, box.children[1]
    assert (slider.min, slider.max, play.max, slider.value) == (0, 4, 4, 0)
    assert page.value == step_page(*stream, 0)
    slider.value = 3
    assert page.value == step_page(*stream, 3)


def test_one_state_more_than_scores(stream):
    x, v, states = stream
    with pytest.raises(ValueError, match="got 4 states and 4 scores"):
        stepper(x, v, states[1:])


def hello_view(*, name: str, times: int) -> View:
    """A figure with `times` axes; 3 is one too many."""
    if times == 3:
        raise ValueError("3 < 4 & too many")
    return View(style.figure(1, times)[0], f"{name} says hello {times} times.")


@pytest.fixture
def hello():
    names = Choice("name", ("Ada", "Kurt"), "Ada")
    return explorer(hello_view, name=names, times=Steps("times", (1, 2, 3), 2))


def test_an_explorer_draws_at_once_and_when_a_control_moves(hello):
    menu, slider, shown = hello.children
    assert (menu.description, slider.description) == ("name", "times")
    assert slider.options == (("1", 1), ("2", 2), ("3", 3)) and slider.value == 2
    assert shown.value == page(hello_view(name="Ada", times=2))
    slider.value = 1
    assert shown.value == page(hello_view(name="Ada", times=1))
    menu.value = "Kurt"
    assert shown.value == page(hello_view(name="Kurt", times=1))


def test_what_does_not_go_together_is_said_and_the_next_move_draws_again(hello):
    _, slider, shown = hello.children
    slider.value = 3
    assert shown.value == "<p>3 &lt; 4 &amp; too many</p>"
    slider.value = 2
    assert "<img" in shown.value


def test_only_a_slider_that_has_come_to_rest_draws(hello):
    assert not hello.children[1].continuous_update


@pytest.mark.parametrize("control", [Steps, Choice])
def test_a_control_starts_at_one_of_its_values(control):
    with pytest.raises(ValueError, match="size must start at one of its values; got 'c'"):
        control("size", ("a", "b"), "c")


def test_an_explorer_without_controls_is_refused():
    with pytest.raises(ValueError, match="at least one control"):
        explorer(hello_view)


def test_doctests():
    results = doctest.testmod(sys.modules[stepper.__module__])  # its name is the function's
    assert results.attempted and not results.failed
