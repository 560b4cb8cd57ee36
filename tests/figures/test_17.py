"""Figures of lesson 17 draw the numbers they are given."""

import itertools

import pytest

from course import figures


def texts(fig) -> str:
    """Everything a figure says."""
    said = [t.get_text() for ax in fig.axes for t in ax.texts]
    said += [ax.get_title(loc="left") for ax in fig.axes]
    return "\n".join(said)


def test_queue_timeline_counts_from_the_first_launch():
    fig = figures.queue_timeline([(5.0, 5.001, 5.011), (5.0005, 5.011, 5.021)], stopped=5.002)
    assert "clock stopped: 2 ms" in texts(fig) and "work done: 21 ms" in texts(fig)
    assert [(round(b.get_x(), 6), round(b.get_width(), 6)) for b in fig.axes[0].patches] == [
        (1.0, 10.0),
        (11.0, 10.0),
    ]


def test_first_calls_names_the_first():
    fig = figures.first_calls([0.02, 0.002, 0.001, 0.001], settled=0.001)
    assert "first call: 20 ms" in texts(fig) and "later ones: 1 ms" in texts(fig)


def test_names_of_lines_that_end_side_by_side_do_not_cover_each_other():
    flat = [[1.0, 1.0, 1.0]] * 3
    fig = figures.tpot_curves([512, 1024, 2048], {"one": flat, "two": flat, "three": flat})
    ax = fig.axes[0]
    heights = sorted(text.xy[1] for text in ax.texts)
    assert heights[0] == 1.0
    assert all(b - a >= 0.059 * ax.get_ylim()[1] for a, b in itertools.pairwise(heights))


@pytest.mark.parametrize(("cache", "told"), [(2**22, True), (None, False), (2**40, False)])
def test_cache_sizes_marks_the_cache_where_it_is_known(cache, told):
    fig = figures.cache_sizes([2**20, 2**22, 2**24], [30.0, 20.0, 10.0], [9.0, 9.0, 9.0], cache)
    assert ("4 MiB of cache" in texts(fig)) == told
    assert len(fig.axes[0].lines) == 2 + told


def test_spread_marks_least_median_and_mean():
    fig = figures.spread({"calm": [0.001, 0.002, 0.003], "busy": [0.001, 0.002, 0.012]})
    assert texts(fig).count("median 2") == 2
    assert "mean 2" in texts(fig) and "mean 5" in texts(fig)
    boxes = [(bar.get_x(), bar.get_width()) for bar in fig.axes[0].patches]
    assert boxes == [pytest.approx((1.5, 1.0)), pytest.approx((1.5, 5.5))]


def test_side_by_side_says_how_much_slower():
    fig = figures.side_by_side({"Flash-Decoding": [0.9, 1.0, 1.1], "SDPA": [2.0, 3.0, 3.5]})
    assert "1 ms\n3 ms, 3 × the best" in texts(fig)
    assert [bar.get_width() for bar in fig.axes[0].patches] == [1.0, 3.0]


def test_three_shapes_draws_each_line():
    curve = ([0, 1024, 2048], [1.0, 2.0, 3.0])
    fig = figures.three_shapes({"a": curve, "b": curve}, {"a": (1.0, 0.0), "b": (0.0, 1.0)},
                               {"a": "flat", "b": "steep"})  # fmt: skip
    assert "flat" in texts(fig) and "steep" in texts(fig)
    assert [list(ax.lines[0].get_ydata()) for ax in fig.axes] == [[1.0, 1.0], [0.0, 2048.0]]
    assert [list(ax.lines[1].get_ydata()) for ax in fig.axes] == [[1.0, 2.0, 3.0]] * 2


def test_tpot_curves_draws_medians_and_names_the_lines():
    points = [[1.0, 2.0, 3.0], [2.0, 4.0, 5.0]]
    fig = figures.tpot_curves([1024, 2048], {"naive": points, "another": points})
    assert {"naive", "another"} <= {*texts(fig).split("\n")}
    assert [list(drawn.get_ydata()) for drawn in fig.axes[0].lines] == [[2.0, 4.0]] * 2
