"""Every exercise of every lesson: right answers pass, and each wrong one is named."""

import ast
import contextlib
import functools
import re
from pathlib import Path

import pytest

from course.check import catalogue, judge
from course.check.observe import Raised
from course.check.report import Status
from course.check.rewritten import source_of
from course.notebooks.files import ROOT, asked, grade_id, read

LESSONS = catalogue.lessons()
SEEDS = (1, 2, 3)


def specs() -> list:
    """All exercises; those of a lesson whose specs need triton are left out if it is missing."""
    found = []
    for lesson in LESSONS:
        with contextlib.suppress(catalogue.NeedsPackage):
            found += catalogue.exercises(lesson)
    return found


SPECS = specs()
MISTAKES = [(exercise, mistake) for exercise in SPECS for mistake in exercise.mistakes]
each_exercise = pytest.mark.parametrize("exercise", SPECS, ids=lambda exercise: exercise.id)
each_mistake = pytest.mark.parametrize(
    ("exercise", "mistake"), MISTAKES, ids=[f"{x.id} {mistake.name}" for x, mistake in MISTAKES]
)


def notebook(folder: str, lesson: str) -> Path:
    """The notebook of a lesson in one of the three folders; the test fails unless there is one."""
    found = sorted((ROOT / folder).glob(f"{lesson}_*.ipynb"))
    assert len(found) == 1, f"{folder}/ must have one notebook of lesson {lesson}: {found}"
    return found[0]


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("cells")


@functools.cache
def namespace(folder: str, lesson: str, scratch: Path) -> dict:
    """What the cells of a notebook define, except its checks.

    Each cell becomes a file, since Triton reads a kernel's source from its file.
    """
    path, names = notebook(folder, lesson), {"__name__": "__main__"}
    with contextlib.chdir(path.parent):
        for i, cell in enumerate(read(path).cells):
            if cell.cell_type == "code" and not grade_id(cell).startswith("check_"):
                file = scratch / f"{folder}_{lesson}_{i}.py"
                file.write_text(cell.source, encoding="utf-8")
                with _not_written_yet(folder):
                    exec(compile(cell.source, str(file), "exec"), names)
    return names


@contextlib.contextmanager
def _not_written_yet(folder: str):
    """Let a cell of exercises/ fail that uses an answer: it is not written yet."""
    try:
        yield
    except Exception as error:
        if folder != "exercises" or not Raised(error).unwritten:
            raise


def need(exercise) -> None:
    """Skip an exercise that can't be checked: an unverified pass is not a pass."""
    if missing := exercise.missing():
        pytest.skip(f"{', '.join(missing)} is not installed")


def seeds(exercise) -> tuple[int, ...]:
    return SEEDS[:1] if "triton" in exercise.needs else SEEDS  # the interpreter is slow


def definition(tree: ast.Module, name: str) -> ast.FunctionDef | ast.ClassDef:
    kinds = ast.FunctionDef, ast.ClassDef
    return next(x for x in tree.body if isinstance(x, kinds) and x.name == name)


def bare(answer: ast.FunctionDef | ast.ClassDef) -> str:
    """The code of a function or class without docstrings and annotations of types."""
    for part in ast.walk(answer):
        if isinstance(part, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(part):
            part.body = part.body[1:]
        if isinstance(part, ast.FunctionDef):
            part.returns = None
        if isinstance(part, ast.arg) and "constexpr" not in ast.unparse(part):
            part.annotation = None
    return ast.unparse(answer)


@each_exercise
def test_the_solution_passes(exercise, scratch, record_property):
    need(exercise)
    answer = namespace("solutions", exercise.lesson, scratch)[exercise.solution_name]
    for seed in seeds(exercise):
        report = judge(exercise, answer, seed=seed)
        assert report.status is Status.PASS, f"\n{report}"
    record_property("exercised", ("exercises", exercise.id))
    for prop in exercise.properties:
        record_property("exercised", ("checks", f"{exercise.id} {prop.name}"))


@each_exercise
def test_the_right_answer_is_the_solution(exercise):
    """So that mistakes are made of what learners are shown."""
    cell = next(
        one.solution.source
        for one in asked(read(notebook("solutions", exercise.lesson)))
        if one.exercise_id == exercise.id
    )
    shown, ours = (
        bare(definition(ast.parse(source), exercise.solution_name))
        for source in (cell, source_of(exercise.right))
    )
    assert ours == shown


@each_exercise
def test_correct_but_different_answers_pass(exercise):
    need(exercise)
    assert exercise.also_right, "a check judges behaviour, not form: show it on a different answer"
    for answer in exercise.also_right:
        for seed in seeds(exercise):
            report = judge(exercise, answer, seed=seed)
            assert report.status is Status.PASS, f"\n{report}"


@each_exercise
def test_the_stub_fails_as_not_written_yet(exercise, scratch):
    need(exercise)
    stub = namespace("exercises", exercise.lesson, scratch)[exercise.solution_name]
    report = judge(exercise, stub, seed=1)
    assert report.status is Status.FAIL and report.unwritten, f"\n{report}"
    assert "not written yet" in report.headline
    assert report.mistake is None


@each_mistake
def test_the_mistake_fails_and_is_named(exercise, mistake, record_property):
    need(exercise)
    for seed in seeds(exercise):
        report = judge(exercise, mistake.implementation, seed=seed)
        assert report.status is Status.FAIL, f"not noticed with seed {seed}\n{report}"
        assert report.mistake is mistake, f"seed {seed}, recognised as {report.mistake}\n{report}"
    told = " ".join(str(report).split())
    assert " ".join(mistake.says.replace("**", "").split()) in told
    record_property("exercised", ("mistakes", f"{exercise.id} {mistake.name}"))


@each_exercise
def test_spec_is_sound(exercise):
    assert len(exercise.mistakes) >= 3
    for texts in (
        [mistake.name for mistake in exercise.mistakes],
        [mistake.says for mistake in exercise.mistakes],
        [prop.name for prop in exercise.properties],
    ):
        assert len({*texts}) == len(texts) and all(text.strip() for text in texts), texts
    assert re.fullmatch(r"\d+\.\d+", exercise.id) and "\n" not in exercise.label
    for prop in exercise.properties:
        assert len(prop.name) <= 30, f"{prop.name!r} is too long for a name"


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_spec_has_its_cells_and_every_cell_its_spec(lesson):
    try:
        exercises = catalogue.exercises(lesson)
    except catalogue.NeedsPackage as error:
        pytest.skip(error.reason)
    written = {one.exercise_id: one for one in asked(read(notebook("solutions", lesson)))}
    assert [exercise.id for exercise in exercises] == list(written)
    for exercise in exercises:
        one = written[exercise.id]
        call = f'check("{exercise.label}", {exercise.solution_name})'
        assert call in one.check.source
        assert f"### Exercise {exercise.id} · {exercise.title}" in one.text


def test_every_solutions_notebook_has_specs():
    numbers = {path.name[:2] for path in (ROOT / "solutions").glob("*.ipynb")}
    assert numbers == {*LESSONS}


@each_exercise
def test_sections_to_go_back_to_exist(exercise):
    lesson = read(notebook("notebooks", exercise.lesson))
    text = "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^##+ +(.+?)\s*$", text, re.M)
    pointers = (exercise.section, *(x.see for x in (*exercise.properties, *exercise.mistakes)))
    for section in {pointer for pointer in pointers if pointer}:
        assert section in headings, f"{section!r} is not a heading of lesson {exercise.lesson}"


def test_ids_are_unique():
    ids = [exercise.id for exercise in SPECS]
    assert len({*ids}) == len(ids)
