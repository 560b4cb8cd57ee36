"""Lesson 13 quotes the kernels word for word, and what it concludes is in the record."""

import contextlib
import io
import re

import pytest
import torch
from quotes import lines_of, quoted_lines

from course import recorded
from course.check import catalogue
from course.notebooks.files import ROOT, read

LESSON = "13_quantized_kv_cache.ipynb"
QUOTED = ("flash_decoding/attend", "flash_decoding/split")


def cell(text: str) -> str:
    """The source of the lesson's one code cell that contains a text."""
    (found,) = [
        c.source
        for c in read(ROOT / "notebooks" / LESSON).cells
        if c.cell_type == "code" and text in c.source
    ]
    return found


def prose() -> str:
    """All text of the lesson."""
    cells = read(ROOT / "notebooks" / LESSON).cells
    return "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


def printed(source: str, names: dict) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(source, names)
    return out.getvalue()


def test_every_quoted_line_is_in_a_kernel():
    quoted, lines = quoted_lines(LESSON), lines_of(*QUOTED)
    assert len(quoted) >= 9
    assert [line for line in quoted if line not in lines] == []


def test_what_is_divided_out_of_p_is_shown_to_be_multiplied_back_in():
    quoted = quoted_lines(LESSON)
    divided, back = (next(i for i, line in enumerate(quoted) if line.startswith(start))
                     for start in ("p *= (v_scales / ", "acc += largest * "))  # fmt: skip
    assert divided < back


def test_an_exercise_is_pointed_to_once_all_it_needs_has_been_read():
    """At the end of a section, after those that its check's properties are explained in."""
    pytest.importorskip("triton")
    *sections, _ = re.split(r"^## (?=Recap)|^## (?=\d)", prose(), flags=re.M)[1:]
    read_so_far, pointed_to = set(), {}
    for section in sections:
        read_so_far.add(section.splitlines()[0])
        for line in section.splitlines():
            if line.startswith("**Now do "):
                assert section.rstrip().endswith(line)
                for id_ in re.findall(r"13\.\d", line.split("**")[1]):
                    assert id_ not in pointed_to
                    pointed_to[id_] = {*read_so_far}
    needs = {exercise.id.split()[0]: {exercise.section, *(x.see for x in exercise.properties)}
             for exercise in catalogue.exercises("13")}  # fmt: skip
    assert {*pointed_to} == {*needs}
    for id_, needed in needs.items():
        assert {x for x in needed if x} <= pointed_to[id_], id_


def test_the_stored_outputs_are_those_of_a_run_with_the_model():
    """The text quotes them. If this fails: `make model`, then run the lesson again."""
    cells = read(ROOT / "notebooks" / LESSON).cells
    outputs = "".join(out.get("text", "") for c in cells for out in c.get("outputs", []))
    assert "SmolLM2's channels: computed now" in outputs
    assert "This needs the model" not in outputs
    for name in "KV":
        token = re.search(rf"^{name}: per token (\S+) times finer", outputs, re.M).group(1)
        channel = re.search(rf"^{name}: how many.* per channel (\S+)$", outputs, re.M).group(1)
        assert re.search(rf"\*\*{name}\*\* [^*]*\({token} against {channel}\)", prose())


@pytest.fixture
def rows():
    return {(r["model"], r["k"], r["v"]): r for r in recorded.load("quality")["rows"]}


def rise(rows, model: str, k: str, v: str) -> float:
    return 100 * (rows[model, k, v]["ratio"] - 1)


def test_the_recap_gives_the_recorded_numbers(rows):
    text = "\n".join(c.source for c in read(ROOT / "notebooks" / LESSON).cells)
    tensor, token = (
        rise(rows, "smollm2", *(f"int8 per {per}",) * 2) for per in ("tensor", "token")
    )
    assert f"int8 costs SmolLM2 {tensor:.2f} % per tensor, {token:.2f} % per token" in text
    best = rows["smollm2", "int8 per channel", "int8 per token"]
    assert best["low"] < 1 < best["high"] and len(best["window_losses"]) == 24
    assert f"the rise is {100 * (best['ratio'] - 1):.2f} %, and its interval contains 0" in text


def test_lesson_and_exercises_give_the_recorded_cost_of_the_best_eight_bits(rows):
    """A budget of 0.1 % refuses them all, so what the best one may cost needs a third decimal."""
    best = rows["smollm2", "int8 per channel", "int8 per token"]
    eight_bits = [r for (model, k, v), r in rows.items()
                  if model == "smollm2" and not {"fp32", "bf16"} & {k, v}]  # fmt: skip
    assert best["high"] == min(r["high"] for r in eight_bits) > 1.001
    for folder, word in (("notebooks", "may"), ("solutions", "might")):
        text = "\n".join(c.source for c in read(ROOT / folder / LESSON).cells)
        assert f"{word} cost {100 * (best['high'] - 1):.3f} %" in text
    fewest = min(r["bytes_per_token"] for r in eight_bits)
    scales_of_v = f"{100 * (1 - fewest / best['bytes_per_token']):.0f} %"
    assert f"the scales of V, {scales_of_v} of the bytes" in text


def test_what_the_lesson_concludes_is_in_the_record(rows):
    for model in ("smollm2", "bytes"):
        for per in ("tensor", "head", "token"):
            costs = [rise(rows, model, *(f"{name} per {per}",) * 2)
                     for name in ("int8", "e4m3", "e5m2")]  # fmt: skip
            assert costs == sorted(costs)
        for name in ("e4m3", "e5m2"):
            one = f"{name} per tensor"
            times = rise(rows, model, one, "bf16") / rise(rows, model, "bf16", one)
            assert 7 < times < 52
        better_k = rise(rows, model, "int8 per token", "e5m2 per tensor")
        assert rise(rows, model, "e5m2 per tensor", "int8 per token") > 5 * better_k
    one = "int8 per tensor"
    assert rise(rows, "smollm2", one, "bf16") > 3 * rise(rows, "smollm2", "bf16", one)
    for pair in ((one, "bf16"), ("bf16", one)):  # chance, says the lesson
        assert rows["bytes", *pair]["low"] <= 1.000005


def test_the_function_of_the_lesson_does_not_touch_what_it_is_given():
    names = {"torch": torch}
    exec(cell("def attend_folded"), names)
    q, k = torch.randn(2, 8), torch.randint(-127, 128, (5, 8), dtype=torch.int8)
    scales = torch.rand(5)
    before = [x.clone() for x in (q, k, scales)]
    names["attend_folded"](q, k, k, scales, scales, 0.3)
    assert all(map(torch.equal, before, (q, k, scales)))


@pytest.mark.parametrize("there", [True, False])
def test_a_recorded_gpu_run_is_shown_and_a_missing_one_is_said_to_be_missing(there):
    row = {"kind": "quantised", "B": 8, "Lk": 32768, "bf16_ms": 0.4, "int8_ms": 0.25,
           "fp8_e5m2_ms": 0.375}  # fmt: skip
    record = {"gpu": "made up", "date": "2026-01-02T03", "torch": "2", "rows": [row, {"kind": "x"}]}
    out = printed(cell('recorded("variants")'), {"recorded": lambda _: record if there else None})
    if there:
        assert "made up · 2026-01-02" in out
        assert "B = 8, 32,768 keys, ms: bf16 0.400, int8 0.250, fp8_e5m2 0.375" in out
    else:
        assert "No GPU run of this course is recorded yet" in out
