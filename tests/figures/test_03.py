"""Figures of lesson 03 draw the numbers they are given."""

import math

import pytest
import torch

from course import figures
from reference.online_softmax import init, update


def texts(fig) -> str:
    """Everything a figure says."""
    said = [t.get_text() for ax in fig.axes for t in ax.texts]
    said += [ax.get_title(loc=loc) for ax in fig.axes for loc in ("left", "center")]
    return "\n".join(said)


def heights(ax) -> list[float]:
    """Heights of the filled bars, from left to right."""
    return [round(bar.get_height(), 4) for bar in ax.patches if bar.get_fill()]


@pytest.fixture
def stream():
    x, v = torch.tensor([1.0, 3.0, 2.0, 5.0]), torch.tensor([10.0, 20.0, 30.0, 40.0])
    states = [init(1, 1)]
    for x_i, v_i in zip(x, v, strict=True):
        states.append(update(states[-1], x_i.view(1, 1), v_i.view(1, 1)))
    return x, v, states


def test_change_of_ruler(stream):
    fig = figures.change_of_ruler(stream[0])
    assert "l = 1.5032" in texts(fig) and "l = 1.2034" in texts(fig) and "× 0.1353" in texts(fig)
    assert heights(fig.axes[0]) == [0.1353, 1.0, 0.3679]
    assert heights(fig.axes[1]) == [0.0183, 0.1353, 0.0498, 1.0]


def test_reads():
    fig = figures.reads({"two": [0, 1, 2, 0, 1, 2], "one": [0, 1, 2]})
    assert "6 reads" in texts(fig) and "3 reads" in texts(fig)
    assert [len(ax.lines) for ax in fig.axes] == [2, 1]  # one climb per pass


@pytest.mark.parametrize("t", range(5))
def test_state_step(stream, t):
    x, v, states = stream
    fig = figures.state_step(x, v, states, t)
    m, l, acc = (float(part) for part in states[t])
    assert heights(fig.axes[0]) == [round(math.exp(s - m), 4) for s in x[:t].tolist()]
    assert (f"= {acc / l:.3f}" if t else "not defined yet") in texts(fig)
    assert ("0.1353 · 1.5032 + 1.0000" in texts(fig)) == (t == 4)


def test_filmstrip_says_where_the_ruler_moved(stream):
    fig = figures.filmstrip(*stream)
    assert ["moved" in "".join(t.get_text() for t in ax.texts) for ax in fig.axes] == [
        False, True, False, True,
    ]  # fmt: skip


def test_running_state_counts_the_moves(stream):
    fig = figures.running_state(stream[0], stream[2][1:], truth=36.88)
    assert "it moves 3 times in 4 keys" in texts(fig)


def test_merge_rulers():
    fig = figures.merge_rulers(torch.tensor([1.0, 3.0, 4.5]), split=2)
    assert heights(fig.axes[0]) == [0.1353, 1.0, 1.0]
    assert heights(fig.axes[1]) == [0.0302, 0.2231, 1.0]
    assert "× 0.2231" in texts(fig) and "× 1\n" in texts(fig)


def test_merge_trees():
    fig = figures.merge_trees(
        {"chain": (((0, 1), 2), 3), "pairs": ((2, 0), (1, 3))}, {"chain": 1.0, "pairs": 2.0}
    )
    for ax, leaves, o in zip(
        fig.axes, (["0", "1", "2", "3"], ["2", "0", "1", "3"]), (1, 2), strict=True
    ):
        assert [t.get_text() for t in ax.texts if t.get_text().isdigit()] == leaves
        assert sum(t.get_text() == "⊕" for t in ax.texts) == 3
        assert f"o = {o}.0000" in texts(fig)


def test_merge_trees_may_merge_more_than_two_at_once():
    fig = figures.merge_trees({"all at once": (0, 1, 2, 3)}, {"all at once": 1.0})
    assert sum(t.get_text() == "⊕" for t in fig.axes[0].texts) == 1
    assert sum(len(line.get_xdata()) == 2 for line in fig.axes[0].lines) == 4  # one from each leaf


def test_balance_weighs_by_lse():
    lse = torch.tensor([1.0, 3.0, 0.0]).log()
    fig = figures.balance(torch.tensor([1.0, 5.0, 0.0]), lse, 4.0)
    assert all(f"weight {w}" in texts(fig) for w in ("0.25", "0.75", "0.00"))
    sides = [p.get_width() for p in fig.axes[0].patches if p.get_fill() and hasattr(p, "get_width")]
    assert math.isclose((sides[1] / sides[0]) ** 2, 3.0, rel_tol=1e-6)  # areas are to scale
