"""Lesson 15 in numbers alone decides as the engine does; its figures show what they are given."""

import doctest
import itertools
import math
import random

import pytest
from matplotlib.colors import to_hex
from serving_models import NAIVE, prompt_of, tiny

import course.serving
from course import figures
from course.serving import (
    LOST,
    PROMPT,
    WRITES,
    Asked,
    Run,
    Span,
    StepCost,
    in_batches,
    poisson_load,
    simulate,
)
from course.style import COLORS
from reference.serving import (
    Engine,
    Limits,
    Objective,
    Request,
    SimulatedClock,
    Trace,
    summarise,
)


def seconds(load):
    """Every part of a load counts, each in another place of the number."""
    return 1.0 + 0.1 * load.decodes + 0.01 * load.prompt_tokens + 0.0001 * load.keys


def test_examples():
    assert doctest.testmod(course.serving).failed == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("step_tokens", [4, 9, None])
def test_times_and_preemptions_are_the_engine_s(seed, step_tokens):
    rng = random.Random(seed)
    limits = Limits(page_size=4, num_pages=11, max_running=4, step_tokens=step_tokens)
    asked, now = [], 0.0
    for _ in range(9):
        now += 4 * rng.random()
        asked.append(Asked(now, rng.randint(1, 20), rng.randint(1, 12)))
    engine = Engine(
        tiny(), num_pages=11, page_size=4, max_running=4, step_tokens=step_tokens,
        attention=NAIVE, clock=SimulatedClock(seconds), share=False,
    )  # fmt: skip
    requests = [
        Request(prompt_of(one.prompt, i), max_tokens=one.answer, arrival=one.arrival)
        for i, one in enumerate(asked)
    ]
    answers, run = engine.run(requests), simulate(asked, limits, seconds)
    for trace, answer in zip(run.traces, answers, strict=True):
        assert trace.times == pytest.approx(answer.trace.times, abs=1e-9)
        assert trace.started == pytest.approx(answer.trace.started, abs=1e-9)
        assert trace.finished == trace.times[-1]
    assert run.preemptions == sum(answer.preemptions for answer in answers)
    assert run.computed == sum(answer.computed for answer in answers)


def test_the_runs_that_are_compared_do_preempt():
    """Else the test above would say little about preemption."""
    asked = [Asked(0, 6, 9), Asked(0, 7, 9), Asked(0, 5, 9)]
    run = simulate(asked, Limits(page_size=4, num_pages=8, max_running=3, step_tokens=6))
    assert run.preemptions == 1 and run.most_running == 3
    again = sum(span.tokens for span in run.spans if span.kind == LOST)
    assert run.computed == sum(one.prompt + one.answer - 1 for one in asked) + again


def test_a_request_that_never_fits_is_refused():
    with pytest.raises(ValueError, match=r"30 \+ 4 tokens must fit into 8 pages of 4"):
        simulate([Asked(0, 30, 4)], Limits(page_size=4, num_pages=8))
    assert simulate([Asked(0, 29, 4)], Limits(page_size=4, num_pages=8)).steps == 4


def test_a_batch_ends_with_its_longest():
    run = in_batches([Asked(0, 1, n) for n in (6, 2, 3, 1)], 2)
    assert [trace.finished for trace in run.traces] == [6, 2, 9, 7] and run.steps == 9
    assert [trace.started for trace in run.traces] == [0, 0, 6, 6]
    late = in_batches([Asked(0, 1, 2), Asked(5, 1, 1)], 1)
    assert late.traces[1].times == [6]


def test_poisson_arrivals():
    asked = poisson_load(4000, 5.0, (100, 0.5), (20, 0.0), seed=3)
    arrivals = [one.arrival for one in asked]
    gaps = [b - a for a, b in itertools.pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)  # 0.2 on average, and so is its deviation: 3 % is ten of them
    assert abs(mean - 0.2) < 0.2 * 4 / math.sqrt(len(gaps))
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert abs(deviation / mean - 1) < 0.1
    assert sorted(one.prompt for one in asked)[2000] == pytest.approx(100, rel=0.05)
    assert {one.answer for one in asked} == {20}
    faster = poisson_load(4000, 10.0, (100, 0.5), (20, 0.0), seed=3)
    assert [one.prompt for one in faster] == [one.prompt for one in asked]
    assert faster[9].arrival == pytest.approx(asked[9].arrival / 2)
    with pytest.raises(ValueError, match="rate must be positive; got 0"):
        poisson_load(1, 0)


def test_a_step_costs_what_it_reads_and_what_it_computes():
    cost = StepCost(weights=100.0, token_bytes=2.0, bandwidth=10.0, prefill_speed=4.0)
    load = course.serving.Load(decodes=3, prompt_tokens=8, keys=50)
    assert cost(load) == (100 + 2 * 50) / 10 + 8 / 4


def run_of(*spans, traces):
    return Run(tuple(traces), spans, sum(span.kind == LOST for span in spans), 1, 1, 1)


def test_a_timeline_has_a_row_per_request_and_a_block_per_step():
    spans = (
        Span(0, 0, 2, PROMPT, 5), Span(0, 2, 3, WRITES, 1), Span(1, 3, 3, LOST, 4),
        Span(1, 3, 4, PROMPT, 7),
    )  # fmt: skip
    traces = [Trace(0, 0, [2, 3], 3), Trace(1, 3, [4], 4)]
    fig = figures.request_timeline({"one": run_of(*spans, traces=traces)}, unit="s")
    (ax,) = fig.axes
    blocks = {
        to_hex(part.get_facecolor()[0]).upper(): [path.get_extents() for path in part.get_paths()]
        for part in ax.collections[1:3]
    }
    assert [(box.x0, box.x1) for box in blocks[COLORS.k]] == [(0, 2)]
    assert [(box.x0, box.x1) for box in blocks[COLORS.v]] == [(2, 3)]
    assert [text.get_text() for text in ax.texts] == ["5", "7"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    crosses = [line for line in ax.lines if len(line.get_xdata())]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in crosses] == [(3, 1)]
    assert ax.get_xlabel() == "time, s" and len(fig.legends[0].get_texts()) == 4


def test_panels_share_one_scale_and_the_legend_has_no_cross_without_a_preemption():
    long, short = (simulate([Asked(0, 1, n)], Limits(4, 9)) for n in (9, 2))
    fig = figures.request_timeline({"long": long, "short": short})
    assert {ax.get_xlim() for ax in fig.axes} == {(0, 9)}
    assert len(fig.legends[0].get_texts()) == 3


def test_gaps_are_drawn_and_the_longest_is_labelled():
    fig = figures.token_gaps({"x": Trace(0, 0, [1, 1.5, 3.5, 4]), "y": Trace(0, 0, [1, 2])})
    left, right = fig.axes
    assert [bar.get_height() for bar in left.patches] == [0.5, 2.0, 0.5]
    assert [text.get_text().strip() for text in left.texts] == ["2000 ms"]
    assert [text.get_text().strip() for text in right.texts] == ["1000 ms"]


def test_served_requests_are_in_the_order_of_arrival_and_misses_stand_out():
    traces = [Trace(7, 7, [12, 13]), Trace(5, 5, [6, 8]), Trace(6, 6, [])]
    fig = figures.served_requests(traces, Objective(ttft=2.0, tpot=5.0))
    first, second = fig.axes[0].lines[1], fig.axes[0].lines[3]
    assert list(first.get_xdata()) == [1, 3] and to_hex(first.get_color()).upper() == COLORS.v
    assert list(second.get_xdata()) == [7, 8] and second.get_color() == COLORS.accent
    assert len(fig.axes[0].lines) == 4
    with pytest.raises(ValueError, match="must hold a request with a token"):
        figures.served_requests([Trace(0)])


def test_under_load_draws_every_percentile_and_both_limits():
    some = [summarise([Trace(0, 0, [1, 2]), Trace(0, 0, [n, 9])], Objective(2, 3)) for n in (1, 3)]
    fig = figures.under_load([1.0, 2.0], some, Objective(2, 3))
    first, later, good = fig.axes
    assert [list(line.get_ydata()) for line in first.lines[:3]] == [[1, 1], [1, 3], [1, 3]]
    assert first.lines[3].get_ydata()[0] == 2 and later.lines[3].get_ydata()[0] == 3
    assert list(good.lines[1].get_ydata()) == [s.goodput for s in some]


def test_capacity_is_drawn_with_its_two_limits():
    fig = figures.capacity_curve([1, 2, 3], [0.1, 0.2, 0.3], [5, 6, 7], fit=2, limit=0.25)
    left, right = fig.axes
    assert list(left.lines[0].get_ydata()) == [0.1, 0.2, 0.3]
    assert left.lines[1].get_ydata()[0] == 0.25 and left.lines[2].get_xdata()[0] == 2
    assert list(right.lines[0].get_ydata()) == [5, 6, 7] and right.lines[1].get_xdata()[0] == 2
