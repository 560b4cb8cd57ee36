"""The figures of lesson 04 show what they are given."""

import torch
from matplotlib.colors import to_hex

from course.figures import flash_attention as figures
from course.style import COLORS
from reference.attention import causal_mask


def fills(fig) -> list[str]:
    return [to_hex(patch.get_facecolor()).upper() for ax in fig.axes for patch in ax.patches]


def texts(fig) -> list[str]:
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def test_busy_workers_colours_as_many_squares_as_there_are_programs():
    fig = figures.busy_workers({"few": 3, "many": 500}, sms=20)
    assert fills(fig).count(COLORS.v) == 3 + 20
    assert fills(fig).count(COLORS.idle) == 17
    assert "500 programs, 20 of 20 busy" in texts(fig)


def test_causal_tiles_draws_each_tile_in_its_kind_and_each_visible_key():
    kinds = [["masked", "skipped"], ["full", "masked"]]
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    cases = {"a": (kinds, causal_mask(3, 4), (2, 3)), "b": (kinds[:1], nothing, (2, 3))}
    fig = figures.causal_tiles(cases)
    wanted = {"full": 1, "masked": 3, "skipped": 2}
    for kind, count in wanted.items():
        assert fills(fig).count(figures.KIND_COLORS[kind]) == count
    assert len(fig.axes[0].lines[0].get_xdata()) == int(causal_mask(3, 4).sum())
    areas = sum(p.get_width() * p.get_height() for p in fig.axes[0].patches)
    assert areas == 3 * 4  # the tiles cover the mask, tails included


def test_two_memories_are_drawn_to_scale():
    fig = figures.two_memories(10, 4e3, 2e12, 4e6, 1e12)
    slow, fast = (p.get_width() * p.get_height() for p in fig.axes[1].patches)
    assert abs(fast / slow - 10 * 4e3 / 4e6) < 1e-12


def test_loop_orders_puts_each_step_in_its_tile():
    fig = figures.loop_orders({"a": ([[1, 3], [2, 4]], ""), "b": ([[1, 2], [3, 4]], "")})
    for ax, place in zip(fig.axes, [(0.5, 0.5), (1.5, 1.5)], strict=True):
        (two,) = [text for text in ax.texts if text.get_text() == "2"]
        assert two.get_position() == place


def test_the_others_render():
    one = torch.tensor([[1.0]])
    for fig in (
        figures.one_tile(2, 3, 1, 1),
        figures.traffic([0, 1024], {"naive": [0, 9]}, [1024], {"naive": [9]}),
        figures.tile_sizes([16, 32], [2e8, 1e8], 1.5e8, [1e5, 3e5], 2e5),
        figures.backward_flow({"lse": one, "ds": torch.tensor([-0.75, 0.75])}),
    ):
        assert fig._repr_png_().startswith(b"\x89PNG")
    assert "(−0.75, 0.75)" in texts(fig)
