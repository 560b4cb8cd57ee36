"""The figures of lesson 14 show what they are given."""

import pytest
from matplotlib.colors import to_hex

from course import figures
from course.figures.flash_decoding import split_color
from course.style import COLORS
from reference.speculative import Tree

TREE = Tree.of_paths([["cat", "sat"], ["cat", "ran"], ["dog"]])


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def boxes(ax, color: str) -> list:
    return [box for box in ax.patches if to_hex(box.get_facecolor()).upper() == color.upper()]


def test_acceptance_rule_draws_what_both_have_and_what_is_missing():
    fig = figures.acceptance_rule([0.5, 0.3, 0.2], [0.2, 0.2, 0.6], ["a", "b", "c"])
    left, right = fig.axes
    assert [box.get_height() for box in boxes(left, COLORS.p)] == [0.2, 0.2, 0.2]
    assert [box.get_height() for box in boxes(left, COLORS.q)] == [0.2, 0.2, 0.2]
    assert [b.get_height() for b in left.patches[:3]] == [0.2, 0.2, 0.6]
    assert [b.get_height() for b in right.patches] == pytest.approx([0.3, 0.1, 0.0])
    assert "0.6" in left.get_title("left") and "0.4" in right.get_title("left")


def test_a_node_has_one_colour_in_the_tree_and_in_the_mask():
    fig = figures.draft_tree(TREE, TREE.tokens, "the", accepted=(0, 2), title="now")
    left, right = fig.axes
    words = [text for text in left.texts if text.get_bbox_patch()]
    assert [text.get_text() for text in words] == ["the", "cat", "sat", "ran", "dog"]
    for slot, text in enumerate(words):
        fill = to_hex(text.get_bbox_patch().get_facecolor()).upper()
        assert fill == split_color(slot).upper()
        assert len(boxes(right, split_color(slot))) == int(TREE.mask[slot].sum())
    framed = [text.get_text() for text in words if text.get_bbox_patch().get_linewidth() > 1]
    assert framed == ["the", "cat", "ran"]
    assert left.get_title("left") == "now" and {"slot 0", "slot 4"} <= {*texts(left)}
    assert len([line for line in left.lines if line.get_linewidth() > 2]) == 2  # the-cat, cat-ran
    depths = {word.get_text(): word.get_position()[0] for word in words}
    assert depths["the"] < depths["cat"] == depths["dog"] < depths["sat"] == depths["ran"]


def test_nothing_accepted_has_no_frame():
    fig = figures.draft_tree(TREE, TREE.tokens, "the")
    nodes = [text for text in fig.axes[0].texts if text.get_bbox_patch()]
    assert all(text.get_bbox_patch().get_linewidth() == 0 for text in nodes)


def test_curves_and_points_of_tokens_per_pass():
    fig = figures.tokens_per_pass([0.0, 1.0], {"K = 1": [1.0, 2.0]}, {"look-up": (0.5, 1.4)})
    (ax,) = fig.axes
    curve, point = ax.lines[:2]
    assert list(curve.get_ydata()) == [1.0, 2.0] and "K = 1" in texts(ax)
    assert (list(point.get_xdata()), list(point.get_ydata())) == ([0.5], [1.4])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["look-up"]
    assert figures.tokens_per_pass([0, 1], {"K = 1": [1, 2]}).axes[0].get_legend() is None


def test_pass_time_draws_bounds_measurements_and_the_diagonal():
    fig = figures.pass_time([1, 2, 4], {"a GPU": [1, 1, 1.5]}, {"a CPU": {1: 1.0, 4: 2.5}})
    (ax,) = fig.axes
    diagonal, modelled, measured = ax.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [1, 2, 4]
    assert list(modelled.get_ydata()) == [1, 1, 1.5]
    assert list(measured.get_xdata()) == [1, 4] and list(measured.get_ydata()) == [1.0, 2.5]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a GPU", "a CPU"]
