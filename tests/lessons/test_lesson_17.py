"""Lesson 17's checks accept any right benchmark, and recognise a mistake in any guise."""

import statistics
import time

import pytest
import torch

from course.check import judge
from course.check.lesson_17.benchmark import enough_sets, stopwatch
from course.check.report import Status
from course.stand_in import StandIn


@pytest.mark.parametrize("samples", [25, 31, 64, 100])
@pytest.mark.parametrize("warm_up", [140, 163, 250])
def test_any_number_of_samples_from_25_on_will_do(samples, warm_up):
    def benchmark(device):
        times = stopwatch(device, enough_sets(device), samples, warm_up)
        return tuple(statistics.quantiles(times))

    report = judge("17.2", benchmark, seed=samples)
    assert report.status is Status.PASS, f"\n{report}"


def fresh_each_time(device):
    times = []
    for _ in range(250):
        inputs = device.inputs()  # just written: in the cache
        times += stopwatch(device, [inputs], 1, 0)
    return tuple(statistics.quantiles(times[200:]))


def always_the_same(device):
    return tuple(statistics.quantiles(stopwatch(device, [device.inputs()], 50, 200)))


def two_in_turn(device):
    return tuple(statistics.quantiles(stopwatch(device, enough_sets(device)[-2:], 50, 200)))


@pytest.mark.parametrize("benchmark", [fresh_each_time, always_the_same, two_in_turn])
def test_a_warm_cache_is_known_in_every_dress(benchmark):
    report = judge("17.2", benchmark, seed=5)
    assert report.mistake is not None and report.mistake.name == "warm", f"\n{report}"


def test_a_benchmark_that_waits_for_nothing_but_the_end_of_all_has_no_spread():
    def benchmark(device):
        sets = enough_sets(device)
        stopwatch(device, sets, 0, 200)
        start = device.clock()
        for i in range(50):
            device.launch(sets[(200 + i) % len(sets)])
        device.synchronize()
        return ((device.clock() - start) / 50,) * 3

    report = judge("17.2", benchmark, seed=5)
    assert {o.prop.name for o in report.outcomes if o.status is Status.FAIL} == {
        "outliers",
        "everything",
        "enough samples",
    }
    assert report.mistake.name == "one clock for all", f"\n{report}"


def test_other_bounds_classify_as_well():
    """0.02 and 0.04 for straight, 0.08 and 0.15 for flat: the curves are clear cases."""

    def classify(straight, flat):
        def answer(contexts, times):
            dx, dy = contexts - contexts.mean(), times - times.mean()
            slope = (dx * dy).sum() / (dx * dx).sum()
            rise = slope * (contexts[-1] - contexts[0])
            if rise < flat * times.mean():
                return "flat"
            misfit = (dy - slope * dx).square().mean().sqrt() / rise
            return "linear" if misfit < straight else "stepped"

        return answer

    for straight in (0.02, 0.04):
        for flat in (0.08, 0.15):
            report = judge("17.3", classify(straight, flat), seed=11)
            assert report.status is Status.PASS, f"\n{report}"


def named(exercise_id, answer, seed=5):
    """The name of the mistake that an answer is recognised as; fails if the answer passes."""
    report = judge(exercise_id, answer, seed=seed)
    assert report.status is Status.FAIL, f"\n{report}"
    return report.mistake.name if report.mistake else report.slip


@pytest.mark.parametrize("unit", [1.0, 1e3])
def test_bounds_for_times_that_are_known_find_nothing(unit):
    def find_flaw(benchmark):
        ms = benchmark(StandIn()) * unit * 1e3
        bounds = {"no synchronise": 0.1, "warm cache": 0.5, "zeros": 0.8}
        return next((name for name, most in bounds.items() if ms < most), "none")

    assert named("17.1", find_flaw) == "known times"


def test_how_a_flaw_is_spelled_is_not_the_question():
    def find_flaw(benchmark):
        plain = benchmark(StandIn())
        if benchmark(StandIn(call_s=2e-3)) < 1.5 * plain:
            return "No synchronize"
        if benchmark(StandIn(cache_bytes=0)) > 1.1 * plain:
            return "warm cache"
        return "zeros" if benchmark(StandIn(zeros=1.0)) > 1.1 * plain else "None "

    assert judge("17.1", find_flaw, seed=5).status is Status.PASS


def so_many(device, sets=None, samples=50, warm_up=200):
    made = [device.inputs() for _ in range(sets)] if sets else enough_sets(device)
    return statistics.quantiles(stopwatch(device, made, samples, warm_up))


def by_the_clock(device):
    sets, start, i = enough_sets(device), device.clock(), 0
    while device.clock() - start < 0.2:
        stopwatch(device, sets[i % len(sets) :], 0, 1)
        i += 1
    i %= len(sets)
    return statistics.quantiles(stopwatch(device, sets[i:] + sets[:i], 40, 0))


def with_perf_counter(device):
    sets, times = enough_sets(device), []
    for i in range(250):
        start = time.perf_counter()
        device.launch(sets[i % len(sets)])
        device.synchronize()
        times.append(time.perf_counter() - start)
    return tuple(statistics.quantiles(times[200:]))


@pytest.mark.parametrize("samples", [30, 50])
@pytest.mark.parametrize("warm_up", [0, 1, 3, 5])
def test_a_warm_up_that_is_too_short_is_known(samples, warm_up):
    taken = named("17.2", lambda d: so_many(d, samples=samples, warm_up=warm_up))
    assert taken == "no warm-up"


@pytest.mark.parametrize("sets", [10, 16, 20])
def test_a_number_of_sets_that_suits_one_cache_is_known(sets):
    assert named("17.2", lambda d: so_many(d, sets=sets)) == "so many sets"


def test_a_warm_up_of_nothing_but_compiling_is_known():
    assert named("17.2", by_the_clock) == "compiling is no work"


@pytest.mark.parametrize("samples", [10, 20, 22])
def test_too_few_samples_are_noticed(samples):
    report = judge("17.2", lambda d: so_many(d, samples=samples), seed=3)
    failed = {o.prop.name for o in report.outcomes if o.status is Status.FAIL}
    assert "enough samples" in failed, f"\n{report}"


def test_the_host_s_own_clock_is_noticed():
    report = judge("17.2", with_perf_counter, seed=3)
    assert report.outcomes[0].prop.name == "its clock"
    assert report.outcomes[0].status is Status.FAIL


def test_quartiles_may_come_as_a_tensor_and_units_are_told():
    def in_seconds(device):
        return torch.tensor(so_many(device), dtype=torch.float64)

    assert judge("17.2", in_seconds, seed=3).status is Status.PASS
    assert named("17.2", lambda d: in_seconds(d) * 1e3) == "milliseconds"
