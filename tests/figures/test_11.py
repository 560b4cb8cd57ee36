"""The figures of lesson 11 show what they are given."""

from matplotlib.colors import to_hex

from course import figures
from course.style import SPLITS


def texts(fig) -> list[str]:
    return [text.get_text().strip() for ax in fig.axes for text in ax.texts]


def test_errors_by_order_counts_every_order_and_marks_the_named_ones():
    fig = figures.errors_by_order([-1.0, 0.0, 0.0, 2.0], {"up": -1.0, "tree": 0.5}, "gaps")
    ax = fig.axes[0]
    assert sum(patch.get_height() for patch in ax.patches) == 4
    assert texts(fig) == ["up", "tree"]
    assert [list(line.get_xdata()) for line in ax.lines[:2]] == [[-1.0, -1.0], [0.5, 0.5]]
    assert "gaps" in ax.get_xlabel()


def test_stalling_sums_writes_out_where_each_ends():
    lines = {"fp16": [1.0, 2048.0], "bf16": [1.0, 256.0]}
    fig = figures.stalling_sums([16, 4096], lines, [1.0, 4096.0], "made up")
    assert texts(fig) == ["fp16: 2,048", "bf16: 256", "truth: 4,096"]
    drawn = [list(line.get_ydata()) for line in fig.axes[0].lines]
    assert drawn == [[1.0, 4096.0], *lines.values()]


def test_merge_errors_draws_dots_and_stairs_for_every_format():
    errors, bounds = {"fp16": [1e-4, 2e-4]}, {"fp16": [1e-3, 2e-3]}
    fig = figures.merge_errors([8.0, 16.0], errors, bounds)
    stairs, dots = fig.axes[0].lines
    assert list(stairs.get_ydata()) == [1e-3, 2e-3] and list(dots.get_ydata()) == [1e-4, 2e-4]
    assert texts(fig) == ["fp16"]


def test_errors_by_splits_names_its_lines_at_their_ends():
    measured, chain = [3e-8, 2e-8, 1e-8], [3e-8, 2e-8, 4e-8]
    fig = figures.errors_by_splits([1, 2, 4], measured, chain, [3e-5] * 3, [3e-7] * 3)
    assert texts(fig) == ["worst case", "coin flips", "in a chain", "measured"]
    assert list(fig.axes[0].lines[-2].get_ydata()) == chain
    assert list(fig.axes[0].lines[-1].get_ydata()) == [3e-8, 2e-8, 1e-8]


def test_cuts_of_a_row_draws_each_split_where_it_lies():
    fig = figures.cuts_of_a_row(10, {"a": [(0, 6), (6, 10)], "b": [(0, 10)]}, {"a": "two"})
    bars = [(p.get_x(), p.get_width(), to_hex(p.get_facecolor())) for p in fig.axes[0].patches]
    first, second = (color.lower() for color in (SPLITS[0], SPLITS[4]))
    assert bars == [(0, 6, first), (6, 4, second), (0, 10, first)]
    assert "two" in texts(fig)
