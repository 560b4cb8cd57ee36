"""Learners' copies in work/: renewed where nobody wrote anything, never overwritten otherwise."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from small_course import ANSWER, EXERCISE, LESSON, STUB, lay, names, notebook, put

from course.notebooks import copies
from course.notebooks.answers import sources


@pytest.fixture
def course(tmp_path: Path) -> Path:
    return lay(tmp_path)


def test_the_first_start_copies_all(course: Path) -> None:
    (said,) = copies.lay_out(course)
    assert said.startswith("Copied to work/") and EXERCISE in said
    assert (course / "work" / EXERCISE).read_bytes() == notebook(STUB)
    assert (course / "work/solutions/03_double.ipynb").is_file()
    assert copies.lay_out(course) == [], "a second start has nothing to say"


def test_links_out_of_the_three_folders_go_one_further_up(course: Path) -> None:
    copies.lay_out(course)
    assert b"](../../reference/a.py)" in (course / "work" / LESSON).read_bytes()


@pytest.mark.parametrize("name", [LESSON, EXERCISE])
@pytest.mark.parametrize("ran", [False, True], ids=["unopened", "executed"])
def test_what_nobody_wrote_in_is_renewed(course: Path, name: str, ran: bool) -> None:
    copies.lay_out(course)
    old, new = (notebook(STUB, text=f"{which} version") for which in ("old", "new"))
    put(course, name, old)
    copies.lay_out(course)
    if ran:
        put(course / "work", name, notebook(STUB, text="old version", ran=True))
    put(course, name, new)
    (said,) = copies.lay_out(course)
    assert said.startswith("Renewed") and name in said
    assert (course / "work" / name).read_bytes() == new
    assert names((course / "work" / name).parent) == ["03_double.ipynb"]


WRITTEN = {
    "answer": notebook(ANSWER),
    "answer, executed": notebook(ANSWER, ran=True),
    "added cell": notebook(STUB, "mine = 1"),
    "deleted cell": notebook(),
    "note": notebook(STUB, text="first version. I see!"),
    "half a file": notebook(STUB)[:200],
    "empty file": b"",
    "not a notebook": b'{"cells": 3}',
    "not text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("name", [LESSON, EXERCISE])
@pytest.mark.parametrize("mine", WRITTEN.values(), ids=WRITTEN)
def test_what_somebody_wrote_is_kept_and_the_new_version_is_beside_it(
    course: Path, name: str, mine: bytes
) -> None:
    put(course, name, notebook(STUB))
    copies.lay_out(course)
    put(course / "work", name, mine)
    assert not any("new version" in text for text in copies.lay_out(course))
    new = notebook(STUB, text="second version")
    put(course, name, new)
    (said,) = copies.lay_out(course)
    beside = (course / "work" / name).with_name("03_double (new).ipynb")
    assert (course / "work" / name).read_bytes() == mine
    assert beside.read_bytes() == new
    assert "yours is kept" in said and f"{name[:-6]} (new).ipynb" in said and said.count(". ") == 0
    assert not any("new version" in text for text in copies.lay_out(course)), "said once"


def test_an_unreadable_copy_is_said_at_each_start(course: Path) -> None:
    copies.lay_out(course)
    put(course / "work", EXERCISE, notebook(STUB)[:200])
    for _ in range(2):
        (said,) = copies.lay_out(course)
        assert said.startswith("Not readable as a notebook, and kept") and EXERCISE in said


def test_each_further_version_is_offered_anew(course: Path) -> None:
    copies.lay_out(course)
    put(course / "work", EXERCISE, notebook(ANSWER))
    folder = course / "work/exercises"
    for text in ("second", "third"):  # an offer that nobody has touched gives way to the next
        put(course, EXERCISE, notebook(STUB, text=text))
        assert len(copies.lay_out(course)) == 1
        assert (folder / "03_double (new).ipynb").read_bytes() == notebook(STUB, text=text)
    put(folder, "03_double (new).ipynb", notebook(ANSWER, text="third"))  # solved anew
    put(course, EXERCISE, notebook(STUB, text="fourth"))
    copies.lay_out(course)
    assert (folder / "03_double.ipynb").read_bytes() == notebook(ANSWER)
    assert (folder / "03_double (new).ipynb").read_bytes() == notebook(ANSWER, text="third")
    assert (folder / "03_double (new 2).ipynb").read_bytes() == notebook(STUB, text="fourth")


def test_an_offer_can_be_declined_or_taken(course: Path) -> None:
    copies.lay_out(course)
    mine = put(course / "work", EXERCISE, notebook(ANSWER))
    put(course, EXERCISE, notebook(STUB, text="second"))
    copies.lay_out(course)
    beside = mine.with_name("03_double (new).ipynb")
    beside.unlink()
    assert copies.lay_out(course) == [] and not beside.exists(), "declined is declined"
    put(course, EXERCISE, notebook(STUB, text="third"))
    copies.lay_out(course)
    beside.replace(mine)  # taken: from now on it is renewed again
    copies.lay_out(course)
    put(course, EXERCISE, notebook(STUB, text="fourth"))
    (said,) = copies.lay_out(course)
    assert said.startswith("Renewed") and mine.read_bytes() == notebook(STUB, text="fourth")


def test_a_deleted_copy_comes_back_fresh(course: Path) -> None:
    copies.lay_out(course)
    put(course / "work", EXERCISE, notebook(ANSWER)).unlink()
    copies.lay_out(course)
    assert (course / "work" / EXERCISE).read_bytes() == notebook(STUB)


def test_own_outputs_stay_while_the_course_only_reran(course: Path) -> None:
    copies.lay_out(course)
    mine = put(course / "work", LESSON, notebook(STUB, ran=True))
    put(course, LESSON, notebook(STUB))
    copies.lay_out(course)
    put(course, LESSON, notebook(STUB).replace(b'"outputs": []', b'"outputs":  []'))
    assert copies.lay_out(course) == [] and mine.read_bytes() == notebook(STUB, ran=True)


@pytest.mark.parametrize("record", [None, b"", b"[]", b'{"exercises/03_double.ipynb": 5}'])
def test_without_the_record_nothing_is_overwritten(course: Path, record: bytes | None) -> None:
    copies.lay_out(course)
    mine = put(course / "work", EXERCISE, notebook(ANSWER))
    put(course, EXERCISE, notebook(STUB, text="second"))
    path = course / "work" / copies.RECORD
    path.unlink() if record is None else path.write_bytes(record)
    copies.lay_out(course)
    assert mine.read_bytes() == notebook(ANSWER)
    assert "03_double (new).ipynb" in names(mine.parent)


def test_learners_files_and_removed_lessons_stay(course: Path) -> None:
    copies.lay_out(course)
    note = put(course / "work", "exercises/notes.md", b"mine")
    own = put(course / "work", "exercises/03_double-Copy1.ipynb", notebook(ANSWER))
    (course / EXERCISE).unlink()
    assert copies.lay_out(course) == []
    assert note.read_bytes() == b"mine" and own.read_bytes() == notebook(ANSWER)
    assert (course / "work" / EXERCISE).exists()


def test_an_answer_in_the_course_itself_is_carried_over_and_never_renewed(course: Path) -> None:
    put(course, EXERCISE, notebook(ANSWER))  # solved in place, before work/ was there
    copies.lay_out(course)
    mine = course / "work" / EXERCISE
    assert mine.read_bytes() == notebook(ANSWER)
    copies.lay_out(course)
    put(course, EXERCISE, notebook(STUB, text="second"))
    copies.lay_out(course)
    assert mine.read_bytes() == notebook(ANSWER)
    assert mine.with_name("03_double (new).ipynb").exists()


def test_a_crash_leaves_the_old_file_whole(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies.lay_out(course)
    mine = course / "work" / EXERCISE
    put(course, EXERCISE, notebook(STUB, text="second"))

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", crash)
        copies.lay_out(course)
    assert mine.read_bytes() == notebook(STUB)
    assert names(mine.parent) == ["03_double.ipynb"], "no scratch file is left"
    copies.lay_out(course)
    assert mine.read_bytes() == notebook(STUB, text="second")


@pytest.mark.parametrize("content", [b"", b"{", b'{"cells": []}', notebook(ANSWER)])
def test_a_learners_file_named_like_an_offer_is_kept(course: Path, content: bytes) -> None:
    copies.lay_out(course)
    own = put(course / "work", "exercises/03_double (new).ipynb", content)
    mine = put(course / "work", EXERCISE, notebook(ANSWER))
    put(course, EXERCISE, notebook(STUB, text="second"))
    copies.lay_out(course)
    assert own.read_bytes() == content and mine.read_bytes() == notebook(ANSWER)
    assert own.with_name("03_double (new 2).ipynb").read_bytes() == notebook(STUB, text="second")


def test_an_offer_whose_record_was_lost_is_not_made_twice(course: Path) -> None:
    copies.lay_out(course)
    before = (course / "work" / copies.RECORD).read_bytes()
    mine = put(course / "work", EXERCISE, notebook(ANSWER))
    put(course, EXERCISE, notebook(STUB, text="second"))
    copies.lay_out(course)
    put(course / "work", copies.RECORD, before)  # as if that start had been cut short
    copies.lay_out(course)
    assert names(mine.parent) == ["03_double (new).ipynb", "03_double.ipynb"]


def test_a_copy_that_cannot_be_written_is_said_and_stops_no_other(
    course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = copies.write

    def full(path: Path, content: bytes) -> None:
        if path.parent.name == "exercises":
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(copies, "write", full)
    said = copies.lay_out(course)
    assert said[-1] == f"Not written in work/: {EXERCISE} (No space left on device)."
    assert (course / "work/solutions/03_double.ipynb").exists()


def test_two_starts_at_once(course: Path) -> None:
    copies.lay_out(course)
    mine = put(course / "work", EXERCISE, notebook(ANSWER))
    put(course, EXERCISE, notebook(STUB, text="second"))
    put(course, LESSON, notebook(STUB, text="second"))
    context = multiprocessing.get_context("spawn")
    starts = [context.Process(target=copies.lay_out, args=(course,)) for _ in range(3)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert [start.exitcode for start in starts] == [0, 0, 0]
    assert mine.read_bytes() == notebook(ANSWER)
    assert names(mine.parent) == ["03_double (new).ipynb", "03_double.ipynb"]
    assert (course / "work" / LESSON).read_bytes() == notebook(STUB, text="second")
    assert json.loads((course / "work" / copies.RECORD).read_bytes())[EXERCISE]["offered"]


def test_running_is_not_writing() -> None:
    assert sources(notebook(STUB)) == sources(notebook(STUB, ran=True))
    as_lists = json.loads(notebook(STUB))
    for cell in as_lists["cells"]:
        cell["source"] = "".join(cell["source"]).splitlines(keepends=True)
    assert sources(json.dumps(as_lists).encode()) == sources(notebook(STUB))


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"{}", b'{"cells": [1]}', b"\xff"])
def test_what_is_not_a_notebook_has_no_sources(broken: bytes) -> None:
    assert sources(broken) is None
