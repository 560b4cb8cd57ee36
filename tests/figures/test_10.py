"""The figures of lesson 10 show what they are given."""

import pytest
from matplotlib.colors import to_hex

from course import figures
from course.figures.num_splits import TERMS
from course.hardware import schedule
from course.style import COLORS


def texts(fig) -> list[str]:
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def fills(ax) -> list[str]:
    return [to_hex(patch.get_facecolor()).upper() for patch in ax.patches]


def test_toy_timelines_draws_each_run_with_its_wait_and_marks_the_least_total():
    cases = {1: (schedule([4.5], 2), 0), 2: (schedule([2.5, 2.5], 2), 1.0)}
    fig = figures.toy_timelines(cases, sms=2, fill=0.5)
    one, two = fig.axes[:2]
    assert fills(one).count(COLORS.mask) == 1 and fills(two).count(COLORS.mask) == 2
    assert COLORS.ink not in fills(one) and fills(two).count(COLORS.ink) == 1  # the merge
    widths = sorted(patch.get_width() for patch in two.patches)
    assert widths == [0.5, 0.5, 1.0, 2.0, 2.0, 2.5, 2.5]  # waits, merge, blocks, idle background
    assert {"4.5 ticks", "3.5 ticks", "S = 2"} <= {*texts(fig)}
    assert list(fig.axes[-1].lines[0].get_ydata()) == [4.5, 3.5]


def test_split_terms_stacks_to_the_total_and_names_the_least():
    terms = {name: [3.0, 1.0, 2.0] for name in TERMS}
    fig = figures.split_terms(terms, highest=15, note="made up")
    top = fig.axes[0].collections[-1].get_paths()[0].vertices[:, 1]
    assert top.max() == 12.0
    assert {"least: S = 2, 4.0 µs", "S = 1: 12 µs"} <= {*texts(fig)}


def test_split_curve_marks_the_least_and_what_each_rule_loses():
    times = {1: 100.0, 2: 40.0, 4: 20.0, 8: 25.0}
    fig = figures.split_curve(times, {"a": 8, "b": 4}, "made up", {"other": [{1: 9.0, 8: 8.0}]})
    shown = texts(fig)
    assert "other" in shown and [9.0, 8.0] in [list(x.get_ydata()) for x in fig.axes[0].lines]
    assert "least: S = 4, 20.0 µs" in shown and "b: S = 4, 20.0 µs" in shown
    assert "a: S = 8, 25.0 µs, +25.0 %" in shown
    curve = next(line for line in fig.axes[0].lines if len(line.get_xdata()) == 4)
    assert list(curve.get_ydata()) == [100.0, 40.0, 20.0, 25.0]


def test_no_split_has_the_colour_of_the_merge():
    cases = {8: (schedule([1.5] * 8, 4), 3.0)}
    panel = figures.toy_timelines(cases, sms=4, fill=0.5).axes[0]
    assert fills(panel).count(COLORS.ink) == 1
    assert len({*fills(panel)}) == 8 + 3  # the splits; merge, waits, idle


def test_the_bottom_of_a_split_curve_is_not_pressed_flat():
    times = {S: max(400.0 / S, 40.0) for S in range(1, 129)}
    top = figures.split_curve(times, {"a": 128}, "made up").axes[0].get_ylim()[1]
    assert 60 <= top <= 110


def test_the_key_of_a_split_curve_stands_above_its_right_half():
    for rising in (1.0, 1.5, 3.0):
        times = {S: 10.0 if S < 16 else 10.0 * rising for S in range(1, 129)}
        top = figures.split_curve(times, {"a": 1}, "made up").axes[0].get_ylim()[1]
        assert max(times.values()) <= 0.6 * top


def test_regret_of_rules_writes_out_median_tail_and_worst():
    values = [i / 100 for i in range(11)]
    fig = figures.regret_of_rules({"a rule": values[::-1], "perfect": [0.0] * 3}, "made up")
    assert texts(fig) == [
        "median 5.0 %\n90th 9.0 %\nworst 10 %",
        "median 0.0 %\n90th 0.0 %\nworst 0 %",
    ]
    dots = next(line for line in fig.axes[0].lines if len(line.get_xdata()) == 11)
    assert list(dots.get_xdata()) == [1 + x for x in values]


def test_splits_across_gpus_goes_by_the_number_of_sms():
    fig = figures.splits_across_gpus(
        {"big": 148, "small": 58}, {"a": {"big": 32, "small": 8}}, {"big": [16, 32], "small": [8]}
    )
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["small\n58 SMs", "big\n148 SMs"]
    drawn = [list(line.get_ydata()) for line in ax.lines]
    assert drawn == [[8], [16, 32], [8, 32]]


def test_fixed_sizes_names_each_line_at_its_highest_point():
    fig = figures.fixed_sizes([1024, 2048], {"few": [1.0, 3.0], "many": [2.0, 1.0]}, "made up")
    places = {text.get_text(): text.get_position()[0] for text in fig.axes[0].texts}
    assert places == {"few": 2048, "many": 1024}


@pytest.mark.parametrize("slots", [2, 3])
def test_ragged_timelines_says_when_all_is_done_and_how_busy_it_was(slots):
    runs = schedule([4, 2, 2], slots)
    fig = figures.ragged_timelines({"a": (runs, [0, 1, 2]), "b": (runs, [0, 1, 2])}, slots, 2.0)
    busy = {2: 100, 3: 67}[slots]
    assert texts(fig) == [f"done at 4, {busy} % of the slots' time taken"] * 2
    assert fills(fig.axes[0]).count(COLORS.k) == 1  # the long row
    assert fills(fig.axes[0]).count(COLORS.idle) == slots
