"""The shape of a curve, and what two runs of it agree on."""

import math

import pytest
import torch

from benchmarks.curves import line, shape_of, verdict


def test_line_by_hand():
    assert line([1, 2, 3, 4], [1.0, 1.0, 3.0, 3.0]) == pytest.approx((0.0, 0.8))
    with pytest.raises(ValueError, match="three points or more; got 2 and 2"):
        line([1, 2], [1.0, 2.0])
    with pytest.raises(ValueError, match="got 3 and 4"):
        line([1, 2, 3], [1.0, 2.0, 3.0, 4.0])


def test_growth_and_misfit_by_hand():
    shape = shape_of([1, 2, 3, 4], [1.0, 1.0, 3.0, 3.0])
    assert shape.misfit == pytest.approx(math.sqrt(0.8 / 4) / 2.4)
    assert shape.growth == pytest.approx(2.4 / 2)


@pytest.mark.parametrize("treads", [2, 3, 5, 8, 11])
def test_staircases_are_stepped_as_the_docstring_says(treads):
    x = range(20 * treads)
    shape = shape_of(x, [10 + i // 20 for i in x])
    if treads >= 5:  # it grows by at least a tenth
        assert shape.name == "stepped"
    assert shape.misfit == pytest.approx(0.29 / treads, rel=0.2)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e6])
def test_shapes_do_not_depend_on_units(unit):
    x = [unit * i for i in range(40)]
    named = {
        "flat": [5 + 0.005 * i for i in range(40)],
        "linear": [5 + 0.5 * i for i in range(40)],
        "stepped": [5.0 + i // 10 for i in range(40)],
    }
    for name, times in named.items():
        assert shape_of(x, times).name == name == shape_of(x, [t / unit for t in times]).name


def test_points_within_their_own_noise_of_the_line_are_on_it():
    x = range(40)
    times = [5 + 0.5 * i + 0.6 * (-1) ** i for i in x]
    assert shape_of(x, times).name == "stepped"
    assert shape_of(x, times, noise=0.7).name == "linear"
    assert shape_of(x, [5.0 + i // 10 for i in x], noise=0.1).name == "stepped"


def test_what_noise_hides_is_unclear():
    stairs = [5.0 + i // 10 for i in range(40)]
    assert shape_of(range(40), stairs, noise=0.4).name == "unclear"  # a rise of 3.6: 0.11


def test_noise_is_unclear():
    shape = shape_of(range(8), [1.0, 3.0, 1.0, 2.0, 1.0, 3.0, 2.0, 2.0])
    assert shape.growth > 0.1 and shape.misfit > 0.3 and shape.name == "unclear"


def test_a_falling_curve_is_flat():
    shape = shape_of(range(10), [5 - 0.1 * i for i in range(10)])
    assert (shape.name, shape.misfit) == ("flat", 0.0)
    assert shape_of(range(10), [5 - 0.4 * i for i in range(10)]).name == "flat"


@pytest.mark.parametrize("knee", [0.2, 0.5, 0.75])
@pytest.mark.parametrize("steeper", [True, False])
def test_a_knee_is_bent_and_a_staircase_is_not(knee, steeper):
    x = [i / 20 for i in range(21)]
    slopes = (1.0, 6.0) if steeper else (6.0, 1.0)
    times = [5 + slopes[0] * min(t, knee) + slopes[1] * max(t - knee, 0) for t in x]
    assert shape_of(x, times).name == "bent"
    for treads in (2, 3, 5, 8):
        stairs = [5 + i // 10 for i in range(10 * treads)]
        assert shape_of(range(len(stairs)), stairs).name == "stepped"


def run(times, half=0.001):
    """Points in the form that `tpot.measure` returns."""
    return [[t - half, t, t + half] for t in times]


def test_a_verdict_needs_two_runs_that_agree():
    x = range(16)
    straight = [5 + i / 2 for i in x]
    stairs = [5 + i // 4 for i in x]
    elsewhere = [5 + (i + 2) // 4 for i in x]
    assert verdict(x, [run(straight), run(straight)]).startswith("linear (growth ")
    level = [5 + i / 100 for i in x]
    assert verdict(x, [run(level), run(straight)]) == "no verdict: flat, then linear"
    assert not verdict(x, [run(straight), run(stairs)]).startswith("stepped")
    assert verdict(x, [run(stairs), run([2 * t for t in stairs])]).startswith("stepped (")
    assert not verdict(x, [run(stairs), run(elsewhere)]).startswith("stepped")
    with pytest.raises(ValueError, match="two runs; got 1"):
        verdict(x, [run(stairs)])


@pytest.mark.parametrize("seed", range(20))
def test_chance_alone_is_no_staircase(seed):
    rng = torch.Generator().manual_seed(seed)
    x = range(16)
    runs = [run([5 + t / 2 + 0.3 * torch.randn((), generator=rng).item() for t in x]) for _ in "ab"]
    told = verdict(x, runs)
    assert not told.startswith(("stepped", "bent")), told
