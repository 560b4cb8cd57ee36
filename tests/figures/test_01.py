"""The figures of lesson 01: they mark and count what they are given."""

import pytest
import torch

from course import figures
from course.style import COLORS
from reference.attention import causal_mask
from reference.closeness import Closeness


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_one_query_shows_every_number():
    q, k = torch.tensor([2.0, 1.0]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    v = torch.tensor([[10.0, 0.0], [0.0, 30.0]])
    p = torch.softmax(k @ q, 0)
    fig = figures.one_query(q, k, v, k @ q, p, p @ v)
    shown = texts(fig.axes[0])
    assert {"7.39", "2.72", "10.11", "0.73", "0.27", "1.00", "7.31", "8.07"} <= set(shown)
    assert fig._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("Lq, Lk", [(2, 6), (3, 3), (4, 2)])
def test_causal_corners_marks_what_differs(Lq, Lk):
    right, wrong = causal_mask(Lq, Lk), torch.ones(Lq, Lk).tril().bool()
    fig = figures.causal_corners(right, wrong)
    crosses = [texts(ax).count("×") for ax in fig.axes]
    assert crosses == [0, (right != wrong).sum().item()]


def test_exp_ceiling_crosses_out_what_overflows():
    fig = figures.exp_ceiling(torch.tensor([10.0, 5.0, 15.0, 0.0]), ceiling=65504.0)
    shifted, stored, lost = (len(c.get_offsets()) for c in fig.axes[0].collections[-3:])
    assert (shifted, stored, lost) == (4, 3, 1)


def test_head_sharing_names_the_kinds():
    fig = figures.head_sharing(8, (8, 2, 1))
    kinds = [next(t.split()[0] for t in texts(ax) if "Hkv" in t) for ax in fig.axes]
    assert kinds == ["MHA", "GQA", "MQA"]
    assert [len(ax.lines) for ax in fig.axes] == [8, 8, 8]


def test_score_memory_draws_what_it_is_given():
    fig = figures.score_memory([1024, 2048], [10**9, 4 * 10**9], [10**8, 2 * 10**8], card=80e9)
    scores, inputs, card = fig.axes[0].lines
    assert list(scores.get_ydata()) == [10**9, 4 * 10**9]
    assert list(inputs.get_ydata()) == [10**8, 2 * 10**8]
    assert set(card.get_ydata()) == {80e9}


def test_verdicts_colours_by_the_verdict_and_not_by_the_cosine():
    good = Closeness("o", 1e-3, 1e-4, 1e-3, 1e-4, 0.0, 2.0, 1.5)
    bad = Closeness("o", 1e-1, 1e-2, 1e-3, 1e-4, 0.0, 2.0, 1.5)
    ax = figures.verdicts([("right", 0.5, good), ("wrong", 1.0, bad)]).axes[0]
    assert [line.get_color() for line in ax.lines[:2]] == [COLORS.v, COLORS.q]
    assert {"0.5 ×", "50 ×", "0.50", "1.00"} <= set(texts(ax))
