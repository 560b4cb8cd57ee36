"""The figures of lesson 02: they draw what they are given."""

import doctest

import pytest
import torch

from course import figures
from course.figures import decode_phase_limits
from course.hardware import Device, Model
from course.style import COLORS

NAN = torch.nan


def texts(ax):
    return [text.get_text() for text in ax.texts]


def fills(ax):
    return [patch.get_facecolor()[:3] for patch in ax.patches]


def color(name):
    return tuple(int(name[i : i + 2], 16) / 255 for i in (1, 3, 5))


def test_surprise_writes_every_character_and_is_darker_where_surprised():
    ax = figures.surprise("ab cd", [0.0, 8.0, 1.0, 4.0, 99.0], columns=10).axes[0]
    assert "".join(texts(ax)[:5]) == "ab cd"
    lightness = [sum(fill) for fill in fills(ax)[:5]]
    assert lightness[0] > lightness[2] > lightness[3] > lightness[1] == lightness[4]


def test_surprise_breaks_lines_between_words_and_loses_nothing():
    words = "one two three four"
    ax = figures.surprise(words, [1.0] * len(words), columns=9).axes[0]
    rows: dict[float, str] = {}
    for text in ax.texts[: len(words)]:
        rows[text.get_position()[1]] = rows.get(text.get_position()[1], "") + text.get_text()
    assert [row.rstrip() for row in rows.values()] == ["one two", "three", "four"]
    assert "".join(rows.values()) == words


def test_surprise_wants_a_number_for_each_character():
    with pytest.raises(ValueError, match="got 2 and 3"):
        figures.surprise("abc", [1.0, 2.0])


@pytest.mark.parametrize("P, N", [(5, 6), (1, 1), (3, 2)])
def test_passes_counts_what_it_colours(P, N):
    without, with_cache = figures.passes(P, N).axes
    for ax, count in ((without, N * P + N * (N - 1) // 2), (with_cache, P + N - 1)):
        coloured = sum(fill != color(COLORS.idle) for fill in fills(ax))
        assert coloured == count
        assert any(f": {count} tokens computed" in text for text in texts(ax))


def test_append_in_place_tells_old_new_and_free_apart():
    before = torch.tensor([[1.0, 2.0, NAN, NAN], [7.0, 8.0, 9.0, NAN]])
    after = torch.tensor([[1.0, 2.0, 3.0, NAN], [7.0, 8.0, 9.0, 5.0]])
    axes = figures.append_in_place(before, after, [2, 3]).axes
    old, new, free = color(COLORS.k), color(COLORS.q), color(COLORS.idle)
    assert fills(axes[0]) == [old, old, free, free, old, old, old, free]
    assert fills(axes[1]) == [old, old, new, free, old, old, old, new]
    assert {"row 0, length 2", "row 1, length 3"} <= set(texts(axes[0]))
    assert {"row 0, length 3", "row 1, length 4"} <= set(texts(axes[1]))
    assert [texts(ax).count("next") for ax in axes] == [2, 1]  # a full row has no next place


def test_time_of_an_answer_adds_up():
    ax = figures.time_of_an_answer(100.0, [10.0, 20.0, 70.0], 400).axes[0]
    assert list(ax.lines[0].get_ydata()) == pytest.approx([0.1, 0.11, 0.13, 0.2])
    assert any("decode, 3 bytes: 50% of the whole" in text for text in texts(ax))
    assert any("prefill of 400 bytes" in text for text in texts(ax))


def test_roofs_have_their_ridges_and_the_dots_lie_on_them():
    toy = Device("toy (a name that goes on)", 1, 100.0, 10.0, 1.0, 0.0)
    ax = figures.rooflines([toy], {"far left": 2.0, "far right": 1000.0}).axes[0]
    assert list(ax.lines[0].get_ydata())[1:] == [10.0, 10.0]
    points = [tuple(c.get_offsets()[0]) for c in ax.collections]
    assert points == [(100.0, 10.0), (2.0, 0.2), (1000.0, 10.0)]
    assert "toy\nridge at 100" in texts(ax)
    in_fp32 = figures.rooflines([toy], {"far left": 2.0}, "fp32").axes[0]
    assert "toy\nridge at 10" in texts(in_fp32)


def test_more_devices_and_works_than_colours_are_all_drawn():
    devices = [Device(f"d{i}", 1, 100.0 * i, 10.0, 1.0, 0.0) for i in range(1, 8)]
    ax = figures.rooflines(devices, {f"w{i}": 4.0**i for i in range(6)}).axes[0]
    assert sum("ridge at" in text for text in texts(ax)) == 7
    assert sum(text.startswith("w") for text in texts(ax)) == 6


def test_memory_bars_say_how_many_fit():
    small = Model("small", 1.0, layers=1, query_heads=1, kv_heads=1, head_dim=1, longest=9)
    large = Model("large", 9.0, layers=1, query_heads=1, kv_heads=1, head_dim=1, longest=9)
    a_gb_each = {"context": 250_000_000, "users": 9, "memory_gb": 5.5, "usable": 1.0}
    ax = figures.kv_memory([small, large], **a_gb_each).axes[0]
    assert {"3 of 9 fit", "18 GB of weights: too much"} <= set(texts(ax))
    blue, grey = color(COLORS.k), color(COLORS.mask)
    drawn = [blue] * 3 + [grey] * 2  # of the six that don't fit, four lie beyond the edge
    assert fills(ax) == [color(COLORS.out), *drawn, grey]


def test_a_bar_that_is_cut_at_the_edge_is_torn():
    model = Model("small", 1.0, layers=1, query_heads=1, kv_heads=1, head_dim=1, longest=9)
    fitting, torn = (
        figures.kv_memory([model], context=250_000_000, users=users, memory_gb=8).axes[0]
        for users in (6, 20)
    )
    assert len(torn.lines) == len(fitting.lines) + 2


def test_doctests():
    results = doctest.testmod(decode_phase_limits)
    assert results.attempted and not results.failed
