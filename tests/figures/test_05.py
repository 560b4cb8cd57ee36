"""The figures of lesson 05 show what they are given."""

import torch
from matplotlib.colors import to_hex

from course.figures import triton_primer as figures
from course.style import COLORS, SPLITS


def fills(fig) -> list[str]:
    return [to_hex(patch.get_facecolor()).upper() for ax in fig.axes for patch in ax.patches]


def texts(fig) -> list[str]:
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def test_programs_colours_each_element_by_who_wrote_it_and_marks_what_is_cut_off():
    fig = figures.programs(torch.tensor([0, 0, 0, 1, 1, 1, 2]), block=3)
    assert [fills(fig).count(color) for color in SPLITS[:3]] == [3 + 1, 3 + 1, 1 + 1]  # + a bracket
    assert (texts(fig).count("✓"), texts(fig).count("✗")) == (7, 2)
    assert {"program 2", "2 · 3 + (0 … 2)", "offs < 7"} <= {*texts(fig)}


def test_guard_zones_shows_poison_where_it_is_and_where_it_got_to():
    memory = torch.tensor([1.0, 2.0, 3.0, torch.nan])
    fig = figures.guard_zones(memory, 3, {"bare": memory, "masked": torch.tensor([1.0, 2, 3, 0])})
    assert texts(fig).count("NaN") == fills(fig).count(COLORS.accent) == 2
    assert fills(fig).count(COLORS.mask) == 1
    assert {"sum: NaN", "sum: 6"} <= {*texts(fig)}


def test_strides_marks_one_element_in_every_view_and_computes_its_address():
    x = torch.arange(12).reshape(3, 4)
    views = {"x": x, "x.T": x.T, "row": x[0].expand(3, 4)}
    shown = texts(figures.strides(views, row=2, col=1))
    assert {"2 · 4 + 1 · 1 = 9", "2 · 1 + 1 · 4 = 6", "2 · 0 + 1 · 1 = 1"} <= {*shown}
    assert "strides (1, 4)" in shown
    assert shown.count("11") == 1 + 1 + 1  # in memory, in x and in x.T; not in the repeated row


def test_softmax_traffic_adds_up_the_trips():
    shown = texts(figures.softmax_traffic([("a", 1, 0), ("b", 1, 1)], fused=(1, 1)))
    assert {"together 3 × the matrix", "2 × the matrix"} <= {*shown}
    assert (shown.count("read"), shown.count("write")) == (2 + 1, 1 + 1)


def test_matmul_tiles_marks_a_row_of_tiles_a_column_of_tiles_and_one_tile():
    a, b = torch.ones(4, 4), torch.ones(4, 6)
    fig = figures.matmul_tiles(a, b, a @ b, block=2, program=(1, 2))
    assert fills(fig).count(COLORS.out) == 4
    assert fills(fig).count(COLORS.k) == fills(fig).count(COLORS.v) == 4
    assert fills(fig).count(COLORS.score) == 4
    assert "program (1, 2)\nadds up its tile\nin fast memory" in texts(fig)


def test_registers_colours_what_spills():
    fig = figures.registers([1024, 2048], [40, 255], [0, 96])
    assert fills(fig) == [COLORS.k, COLORS.accent]
    assert {"40", "255\n96 bytes spilled"} <= {*texts(fig)}
