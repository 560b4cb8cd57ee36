"""The figures of lesson 07 show what they are given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from course.figures import why_decode_starves as figures
from course.hardware import predict_fa2, predict_flash_decoding, schedule, timeline_of
from course.style import COLORS, SPLITS

CALL = {"batch": 1, "heads": (32, 32), "head_dim": 128, "length": 65536, "device": "A100 80GB SXM"}


def fills(ax) -> list[str]:
    return [to_hex(patch.get_facecolor()).upper() for patch in ax.patches]


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def image(ax) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def share(picture: np.ndarray, color: str) -> float:
    """The share of a picture that has this colour."""
    return float(np.isclose(picture, to_rgb(color), atol=1e-6).all(-1).mean())


def test_dealt_out_draws_each_program_and_the_tail_in_another_colour():
    cases = {f"{P}": schedule([10] * P, sms=4) for P in (2, 5, 8, 10)}
    axes = figures.dealt_out(cases, 4).axes
    assert [texts(ax) for ax in axes] == [[f"{p}" for p in range(P)] for P in (2, 5, 8, 10)]
    assert [fills(ax).count(SPLITS[1]) for ax in axes] == [2, 1, 0, 2]
    assert [ax.get_xlabel() for ax in axes] == [
        "10 µs, 50 % of the SM time used",
        "20 µs, 62.5 % of the SM time used",
        "20 µs, 100 % of the SM time used",
        "30 µs, 83.3 % of the SM time used",
    ]


def test_sm_timelines_colours_the_share_that_works_and_names_the_idle_sms():
    runs = timeline_of(predict_fa2(**CALL))
    (ax,) = figures.sm_timelines({"all alone": runs}, 108, [1]).axes
    assert share(image(ax), COLORS.k) == pytest.approx(32 / 108)
    assert share(image(ax), COLORS.idle) == pytest.approx(76 / 108)
    assert texts(ax) == ["76 idle"]
    assert ax.get_xlabel() == "µs   (1,975 µs, 30% of the SM time used)"


def test_sm_timelines_colours_splits_and_leaves_blank_what_comes_after_the_end():
    before, after = (timeline_of(predict_flash_decoding(**CALL, num_splits=S)) for S in (1, 3))
    axes = figures.sm_timelines({"before": before, "after": after}, 108, [1, 3]).axes
    picture = image(axes[1])
    third = [share(picture, color) for color in SPLITS[:3]]
    end = after[0].stop / before[0].stop
    assert third == pytest.approx([end * 32 / 108] * 3, rel=0.01)  # a column is 1 / 900
    assert share(picture, COLORS.card) == pytest.approx(1 - end, abs=0.002)
    assert axes[0].get_xlim() == axes[1].get_xlim()
    assert [texts(ax) for ax in axes] == [["76 idle"], ["12 idle"]]


def test_sm_timelines_shows_two_programs_of_an_sm_side_by_side_and_waves_apart():
    two = schedule([10] * 8, sms=4, programs_per_sm=2)
    picture = image(figures.sm_timelines({"": two}, 4, [2]).axes[0])
    lanes = len(picture) // 4
    # programs 0 and 4 are on SM 0, programs 1 and 5 on SM 1: splits 0, 0 and 1, 1
    assert np.allclose(picture[0, 0], to_rgb(SPLITS[0]))
    assert np.allclose(picture[lanes, 0], picture[2 * lanes - 1, 0])
    in_turn = image(figures.sm_timelines({"": schedule([10] * 8, sms=4)}, 4, [1]).axes[0])
    gap = np.isclose(in_turn[0], to_rgb(COLORS.idle), atol=1e-6).all(-1)
    assert 0 < gap.sum() < 10 and 0.45 < gap.argmax() / len(gap) < 0.5


def test_latency_and_floor_has_a_line_each_and_points_only_where_something_was_recorded():
    args = [512, 1024], {"FA-2": [20.0, 30.0]}, {"least": [2.0, 4.0]}
    (bare,), (measured,) = (
        figures.latency_and_floor(*args, recorded).axes
        for recorded in (None, {"a GPU": [(512, 21.0)]})
    )
    assert len(bare.lines) == 2 and bare.get_legend() is None
    assert [*measured.lines[-1].get_xydata()[0]] == [512, 21]
    assert {"FA-2", "least"} <= {*texts(bare)}


def test_filling_with_batch_draws_both_quantities():
    used, us = {"8": [0.5, 1.0]}, {"8": [10.0, 10.0]}
    left, right = figures.filling_with_batch([1, 2], used, us).axes
    assert [*left.lines[0].get_ydata()] == [0.5, 1.0]
    assert [*right.lines[0].get_ydata()] == [10.0, 10.0]


def test_published_beside_model_labels_every_bar():
    speed_ups = {"published": [1.0, 2.0], "model": [1.04, 1.6], "other": [1.1, 4.4]}
    (ax,) = figures.published_beside_model([512, 4096], speed_ups).axes
    assert texts(ax) == ["1.0", "2.0", "1.0", "1.6", "1.1", "4.4"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["512 keys", "4,096 keys"]


def test_busy_cores_draws_one_bar_a_case_and_both_limits():
    axes = figures.busy_cores({1: (1.0, 9.6), 4: (3.9, 20.0)}, (3.0, 17.0), 4, 25.0, 1024).axes
    assert [len(ax.patches) for ax in axes] == [3, 3]
    assert texts(axes[0])[:3] == ["1.0", "3.9", "3.0"] and texts(axes[1])[:3] == ["10", "20", "17"]
    assert [ax.lines[0].get_ydata()[0] for ax in axes] == [4, 25.0]
    assert axes[1].get_xlabel() == "heads of 1,024 keys"
