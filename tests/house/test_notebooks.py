"""The notebooks follow their rules, and the exercises are what the solutions generate."""

import ast
import builtins
import copy
import os
import shutil
from functools import partial
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course.notebooks import (
    answers,
    census,
    copies,
    files,
    generate,
    links,
    lint,
    rules,
    rules_of_kinds,
)
from course.notebooks.files import ROOT, normalise, notebooks, read, text

LESSONS, SOLUTIONS = notebooks("notebooks"), notebooks("solutions")
EVERY = LESSONS + SOLUTIONS


def name(path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", EVERY, ids=name)
def test_lint(path, record_property):
    errors = [finding for finding in lint.lint(path) if finding.error]
    assert not errors, "\n".join(f"{f.cell}: {f.message}" for f in errors)
    if path in LESSONS:
        record_property("exercised", ("lessons", path.stem))


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_exercises_are_what_solutions_give(path):
    stored = generate.target(path).read_text(encoding="utf-8")
    same = stored == text(generate.exercise_from(read(path)))
    assert same, "\n".join(generate.drifted([path]))


def test_no_exercises_without_solutions():
    assert generate.orphans() == []


@pytest.mark.parametrize("path", EVERY, ids=name)
def test_stored_in_the_normal_form(path):
    assert path.read_text(encoding="utf-8") == text(normalise(read(path)))


@pytest.mark.parametrize("path", notebooks("exercises"), ids=name)
def test_exercises_give_nothing_away(path):
    nb = read(path)
    assert not any(cell.get("outputs") for cell in nb.cells)
    assert "SOLUTION" not in path.read_text(encoding="utf-8")
    assert not answers.answered(path.read_bytes())


def test_nothing_but_notebooks():
    for folder in ("notebooks", "solutions", "exercises"):
        stray = [
            path.name
            for path in (ROOT / folder).glob("*")
            if path.suffix != ".ipynb" and path.name != ".ipynb_checkpoints"
        ]
        assert not stray, f"{folder}/ contains {stray}"


@pytest.fixture(scope="session")
def work(tmp_path_factory) -> Path:
    """Learners' copies of everything, in a folder of the same layout."""
    root = tmp_path_factory.mktemp("project")
    for folder in ("notebooks", "exercises", "solutions"):
        shutil.copytree(ROOT / folder, root / folder)
    copies.lay_out(root)
    return root / "work"


@pytest.mark.parametrize("path", [*EVERY, *notebooks("exercises")], ids=name)
def test_every_link_resolves_here_and_in_work(path, work):
    nb, copy = read(path), work / path.relative_to(ROOT)
    assert list(links.resolve(nb, path)) == []
    followed = [
        Path(os.path.normpath(copy.parent / link))
        for cell in rules.cells(read(copy), "markdown")
        for link in links.targets(cell.source)
    ]
    assert followed
    for goal in followed:
        inside = goal.is_relative_to(work)
        assert goal.exists() if inside else (ROOT / goal.relative_to(work.parent)).exists(), goal


@pytest.mark.parametrize("path", notebooks("exercises"), ids=name)
def test_exercises_link_to_lesson_answers_and_next_lesson(path):
    assert list(links.way(read(path), path)) == []


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_taking_the_introduction_literally_finds_all_names(path):
    """Run the imports, then only solutions and checks: nothing else may be needed."""
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    known = {*dir(builtins)}
    for cell in [code[0], *(cell for cell in code if files.grade_id(cell))]:
        bound, used = set(), set()
        for node in ast.walk(ast.parse(cell.source)):
            match node:
                case ast.Name(id=one, ctx=ast.Load()):
                    used.add(one)
                case ast.Name(id=one) | ast.arg(arg=one):
                    bound.add(one)
                case ast.FunctionDef(name=one) | ast.ClassDef(name=one):
                    bound.add(one)
                case ast.alias(name=one, asname=other):
                    bound.add((other or one).split(".")[0])
        known |= bound
        assert used <= known, f"{cell.id} needs {used - known}"


def test_census_counts_what_is_there():
    table = census.census()
    assert [*table] == [path.stem for path in LESSONS]
    for path in LESSONS:
        code = sum(cell.cell_type == "code" for cell in read(path).cells)
        assert table[path.stem]["code cells"] == code > 0


# ---- the tools themselves ----------------------------------------------------------------------

MARKS = {"grade_id": "ex_9_1", **rules_of_kinds.SOLUTION}
CHECKS = {"grade_id": "check_9_1", "points": 1, **rules_of_kinds.CHECK}
ASKED = """### Exercise 9.1 · Double it
`difficulty ●○○  ·  importance ●●●  ·  5 min`
<details></details><details></details><details></details>"""
SOLVED = "def f(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION"


def small() -> nbformat.NotebookNode:
    cells = [
        new_markdown_cell(ASKED, id="ask"),
        new_code_cell(SOLVED, id="solve", metadata={"nbgrader": MARKS}),
        new_code_cell('check("9.1 double", f)', id="check", metadata={"nbgrader": CHECKS}),
        new_markdown_cell("Why it works", id="why", metadata={"tags": ["answers-only"]}),
    ]
    return new_notebook(cells=cells)


def test_generation_clears_solutions_and_keeps_ids():
    solution = small()
    before = copy.deepcopy(solution)
    exercise = generate.exercise_from(solution)
    assert solution == before, "the solution notebook itself must stay as it is"
    assert [cell.id for cell in exercise.cells] == ["ask", "solve", "check"]
    assert "2 * x" not in exercise.cells[1].source
    assert "raise NotImplementedError()" in exercise.cells[1].source
    assert exercise.cells[1].source.startswith("def f(x):\n    # YOUR CODE HERE")
    assert exercise.cells[2].metadata.editable is False


def test_generation_is_deterministic():
    assert text(generate.exercise_from(small())) == text(generate.exercise_from(small()))


def faults(nb, rule) -> list[str]:
    return [finding.message for finding in rule(nb)]


def broken(change) -> nbformat.NotebookNode:
    nb = small()
    change(nb)
    return nb


FAULTS = {
    "two cells of one id": (rules.ids, lambda nb: nb.cells[1].update(id="ask"), "2 cells"),
    "python's version": (
        rules.metadata,
        lambda nb: nb.metadata.update(language_info={"version": "3.11.1"}),
        "version",
    ),
    "timings": (
        rules.metadata,
        lambda nb: nb.cells[1].metadata.update(execution={}),
        "times",
    ),
    "long cell": (
        rules.lengths,
        lambda nb: nb.cells.append(new_code_cell("x = 1\n" * 13)),
        "13 lines",
    ),
    "figure without words": (
        rules.words_on_figures,
        lambda nb: nb.cells.append(new_code_cell("x = 1\nfigures.merge(x)")),
        "no text",
    ),
    "machine path": (
        rules.machine_paths,
        lambda nb: nb.cells.append(new_markdown_cell("see /home/ann/notes")),
        "path",
    ),
    "address": (
        rules.machine_paths,
        lambda nb: nb.cells[1].outputs.append(
            new_output("stream", text="<Line2D at 0x7f44aedce990>")
        ),
        "address",
    ),
    "not run": (rules.executed, lambda nb: None, "top to bottom"),
    "error": (
        rules.executed,
        lambda nb: nb.cells[1].outputs.append(new_output("error", ename="ValueError")),
        "ValueError",
    ),
    "no promise of hints": (
        rules_of_kinds.every_exercise,
        lambda nb: nb.cells[0].update(source=ASKED.replace("<details></details>", "", 1)),
        "2 hints",
    ),
    "no ratings": (
        rules_of_kinds.every_exercise,
        lambda nb: nb.cells[0].update(source=ASKED.replace("difficulty", "")),
        "difficulty",
    ),
    "no check": (
        rules_of_kinds.every_exercise,
        lambda nb: nb.cells.pop(2),
        "no check cell",
    ),
    "wrong metadata": (
        rules_of_kinds.every_exercise,
        lambda nb: nb.cells[1].metadata.nbgrader.update(solution=False),
        "metadata",
    ),
    "solution outside": (
        rules_of_kinds.markers,
        lambda nb: nb.cells.append(new_code_cell(SOLVED)),
        "outside",
    ),
    "imports not mentioned": (rules_of_kinds.imports_first, lambda nb: None, "does not say"),
    "no imports": (rules_of_kinds.imports_first, lambda nb: None, "does not import"),
    "dead link": (
        partial(links.resolve, path=LESSONS[0]),
        lambda nb: nb.cells[0].update(source="[gone](../exercises/99_gone.ipynb)"),
        "leads nowhere: ../exercises/99_gone.ipynb",
    ),
    "no way on": (
        partial(links.way, path=LESSONS[0]),
        lambda nb: nb.cells[-1].update(source="[skipped one](02_decode_phase.ipynb)"),
        "to notebooks/01_naive_attention.ipynb",
    ),
    "no way to the answers": (
        partial(links.way, path=SOLUTIONS[0]),
        lambda nb: None,
        "to solutions/00_start_here.ipynb",
    ),
    "no recap": (rules_of_kinds.ending, lambda nb: None, "Recap"),
    "a listing": (
        rules_of_kinds.prose,
        lambda nb: nb.cells.append(new_code_cell("x = 1\n" * 30)),
        "listing",
    ),
}


@pytest.mark.parametrize("rule, change, says", FAULTS.values(), ids=FAULTS)
def test_each_rule_can_fail(rule, change, says):
    assert any(says in message for message in faults(broken(change), rule))


def test_a_sound_notebook_has_no_fault():
    silent = (rules.ids, rules.metadata, rules.lengths, rules.words_on_figures)
    for rule in (*silent, rules.machine_paths, rules_of_kinds.markers):
        assert faults(small(), rule) == []
    only = faults(small(), rules_of_kinds.every_exercise)
    assert only == ["1 exercises; a notebook has 2 to 6"]


def test_links_are_told_from_code_and_the_web():
    prose = "[a](b.ipynb#s) [w](https://x.org) [h](#s) `k[i](x)`\n```\nc[g](d)\n```"
    assert links.targets(prose) == ["b.ipynb"]


def test_normal_form_drops_what_varies():
    nb = small()
    nb.metadata.widgets = {"state": {}}
    nb.metadata.language_info = {"name": "python", "version": "3.11.7"}
    nb.cells[1].metadata.execution = {"iopub.status.busy": "now"}
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "slider"}
    nb.cells[1].outputs.append(new_output("display_data", data=view))
    normalise(nb)
    stored = text(nb)
    assert "widget" not in stored and "3.11" not in stored and "busy" not in stored
    assert "slider" in stored
