"""The figures of lesson 13 show what they are given."""

import pytest
import torch
from matplotlib.colors import to_hex

from course import figures
from course.style import COLORS, luminance


def texts(fig) -> list[str]:
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def contrast(one, other) -> float:
    """WCAG 2: 1 for equal colours, 21 for black on white."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_number_lines_draw_every_number_up_to_the_end_of_the_line():
    numbers = {"int8": [-1.0, 0.0, 0.5, 1.0], "e5m2": [0.0, 0.01, 0.02, 1.0]}
    whole, zoomed = figures.number_lines(numbers, zoom=0.02).axes
    drawn = [
        [[round(segment[0][0], 6) for segment in lines.get_segments()] for lines in ax.collections]
        for ax in (whole, zoomed)
    ]  # of each format its line, then its numbers; the last format is at the bottom
    assert drawn[0][1::2] == [[0.0, 0.01, 0.02, 1.0], [0.0, 0.5, 1.0]]
    assert drawn[1][1::2] == [[0.0, 0.01, 0.02], [0.0]]
    assert [t.get_text() for t in whole.texts] == ["4 numbers", "3 numbers"]
    assert [t.get_text() for t in whole.get_yticklabels()] == ["e5m2", "int8"]


def test_rounding_errors_draws_a_named_line_for_each_format():
    fig = figures.rounding_errors([0.01, 0.1, 1.0], {"int8": [0.1] * 3, "e4m3": [0.01, 0.1, 0.2]})
    (ax,) = fig.axes
    assert [list(line.get_ydata()) for line in ax.lines] == [[0.1] * 3, [0.01, 0.1, 0.2]]
    assert texts(fig) == ["int8", "e4m3"] and ax.get_xscale() == ax.get_yscale() == "log"


def test_a_number_is_the_darker_the_more_it_is_off():
    truth = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    back = torch.tensor([[1.01, 1.05, 0.7, 0.0]])
    (ax,) = figures.quantized_matrices({"keys": truth, "per token": back}, ["token 0"]).axes
    fills = [to_hex(box.get_facecolor()).upper() for box in ax.patches]
    assert fills == [COLORS.card] * 5 + ["#FBE9C6", "#F3C566", COLORS.max]
    shown = [text.get_text() for text in ax.texts]
    assert {"token 0", "keys", "per token", "1.01", "0.00"} <= {*shown}


def test_fold_scales_gives_every_size():
    shown = texts(figures.fold_scales(G=4, Lk=100, D=64))
    assert shown.count("K, eight bits\n100 × 64") == shown.count("V, eight bits\n100 × 64") == 1
    assert {"q\n4 × 64", "scores\n4 × 100", "k_scale\n1 × 100", "v_scale\n1 × 100"} <= {*shown}
    assert "l = Σ p\nno scale here" in shown


def test_key_and_value_errors_has_lines_for_the_formula_and_dots_for_what_was_measured():
    predicted = {"keys": [0.1, 0.4], "values": [0.1, 0.2]}
    measured = {"keys": [0.11, 0.41], "values": [0.09, 0.21]}
    (ax,) = figures.key_and_value_errors([1, 2], predicted, measured).axes
    drawn = [(list(line.get_ydata()), line.get_marker()) for line in ax.lines]
    assert drawn == [
        ([0.1, 0.4], "None"), ([0.11, 0.41], "o"), ([0.1, 0.2], "None"), ([0.09, 0.21], "o"),
    ]  # fmt: skip


def test_channel_maxima_has_one_axis_for_keys_and_values():
    k, v = torch.tensor([[1.0, 9.0], [2.0, 3.0]]), torch.tensor([[0.5, 1.0], [1.0, 1.0]])
    fig = figures.channel_maxima(k, v, "layer 3")
    heights = [[bar.get_height() for bar in ax.patches] for ax in fig.axes]
    assert heights == [[1.0, 9.0], [0.5, 1.0], [2.0, 3.0], [1.0, 1.0]]
    assert all(ax.get_ylim() == (0, pytest.approx(1.08 * 9)) for ax in fig.axes)
    medians = [ax.lines[0].get_ydata()[0] for ax in fig.axes]
    assert medians == [k.median(), v.median()] * 2
    assert fig.axes[2].get_ylabel() == "KV head 1"


def test_the_median_is_drawn_so_that_it_is_seen_on_the_bars():
    fig = figures.channel_maxima(torch.ones(1, 4), torch.ones(1, 4), "layer 0")
    for ax in fig.axes:
        (median,) = ax.lines
        assert median.get_linewidth() >= 1.5 and median.get_zorder() > ax.patches[0].get_zorder()
        behind = (ax.patches[0].get_facecolor(), ax.get_facecolor())
        # at least 3 : 1, as WCAG 2 asks of what one must see to understand a figure
        assert all(contrast(median.get_color(), color) >= 3 for color in behind)


def test_channel_spreads_draws_every_layer():
    (ax,) = figures.channel_spreads([4.0, 5.0, 3.0], [1.0, 2.0, 2.0]).axes
    assert [list(line.get_ydata()) for line in ax.lines] == [[4.0, 5.0, 3.0], [1.0, 2.0, 2.0]]
    assert ax.get_ylim()[0] == 0


def test_rotary_pairs_tells_fast_pairs_from_slow_ones():
    k = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])  # pairs (0, 2) and (1, 3)
    (ax,) = figures.rotary_pairs(k, turns=[4.0, 0.1], limit=3.0).axes
    _, fast, slow = ax.lines
    assert (list(fast.get_xdata()), list(fast.get_ydata())) == ([1.0, 5.0], [3.0, 7.0])
    assert (list(slow.get_xdata()), list(slow.get_ydata())) == ([2.0, 6.0], [4.0, 8.0])
    assert fast.get_markerfacecolor() != "none" == slow.get_markerfacecolor()


def test_a_ratio_whose_interval_contains_no_change_is_hollow():
    def row(k, v, ratio, low, high):
        return {"k": k, "v": v, "ratio": ratio, "low": low, "high": high}

    rows = [
        row("int8 per token", "int8 per token", 1.001, 0.999, 1.003),
        row("bf16", "e5m2 per tensor", 1.02, 1.01, 1.03),
    ]
    fig = figures.perplexity_ratios({"one": rows, "other": rows[::-1]}, largest=0.04)
    one, other = fig.axes
    dots = [line for line in one.lines if line.get_marker() == "o"]
    assert [list(map(float, dot.get_xdata())) for dot in dots] == [
        [pytest.approx(0.001)], [pytest.approx(0.02)],
    ]  # fmt: skip
    assert [dot.get_markerfacecolor() for dot in dots] == [COLORS.card, COLORS.p]
    assert [(bar.get_x(), bar.get_width()) for bar in one.patches] == [
        (pytest.approx(-0.001), pytest.approx(0.004)),
        (pytest.approx(0.01), pytest.approx(0.02)),
    ]
    labels = [label.get_text() for label in one.get_yticklabels()]
    assert labels == ["int8 per token", "K bf16, V e5m2 per tensor"]
    assert one.get_title(loc="left") == "one" and other.get_title(loc="left") == "other"


def test_two_models_and_two_groups_of_pairs_are_kept_apart():
    def row(k, v):
        return {"k": k, "v": v, "ratio": 1.0, "low": 0.99, "high": 1.01}

    rows = [row("int8", "int8"), row("e4m3", "e4m3"), row("int8", "bf16"), row("bf16", "int8")]
    fig = figures.perplexity_ratios({"one": rows, "other": rows}, largest=0.04)
    fig.draw_without_rendering()
    one, other = (ax.get_position() for ax in fig.axes)
    assert other.x0 - one.x1 > 0.04  # of the figure's width
    for ax in fig.axes:
        level = [line for line in ax.lines if line.get_linestyle() == "--"]
        assert [list(line.get_ydata()) for line in level] == [[1.5, 1.5]]
