"""Lesson 17's checks take any right benchmark, and know a mistake in more than one dress."""

import statistics

import pytest

from course.check import judge
from course.check.lesson_17_design_answers import enough_sets, stopwatch
from course.check.report import Status


@pytest.mark.parametrize("samples", [25, 31, 64, 100])
@pytest.mark.parametrize("warm_up", [70, 83, 200])
def test_any_number_of_samples_from_25_on_will_do(samples, warm_up):
    def benchmark(device):
        times = stopwatch(device, enough_sets(device), samples, warm_up)
        return tuple(statistics.quantiles(times))

    report = judge("17.2", benchmark, seed=samples)
    assert report.status is Status.PASS, f"\n{report}"


def fresh_each_time(device):
    times = []
    for _ in range(150):
        inputs = device.inputs()  # just written: in the cache
        times += stopwatch(device, [inputs], 1, 0)
    return tuple(statistics.quantiles(times[100:]))


def always_the_same(device):
    return tuple(statistics.quantiles(stopwatch(device, [device.inputs()], 50, 100)))


def two_in_turn(device):
    return tuple(statistics.quantiles(stopwatch(device, enough_sets(device)[-2:], 50, 100)))


@pytest.mark.parametrize("benchmark", [fresh_each_time, always_the_same, two_in_turn])
def test_a_warm_cache_is_known_in_every_dress(benchmark):
    report = judge("17.2", benchmark, seed=5)
    assert report.mistake is not None and report.mistake.name == "warm", f"\n{report}"


def test_a_benchmark_that_waits_for_nothing_but_the_end_of_all_has_no_spread():
    def benchmark(device):
        sets = enough_sets(device)
        stopwatch(device, sets, 0, 100)
        start = device.clock()
        for i in range(50):
            device.launch(sets[(100 + i) % len(sets)])
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
