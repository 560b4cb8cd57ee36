"""The progress file: what is kept, and what is never lost."""

import json

import pytest
from doubling import DOUBLE

from course import progress
from course.check import catalogue


@pytest.fixture(autouse=True)
def own_progress(monkeypatch, tmp_path):
    """Keep the learner's own progress out of these tests."""
    monkeypatch.setenv("COURSE_PROGRESS_FILE", str(tmp_path / "progress.json"))


def test_progress_keeps_the_first_day_and_sorts_by_number():
    progress.file().write_text(json.dumps({"solved": {"3.2": "2020-01-01"}}))
    for exercise_id in ("10.1", "3.2", "3.10"):
        progress.record(exercise_id)
    assert [*progress.solved()] == ["3.2", "3.10", "10.1"]
    assert progress.solved()["3.2"] == "2020-01-01"


@pytest.mark.parametrize("content", ["{", "[]", '{"solved": {"3.1": 5}}', '{"x": 1}', "\xff"])
def test_unreadable_progress_is_kept_aside(content, capsys):
    progress.file().write_bytes(content.encode("latin-1"))
    progress.record("3.1")
    assert [*progress.solved()] == ["3.1"]
    aside = progress.file().with_name("progress.json.unreadable-1")
    assert aside.read_bytes() == content.encode("latin-1")
    assert "can't be read; it is kept as progress.json.unreadable-1" in capsys.readouterr().out


def test_grading_is_nobodys_progress(monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    progress.record("3.1")
    assert progress.solved() == {}


def test_solutions_are_nobodys_progress(tmp_path, monkeypatch):
    (tmp_path / "solutions").mkdir()
    monkeypatch.chdir(tmp_path / "solutions")
    progress.record("3.1")
    assert progress.solved() == {}


def test_show_tells_what_is_done_and_what_is_next(monkeypatch, capsys):
    monkeypatch.setattr(catalogue, "lessons", lambda: ["09"])
    monkeypatch.setattr(catalogue, "exercises", lambda lesson: (DOUBLE,))
    progress.show()
    assert "○" in (text := capsys.readouterr().out) and "next: 9.1 double" in text
    progress.record("9.1")
    progress.show()
    assert "1 of 1 exercises solved" in (text := capsys.readouterr().out) and "●" in text
    progress.forget()
    assert progress.solved() == {}
