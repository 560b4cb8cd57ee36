"""`make exercises` and `make check`: generated files are renewed, answers are never overwritten."""

import shutil
import subprocess
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course.notebooks import files, generate, rules_of_kinds
from course.notebooks.files import text

MARKS = {"grade_id": "ex_9_1", **rules_of_kinds.SOLUTION}


def solution(prose: str = "Double it.") -> str:
    code = "def f(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION"
    cells = [new_markdown_cell(prose, id="ask")]
    return text(
        new_notebook(cells=[*cells, new_code_cell(code, id="c", metadata={"nbgrader": MARKS})])
    )


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A project with one solutions notebook, not in git; the path of that notebook."""
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    (tmp_path / "solutions").mkdir()
    path = tmp_path / "solutions" / "09_double.ipynb"
    path.write_text(solution(), encoding="utf-8")
    return path


@pytest.fixture
def goal(source: Path) -> Path:
    """Its exercises, generated; nothing is in git."""
    assert generate.generate([source]) == 0
    return generate.target(source)


def commit(root: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (root / ".gitignore").write_text(".jupyter/\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", str(root), *arguments], check=True)


@pytest.fixture
def committed(goal: Path) -> Path:
    """The same in git, as after a clone: no record of what was generated here."""
    commit(goal.parents[1])
    (generate.ROOT / generate.MADE).unlink()
    return goal


def answer(goal: Path) -> str:
    """Solve the exercise in place, as a learner would; return what is in the file then."""
    solved = goal.read_text().replace("raise NotImplementedError()", "return 2 * x")
    goal.write_text(solved)
    return solved


def test_drift_is_seen_and_the_advice_mends_it(source: Path) -> None:
    assert generate.drifted([source]) == [
        "exercises/09_double.ipynb is missing: run `make exercises`"
    ]
    generate.generate([source])
    assert generate.drifted([source]) == []
    source.write_text(solution("Double it, please."))
    (complaint,) = generate.drifted([source])
    assert "is not what solutions/09_double.ipynb generates: run `make exercises`" in complaint
    assert generate.generate([source]) == 0 and generate.drifted([source]) == []


def test_a_maintainer_edits_and_generates_again_and_again(committed: Path, source: Path) -> None:
    for prose in ("one", "two", "three"):
        source.write_text(solution(prose))
        assert generate.generate([source]) == 0
        assert prose in committed.read_text()


def test_executed_exercises_are_nobodys_answer(committed: Path, source: Path) -> None:
    committed.write_text(committed.read_text().replace('"outputs": []', '"outputs":  []'))
    source.write_text(solution("newer"))
    assert generate.generate([source]) == 0 and "newer" in committed.read_text()


@pytest.mark.parametrize("place", ["goal", "committed"])
@pytest.mark.parametrize("newer", [False, True], ids=["solved", "solved, solutions changed"])
def test_answers_are_kept_and_the_advice_says_so(
    place: str, newer: bool, source: Path, request: pytest.FixtureRequest, capsys
) -> None:
    goal = request.getfixturevalue(place)
    solved = answer(goal)
    if newer:
        source.write_text(solution("newer"))
    (complaint,) = generate.drifted([source])
    assert "run `make exercises`" not in complaint
    assert "it has answers or notes" in complaint and "work/exercises/" in complaint
    assert generate.generate([source]) == 1
    assert "exercises/09_double.ipynb kept" in capsys.readouterr().out
    assert goal.read_text() == solved


@pytest.mark.parametrize("content", ["", "{", '{"cells": []}'])
def test_what_was_not_generated_is_kept(content: str, committed: Path, source: Path) -> None:
    committed.write_text(content)
    assert generate.generate([source]) == 1 and committed.read_text() == content


def test_an_added_note_is_kept(committed: Path, source: Path) -> None:
    noted = committed.read_text().replace("Double it.", "Double it. I see!")
    committed.write_text(noted)
    assert generate.generate([source]) == 1 and committed.read_text() == noted


def test_committed_answers_are_kept(goal: Path, source: Path) -> None:
    solved = answer(goal)
    commit(goal.parents[1])
    source.write_text(solution("newer"))
    assert generate.generate([source]) == 1 and goal.read_text() == solved


def test_untracked_notebooks_are_left_alone(committed: Path, source: Path) -> None:
    copy = committed.with_name("09_double-Copy1.ipynb")
    copy.write_text(answer(committed))
    subprocess.run(["git", "-C", str(committed.parents[1]), "checkout", "-q", "."], check=True)
    assert generate.drifted([source]) == [], "not the course's, so no complaint"
    assert generate.generate([source]) == 0 and copy.exists()


def test_exercises_whose_solution_is_gone_are_removed(committed: Path, source: Path) -> None:
    source.rename(source.with_name("10_double.ipynb"))
    complaints = generate.drifted([])
    assert complaints == [
        "exercises/09_double.ipynb has no solution notebook: " + generate.GENERATE
    ]
    generate.generate([])
    assert not committed.exists()


def test_without_git_a_stray_notebook_is_named_and_kept(goal: Path, source: Path) -> None:
    stray = goal.with_name("10_stray.ipynb")
    stray.write_text(solution())
    assert (
        "10_stray.ipynb has no solution notebook: it has answers" in generate.drifted([source])[0]
    )
    assert generate.generate([source]) == 1 and stray.exists()
