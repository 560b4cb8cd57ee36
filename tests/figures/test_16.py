"""The figures of lesson 16 show what they are given."""

import pytest
from matplotlib.colors import to_hex

from course import figures
from course.style import SPLITS


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_keys_over_ranks_draws_each_key_twice_in_its_rank_s_colour():
    (ax,) = figures.keys_over_ranks([0, 0, 1, 1, 0], ranks=3, new=1).axes
    colors = [to_hex(box.get_facecolor()).upper() for box in ax.patches]
    assert colors.count(SPLITS[0]) == 2 * 3 and colors.count(SPLITS[1]) == 2 * 2
    assert sum(box.get_hatch() is not None for box in ax.patches) == 2
    assert {"rank 0", "rank 2", "o₀, lse₀", "o₁, lse₁", "(0, −∞)"} <= {*texts(ax)}
    assert "o₂, lse₂" not in texts(ax)  # an empty shard


def test_bytes_over_ranks_draws_formulas_as_lines_and_counts_as_points():
    sent = {"gather": [10, 30], "heads": [5, 7]}
    (ax,) = figures.bytes_over_ranks([2, 4], sent, {"gather": {2: 10}}).axes
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines]
    assert lines == [([2, 4], [10, 30]), ([2], [10]), ([2, 4], [5, 7]), ([], [])]
    assert {"gather", "heads"} <= {*texts(ax)}


def test_time_over_gpus_adds_the_merge_and_rings_the_best():
    (ax,) = figures.time_over_gpus([8, 16, 32], {"1M": [40, 20, 10]}, [0, 5, 30], mark=16).axes
    total, best, merge, mark = ax.lines
    assert list(total.get_ydata()) == [40, 25, 40]
    assert (list(best.get_xdata()), list(best.get_ydata())) == ([16], [25])
    assert list(merge.get_ydata()) == [0, 5, 30] and mark.get_xdata()[0] == 16
    assert {"1M", "merge alone"} <= {*texts(ax)}


def test_measured_merges_draws_points_and_the_model():
    row = {"kind": "merge", "how": "ring", "merge": "gather", "rows": 1}
    rows = [row | {"ranks": 2, "sent": 1000, "messages": 1, "ms": 3.0},
            row | {"ranks": 4, "sent": 3000, "messages": 3, "ms": 9.0},
            row | {"ranks": 4, "sent": 3000, "messages": 3, "ms": 9.0, "how": "backend"},
            {"kind": "step", "ranks": 2}]  # fmt: skip
    two, four = figures.measured_merges(rows, ms_per_round=2.0, ms_per_mb=1000.0).axes
    drawn = [[list(line.get_ydata()) for line in ax.lines if len(line.get_ydata())]
             for ax in (two, four)]  # fmt: skip
    assert drawn == [[[3.0], [pytest.approx(3.0)]], [[9.0], [pytest.approx(9.0)]]]
    assert [ax.get_title(loc="left") for ax in (two, four)] == ["2 ranks", "4 ranks"]


def test_prefix_saved_draws_both_costs_and_leaves_out_what_never_pays():
    shortest = {"in bytes": [None, 7, 5], "with launches": [None, 700, 50]}
    left, right = figures.prefix_saved([1, 2, 4], [10, 20, 40], [12, 12, 14], shortest).axes
    assert [list(line.get_ydata()) for line in left.lines] == [[10, 20, 40], [12, 12, 14]]
    assert [list(line.get_xdata()) for line in right.lines] == [[2, 4], [2, 4]]
    assert {"7", "5", "700", "50"} == {*texts(right)}
