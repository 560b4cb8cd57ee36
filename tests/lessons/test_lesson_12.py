"""Lesson 12 quotes the kernels word for word, and says truly how its kernel differs from 09's."""

import contextlib
import difflib
import io
import re

import pytest
from quotes import lines_of, quoted_lines

from course import recorded
from course.notebooks.files import ROOT, read

LESSON = "12_paged_kv_cache.ipynb"


def cells(lesson: str, kind: str = "code") -> list[str]:
    return [c.source for c in read(ROOT / "notebooks" / lesson).cells if c.cell_type == kind]


def kernel(lesson: str, name: str) -> list[str]:
    """The body of a kernel in a lesson, as lines."""
    source = next(text for text in cells(lesson) if f"def {name}(" in text)
    return source[source.index("\n    start, stop") :].strip("\n").splitlines()


def test_every_quoted_line_is_in_the_kernel():
    quoted = quoted_lines(LESSON)
    assert len(quoted) >= 6
    assert [line for line in quoted if line not in lines_of("flash_decoding/attend")] == []


def test_the_kernel_differs_from_lesson_09_as_the_lesson_says():
    old = kernel("09_flash_decoding_triton.ipynb", "split_one_head")
    new = kernel(LESSON, "paged_one_head")
    found = [line for line in difflib.ndiff(old, new) if line[0] in "+-"]
    said = re.search(r"```diff\n(.*?)```", "\n".join(cells(LESSON, "markdown")), re.S)[1]
    assert [line[0] + line[2:] for line in found] == said.splitlines()


def test_key_range_is_lesson_09s():
    ours, theirs = (
        next(text for text in cells(lesson) if "def key_range(" in text)
        for lesson in (LESSON, "09_flash_decoding_triton.ipynb")
    )
    assert ours == theirs


@pytest.mark.parametrize("there", [True, False])
def test_a_recorded_run_is_shown_and_a_missing_one_is_said_to_be_missing(there, monkeypatch):
    row = {"kind": "paged", "B": 1, "Lk": 16384, "contiguous_ms": 0.1, "paged_256_ms": 0.11,
           "paged_16_ms": 0.125}  # fmt: skip
    record = {"gpu": "made up", "date": "2026-01-02T03", "torch": "2", "rows": [row, {"kind": "x"}]}
    monkeypatch.setattr(
        recorded, "load", lambda name: {"variants": record}[name] if there else None
    )
    cell = next(text for text in cells(LESSON) if 'recorded("variants")' in text)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(cell, {})
    if there:
        assert "made up · 2026-01-02" in out.getvalue()
        assert (
            "16,384 keys, ms: contiguous 0.100, paged_256 0.110, paged_16 0.125" in out.getvalue()
        )
    else:
        assert "No GPU run of this course is recorded yet" in out.getvalue()
