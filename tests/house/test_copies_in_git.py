"""Learners' copies and git: working leaves it clean, and an update never costs an answer."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_course import ANSWER, EXERCISE, LESSON, STUB, lay, names, notebook, put

from course.notebooks import copies, history
from course.notebooks.files import ROOT


@pytest.fixture
def course(tmp_path: Path) -> Path:
    return lay(tmp_path)


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(root), *who, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def cloned(course: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same course in git: the repository it is pulled from, and a learner's clone."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    shutil.copy(ROOT / ".gitignore", course)
    git(course, "init", "-q")
    git(course, "add", ".")
    git(course, "commit", "-qm", "first")
    clone = tmp_path_factory.mktemp("learner") / "clone"
    git(course, "clone", "-q", str(course), str(clone))
    return course, clone


def update(repository: Path, name: str, content: bytes) -> None:
    put(repository, name, content)
    git(repository, "commit", "-qam", "newer")


def test_working_leaves_git_clean_and_a_pull_keeps_the_answer(cloned: tuple[Path, Path]) -> None:
    repository, clone = cloned
    copies.lay_out(clone)
    put(clone / "work", LESSON, notebook("print(1)", text="see", ran=True))
    mine = put(clone / "work", EXERCISE, notebook(ANSWER, ran=True))
    put(clone, ".progress.json", b"{}")
    assert git(clone, "status", "--porcelain") == ""
    update(repository, EXERCISE, notebook(STUB, text="second"))
    git(clone, "pull", "-q")  # raises if it aborts
    (said,) = [text for text in copies.lay_out(clone) if "new version" in text]
    assert "exercises/03_double (new).ipynb" in said
    assert mine.read_bytes() == notebook(ANSWER, ran=True)
    new = mine.with_name("03_double (new).ipynb")
    assert new.read_bytes() == notebook(STUB, text="second")
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.parametrize("name", [LESSON, EXERCISE])
def test_what_was_edited_in_place_is_carried_over_as_somebodys(
    cloned: tuple[Path, Path], name: str
) -> None:
    repository, clone = cloned
    put(clone, name, notebook(STUB, "mine = 1"))
    copies.lay_out(clone)
    mine = clone / "work" / name
    assert mine.read_bytes() == notebook(STUB, "mine = 1")
    git(clone, "checkout", "-q", ".")
    update(repository, name, notebook(STUB, text="second"))
    git(clone, "pull", "-q")
    copies.lay_out(clone)
    assert mine.read_bytes() == notebook(STUB, "mine = 1")
    assert mine.with_name("03_double (new).ipynb").exists()


def test_what_git_does_not_track_is_not_the_courses(cloned: tuple[Path, Path]) -> None:
    _, clone = cloned
    put(clone, "exercises/03_double-Copy1.ipynb", notebook(ANSWER))
    copies.lay_out(clone)
    assert names(clone / "work/exercises") == ["03_double.ipynb"]


def test_git_knows_nothing_where_it_is_not_in_charge(
    course: Path, cloned: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, clone = cloned
    assert history.tracked(clone) == {LESSON, EXERCISE, "solutions/03_double.ipynb"}
    inside = clone / "unpacked"
    put(inside, EXERCISE, notebook(STUB))  # a course unpacked in someone else's repository
    assert history.tracked(inside) is None
    copies.lay_out(inside)
    assert (inside / "work" / EXERCISE).exists()
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert history.tracked(clone) is None and history.edited(clone) == set()


def test_no_tool_of_ours_looks_into_work(course: Path) -> None:
    """ruff heeds .gitignore only in a repository; `make format` must not touch what is yours."""
    shutil.copy(ROOT / "pyproject.toml", course)
    mine = put(course / "work", "exercises/mine.py", b"import   os\n")
    for task in (["check", "--fix"], ["format"]):
        subprocess.run([sys.executable, "-m", "ruff", *task, "."], cwd=course, capture_output=True)
    assert mine.read_bytes() == b"import   os\n"
