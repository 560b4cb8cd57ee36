"""Lesson 02 says numbers in its prose: they are those of the model and of the tables."""

import math
import re

from course.hardware import bytes_per_token, ridge_point, users_that_fit
from course.notebooks.files import ROOT, read
from reference.checkpoint import load, metadata
from reference.transformer import Config

LESSON = read(ROOT / "notebooks" / "02_decode_phase.ipynb")
PROSE = "\n".join(cell.source for cell in LESSON.cells if cell.cell_type == "markdown")


def test_the_small_model_is_the_one_described():
    about, model = metadata(), load()
    loss = float(about["held_out_loss"])
    assert f"$e^{{{loss:.2f}}} \\approx {math.exp(loss):.1f}$" in PROSE
    assert f"gives {math.exp(-loss):.0%}".replace("%", " %") in PROSE
    assert f"{sum(w.numel() for w in model.parameters()):,} parameters" in PROSE
    assert abs(int(about["trained_on_bytes"]) / 1000 - 300) < 50, "300 kilobytes of text"
    assert model.config == Config() and "8 query heads and 2 KV heads, so `G = 4`" in PROSE
    assert f"{model.config.context} bytes" in PROSE


def test_what_is_said_of_devices_and_models_stands_in_the_tables():
    a100, h100, h200 = (ridge_point(name) for name in ("A100 80GB SXM", "H100 SXM", "H200"))
    assert f"({a100:.0f} for an A100, {h100:.0f} for an H100)" in PROSE
    assert f"decode is {h100 / h200 - 1:.0%} faster".replace("%", " %") in PROSE
    assert f"{bytes_per_token('Llama-3 8B') // 1024} KiB for Llama-3 8B in fp16" in PROSE
    assert f"{users_that_fit('Llama-3 8B', 8192, 80)} users of 8k tokens fit on 80 GB" in PROSE


def test_a_prediction_is_asked_for_before_the_answer():
    assert len(re.findall(r"\*\*Predict\.\*\*", PROSE)) >= 8
