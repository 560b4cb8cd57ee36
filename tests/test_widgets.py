"""`course.widgets`: what the stepper says, and that it follows its slider."""

import doctest

import pytest
import torch

from course import widgets
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
    said = [widgets.step_sentence(x, states, t) for t in range(5)]
    assert said[0] == "No key seen: m = −∞, l = 0, acc = 0."
    assert "first score, 1, is the largest" in said[1]
    assert "larger than m = 1: the ruler moves" in said[2] and "exp(1 − 3) = 0.1353" in said[2]
    assert "not larger than m = 3: the ruler stays" in said[3] and "= 1.0000" in said[3]  # a tie
    assert "ruler stays. Key 4 adds with weight exp(2 − 3) = 0.3679" in said[4]


def test_a_page_has_the_figure_and_its_text_for_those_who_cannot_see_it(stream):
    page = widgets.step_page(*stream, 2)
    sentence = widgets.step_sentence(stream[0], stream[2], 2)
    assert page.startswith('<img src="data:image/png;base64,')
    assert f'alt="{sentence}"' in page and f"<p>{sentence}</p>" in page


def test_the_page_follows_the_slider(stream):
    box = widgets.stepper(*stream)
    (play, slider), page = box.children[0].children, box.children[1]
    assert (slider.min, slider.max, play.max, slider.value) == (0, 4, 4, 0)
    assert page.value == widgets.step_page(*stream, 0)
    slider.value = 3
    assert page.value == widgets.step_page(*stream, 3)


def test_one_state_more_than_scores(stream):
    x, v, states = stream
    with pytest.raises(ValueError, match="got 4 states and 4 scores"):
        widgets.stepper(x, v, states[1:])


def test_doctests():
    results = doctest.testmod(widgets)
    assert results.attempted and not results.failed
