"""The widget of lesson 15: eight requests over time, and a sentence that is true in every case."""

import doctest
import re
import sys

import pytest

from course.serving import poisson_load, simulate
from course.widgets import serving_timeline
from course.widgets.serving_timeline import CHUNKS, PAGES, RATES, serving_timeline_view
from reference.serving import Limits

MODULE = sys.modules["course.widgets.serving_timeline"]
START = {"chunk": 32, "pages": 32, "rate": 8}


def view(**changes):
    return serving_timeline_view(**(START | changes))


def test_doctests():
    results = doctest.testmod(MODULE)
    assert results.attempted and not results.failed


@pytest.mark.parametrize("chunk", [CHUNKS[0], CHUNKS[-1]])
@pytest.mark.parametrize("pages", [PAGES[0], PAGES[-1]])
@pytest.mark.parametrize("rate", [RATES[0], RATES[-1]])
def test_the_extremes_are_drawn_and_the_sentence_has_the_run_s_numbers(chunk, pages, rate):
    shown = view(chunk=chunk, pages=pages, rate=rate)
    asked = poisson_load(MODULE.REQUESTS, rate, (50, 0.7), (40, 0.5), seed=MODULE.SEED)
    run = simulate(asked, Limits(8, pages, 8, chunk), MODULE.step_seconds)
    assert shown.sentence.startswith(f"8 requests in {run.steps} steps, at most {run.most_running}")
    longest = max(gap for trace in run.traces for gap in trace.gaps)
    assert f"for a later one: {1000 * longest:.0f} ms" in shown.sentence
    lost = re.search(r"(\d+) preemptions?, (\d+) tokens", shown.sentence)
    wanted = sum(one.prompt + one.answer - 1 for one in asked)
    if run.preemptions:
        assert (int(lost[1]), int(lost[2])) == (run.preemptions, run.computed - wanted)
    else:
        assert not lost and "nobody had to give way" in shown.sentence
    assert len(shown.figure.axes[0].get_yticklabels()) == 8


def test_what_the_lesson_says_of_it():
    assert "2 preemptions" in view().sentence
    assert "nobody had to give way" in view(pages=96).sentence
    assert "whole prompts" in view(chunk=1024).figure.axes[0].get_title("left")


def test_moving_a_control_changes_the_page():
    *controls, shown = serving_timeline().children
    assert [c.description for c in controls] == ["tokens per step", "pages", "requests / s"]
    for control in controls:
        before = shown.value
        values = [value for _, value in control.options]
        at = values.index(control.value)
        control.value = values[at + 1] if at + 1 < len(values) else values[at - 1]
        assert shown.value != before, control.description
        assert "<img" in shown.value
