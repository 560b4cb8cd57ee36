"""The figures of lesson 12 show what they are given."""

import pytest
from matplotlib.colors import to_hex

from course import figures
from course.style import COLORS
from reference.paging.day import Outcome


def texts(fig) -> list[str]:
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def boxes(ax, color: str) -> list:
    return [box for box in ax.patches if to_hex(box.get_facecolor()).upper() == color.upper()]


def test_memory_strips_draw_tokens_and_what_is_only_reserved():
    fig = figures.memory_strips({"one": [(0, 8, 3, "a")], "two": [(4, 6, 2, "b")]}, 12, cell=4)
    one, two = fig.axes
    assert {(box.get_x(), box.get_width()) for box in boxes(one, COLORS.idle)} == {(3, 5)}
    assert {(box.get_x(), box.get_width()) for box in boxes(one, COLORS.k)} == {(0, 3)}
    assert [line.get_xdata()[0] for line in one.lines] == [4, 8]  # where pages begin
    assert boxes(two, COLORS.idle)[0].get_width() == 0
    assert {"one", "two", "a", "b"} <= {*texts(fig)}


def test_block_tables_lead_to_pages_filled_as_far_as_they_are():
    tables, lengths = {"0": [4, 1], "1": [4, 2]}, {"0": 6, "1": 7}
    fig = figures.block_tables(tables, lengths, num_pages=5, page_size=4, title="now")
    (ax,) = fig.axes
    assert len(boxes(ax, COLORS.sum)) == 2 + 4  # an entry in each table, four slots
    assert len(boxes(ax, COLORS.k)) == 1 + 2 and len(boxes(ax, COLORS.max)) == 1 + 3
    assert len(boxes(ax, COLORS.idle)) == 2 + 1 + 4 + 4  # the rest of two pages, and two free ones
    found = texts(fig)
    assert found.count("held 1 ×") == 2 and found.count("held 2 ×") == 1
    assert found.count("free") == 2 and {"now", "6 tokens", "7 tokens"} <= {*found}
    arrows = [text for text in ax.texts if getattr(text, "arrow_patch", None)]
    assert sorted(text.xy[0] for text in arrows) == pytest.approx([1.8, 3.05, 5.55, 5.55])


def test_a_page_is_filled_as_far_as_its_longest_holder():
    fig = figures.block_tables({"a": [0], "b": [0]}, {"a": 1, "b": 3}, num_pages=1, page_size=4)
    assert len(boxes(fig.axes[0], COLORS.sum)) == 2 + 3


def outcome(**more) -> Outcome:
    zero = dict.fromkeys(Outcome.__dataclass_fields__, 0)
    return Outcome(**zero | more)


def test_a_day_is_drawn_in_shares_and_in_requests():
    day = {
        "one": outcome(held=0.5, later=0.2, never=0.28, free=0.02, running=4.0),
        "two": outcome(held=0.9, free=0.1, running=20.0),
    }
    fig = figures.day_of_memory(day)
    left, right = fig.axes
    assert [box.get_width() for box in boxes(left, COLORS.k)] == [0.5, 0.9]
    assert [box.get_x() for box in boxes(left, COLORS.max)] == [0.7, 0.9]
    assert [text.get_text() for text in left.texts] == ["50%", "90%", "20%", "28%", "10%"]
    assert [text.get_text() for text in right.texts] == ["4.0", "20.0"]


def test_page_sizes_draws_both_costs():
    fig = figures.page_sizes([1, 64], [0.0, 0.03], [1000, 15.6], block_n=64)
    left, right = fig.axes
    assert list(left.lines[0].get_ydata()) == [0.0, 0.03]
    assert list(right.lines[0].get_ydata()) == [1000, 15.6]
    assert right.lines[1].get_xdata()[0] == 64 and "a block is 64 keys" in texts(fig)
