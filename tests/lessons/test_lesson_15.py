"""Lesson 15 says truly what its runs show, and its exercise's scheduler is the engine's, nearly."""

import contextlib
import functools
import io
import random
import re

import pytest

from course import recorded
from course.check.lesson_15.capacity import capacity
from course.check.lesson_15.schedule import schedule
from course.check.lesson_15.schedule_seen import Moment, Run
from course.check.lesson_15.schedule_seen import Request as Row
from course.check.lesson_15.summary import summary
from course.notebooks.files import ROOT, read
from course.serving import Asked, StepCost, poisson_load, simulate
from reference.serving import Job, Limits, Load, Objective, Trace, decide, summarise

LESSON = "15_serving.ipynb"
H100 = StepCost(weights=16e9, token_bytes=131_072, bandwidth=3.35e12, prefill_speed=31_000)


@functools.cache
def cells(folder: str, kind: str) -> list[str]:
    return [c.source for c in read(ROOT / folder / LESSON).cells if c.cell_type == kind]


def cell(having: str, folder: str = "notebooks") -> str:
    (found,) = [source for source in cells(folder, "code") if having in source]
    return found


def text() -> str:
    return "\n".join(cells("notebooks", "markdown"))


# ---- what the lesson says ------------------------------------------------------------------------


def test_batching_gains_what_is_said():
    one, many = (n / H100(Load(n, 0, 1000 * n)) for n in (1, 64))
    assert round(many / one) == 42 and "42 times as many tokens" in text()
    assert H100(Load(64, 0, 64_000)) / H100(Load(1, 0, 1000)) == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize(("budget", "pause"), [(None, "134 ms"), (256, "13 ms")])
def test_the_pauses_are_those_of_the_text(budget, pause):
    talk = [Asked(0.0, 200, 120), Asked(0.3, 4000, 20)]
    old, _ = simulate(talk, Limits(16, 400, 8, budget), H100).traces
    alone = simulate(talk[:1], Limits(16, 400, 8, budget), H100).traces[0]
    assert f"{1000 * max(old.gaps):.0f} ms" == pause
    assert (round(1000 * alone.tpot, 1), round(1000 * old.tpot, 1)) == (4.8, 5.9)
    assert "from 4.8 to 5.9 ms" in text() and "27 times as long" in text()


def test_the_slow_machine_is_the_widget_s():
    """So that what the lesson says of the picture is true of the widget, and the other way."""
    from course.widgets.serving_timeline import step_seconds

    slow = StepCost(weights=0.02, token_bytes=0.0, bandwidth=1.0, prefill_speed=2000)
    for load in (Load(3, 0, 99), Load(1, 31, 500)):
        assert slow(load) == pytest.approx(step_seconds(load))
    eight = poisson_load(8, rate=8, prompt=(50, 0.7), answer=(40, 0.5), seed=18)
    run = simulate(eight, Limits(8, 32, 8, 32), slow)
    longest = [max(trace.gaps) for trace in run.traces]
    assert f"{max(longest):.2f} s" == "0.57 s" and max(longest) == longest[-1]
    assert f"{1000 * max(longest[:-1]):.0f} ms" == "36 ms"
    assert eight[-1].prompt == 127 and run.preemptions == 2


def test_what_is_said_of_the_widget():
    from course.widgets.serving_timeline import serving_timeline_view

    def said(chunk, pages):
        return serving_timeline_view(chunk=chunk, pages=pages, rate=8).sentence

    assert "nobody" in said(32, 40) and "nobody" not in said(32, 32)
    assert "token: 0.77 s; for a later one: 23 ms" in said(8, 96)
    assert "token: 0.09 s; for a later one: 83 ms" in said(1024, 96)


def test_goodput_collapses_while_throughput_rises():
    objective, limits = Objective(ttft=1.0, tpot=0.025), Limits(256, 1600, 48, 512)
    rates = (4, 8, 12, 14, 16, 18, 20, 24)
    runs = [
        simulate(poisson_load(200, rate, (1000, 0.6), (80, 0.6)), limits, H100) for rate in rates
    ]
    found = [summarise(run.traces, objective) for run in runs]
    throughput, goodput = ([getattr(s, what) for s in found] for what in ("throughput", "goodput"))
    assert throughput == sorted(throughput) and max(goodput) == goodput[rates.index(14)]
    assert goodput[-1] < 0.4 * max(goodput)
    assert max(s.tpot[99] for s in found) < objective.tpot  # so it is TTFT that is missed
    assert max(run.most_running for run in runs) <= 48


def test_the_plan_and_the_exercise_agree():
    plan = capacity(80 * 10**9, 3.35e12, 31_000, 16 * 10**9, 131_072, 16, 2000, 300, 0.025)
    names = {"cost": H100}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(cell("P, A, memory ="), names)
    assert (names["promised"], names["rate"](names["promised"])) == pytest.approx(plan)
    assert "67 requests may run at once, not 211" in text() and names["fit"] == 211
    assert names["rate"](67) / names["rate"](211) == pytest.approx(0.87, abs=0.01)
    assert out.getvalue().count("per second") == 2


def test_plan_and_simulation_differ_by_one_prefill():
    names = {"cost": H100, "Asked": Asked, "Limits": Limits, "simulate": simulate}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(cell("P, A, memory ="), names)
        exec(cell("crowd = started"), names)
    own = names["P"] / H100.prefill_speed / (names["A"] - 1)
    assert names["tpot"](32) - names["between"] == pytest.approx(own, rel=0.05)
    assert names["measured"] == pytest.approx(names["rate"](32), rel=0.02)


@pytest.mark.parametrize("there", [True, False])
def test_a_recorded_run_is_shown_and_a_missing_one_is_said_to_be_missing(there, monkeypatch):
    rows = [
        {"part": "throughput", "contestant": "engine", "tokens_per_s": 123.4},
        {"part": "chunks", "long_prompt": 4000, "step_tokens": 128, "largest_gap_ms": 1234.0},
        {"part": "chunks", "long_prompt": 4000, "step_tokens": None, "largest_gap_ms": 23456.0},
    ]
    record = {"cpu": "made up", "date": "2026-01-02T03", "rows": rows}
    monkeypatch.setattr(recorded, "load", lambda name: {"serving": record}[name] if there else None)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(cell('recorded("serving")'), {})
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    if there:
        assert lines == [
            "engine 123.4 tokens/s",
            "4,000 tokens arrive, 128 a step longest gap 1,234 ms",
            "4,000 tokens arrive, in one piece longest gap 23,456 ms",
            "recorded run: made up, 2026-01-02",
        ]
    else:
        assert lines == ["recorded run: none yet"]


# ---- the exercises -------------------------------------------------------------------------------


def test_the_example_of_15_1_is_what_the_answer_gives():
    (task,) = [source for source in cells("solutions", "markdown") if "### Exercise 15.1" in source]
    running = [Row("a", 8, 9, 2), Row("b", 5, 6, 2), Row("c", 8, 14, 4)]
    rows = re.findall(r"\| d, 5 tokens \| (\d+) \| (\d+) \| ([^|]+) \| ([^|]+) \|", task)
    assert len(rows) == 4
    for budget, free, work, preempted in rows:
        got, gone = schedule(running, [Row("d", 0, 5, 0)], int(budget), int(free), 4)
        assert ", ".join(f"{name}: {n}" for name, n in got.items()) == work
        assert (", ".join(gone) or "–") == preempted


@pytest.mark.parametrize("seed", range(6))
def test_the_exercise_decides_as_the_engine_where_their_rules_are_the_same(seed):
    """With pages enough, the one spare page per running request makes no difference."""
    rng = random.Random(seed)
    requests = [(name, rng.randint(1, 25), rng.randint(1, 9)) for name in "abcdefgh"]
    run, limits = Run(requests, 12, 999, 4), Limits(4, 999, 12, 12)
    ranks = {name: (i,) for i, (name, _, _) in enumerate(requests)}
    while not run.over:
        moment: Moment = run.moment()
        work, preempted = schedule(*moment)
        # The engine takes a prompt's pages as it goes: those of tokens that are not computed yet
        # are none of its own.
        jobs = [
            [Job(r.name, ranks[r.name], r.known, r.cached, tuple(
                (r.name, i) for i in range(-(-r.cached // 4)))) for r in some]
            for some in (moment.running, moment.waiting)
        ]  # fmt: skip
        assert dict(decide(*jobs, limits).work) == work and not preempted
        run.advance(work, preempted)


def test_the_trace_of_15_2_is_the_module_s():
    rng = random.Random(0)
    traces = []
    for _ in range(60):
        arrival = rng.uniform(0, 9)
        times = sorted(arrival + rng.uniform(0.1, 3) for _ in range(rng.randint(0, 9)))
        traces.append((arrival, times))
    whole = summarise([Trace(a, a, t) for a, t in traces], Objective(0.5, 0.4), (95, 100))
    wanted = whole.ttft[95], whole.tpot[95], whole.gap[100], whole.throughput, whole.goodput
    assert summary(traces, 0.5, 0.4) == pytest.approx(wanted)
