"""Lesson 02 quotes numbers in its prose: they are those of the model and the tables."""

import math
import re

from course.hardware import (
    bytes_per_token,
    bytes_per_user,
    decode_intensity,
    linear_work,
    model_named,
    prefill_intensity,
    ridge_point,
    users_that_fit,
)
from course.notebooks.files import ROOT, read
from reference.checkpoint import load, metadata
from reference.transformer import Config

LESSON = read(ROOT / "notebooks" / "02_decode_phase.ipynb")
PROSE = "\n".join(cell.source for cell in LESSON.cells if cell.cell_type == "markdown")


def test_the_small_model_is_the_one_described():
    model = load()
    assert f"{sum(w.numel() for w in model.parameters()):,} parameters" in PROSE
    assert 100_000 < int(metadata()["trained_on_bytes"]) < 1_000_000, "a few hundred kilobytes"
    assert model.config == Config() and "8 query heads and 2 KV heads, so `G = 4`" in PROSE
    assert f"{model.config.context} bytes" in PROSE and f"({model.config.hidden} numbers" in PROSE


def test_counts_of_tokens_are_those_of_the_formula():
    assert "The prompt has 23 bytes; let the answer have 40" in PROSE
    assert 40 * 23 + 40 * 39 // 2 > 1500, "the last of the three guesses is right"


def test_what_is_said_of_devices_and_models_stands_in_the_tables():
    a100, h100, h200 = (ridge_point(name) for name in ("A100 80GB SXM", "H100 SXM", "H200"))
    assert f"({a100:.0f} for an A100, {h100:.0f} for an H100)" in PROSE
    assert f"decode is {h100 / h200 - 1:.0%} faster".replace("%", " %") in PROSE
    assert linear_work(164, 4096, 4096).intensity < a100 < linear_work(166, 4096, 4096).intensity
    assert "on an A100 at some 165 tokens" in PROSE
    assert f"{bytes_per_token('Llama-3 8B') // 1024} KiB for Llama-3 8B in fp16" in PROSE
    users = [users_that_fit("Llama-3 8B", 2**i, 80) for i in (13, 15, 17)]
    assert f"{users[0]} users of 8k tokens fit on 80 GB" in PROSE
    assert "{} users with 8k tokens, {} with 32k, {} with 128k".format(*users) in PROSE


def test_folded_answers_are_right():
    ridge = ridge_point("H100 SXM")
    assert decode_intensity(295) < ridge <= decode_intensity(296) == decode_intensity(8, 37)
    assert decode_intensity(147, kv_dtype="fp8") < ridge <= decode_intensity(148, kv_dtype="fp8")
    assert prefill_intensity(737, 4) < ridge <= prefill_intensity(738, 4)
    caches = [32 * bytes_per_user("Llama-3 70B", 8192, d) / 1e9 for d in ("fp16", "fp8")]
    needed = [2 * model_named("Llama-3 70B").parameters + cache for cache in caches]
    assert [math.ceil(gb / 72) for gb in needed] == [4, 3]
    assert [round(gb) for gb in (*needed, caches[0])] == [227, 184, 86]
    assert "227 GB; at 72 usable GB each that is four GPUs" in PROSE and "184 GB: three" in PROSE


def test_a_prediction_is_asked_for_before_the_answer():
    assert len(re.findall(r"\*\*Predict\.\*\*", PROSE)) >= 8
