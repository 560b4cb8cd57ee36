"""The checker itself: what passes, what fails and with which words, what is never green."""

import contextlib
import dataclasses
import json
import time

import pytest
import torch

from course import progress
from course.check import (
    CheckFailed,
    Exercise,
    Mistake,
    NotVerified,
    Property,
    Seen,
    catalogue,
    check,
    judge,
)
from course.check.report import Status


def _numbers(answer, rng):
    x = torch.randn(3, generator=rng)
    return Seen.of(answer, (x,), wanted=2 * x)


def _zeros(answer, rng):
    return Seen.of(answer, (torch.zeros(2),), wanted=torch.zeros(2))


def double(x):
    return 2 * x


def half(x):
    return x / 2


def plus_one(x):
    return 2 * x + 1


DOUBLE = Exercise(
    id="9.1",
    name="double",
    title="Double it",
    section="1 · Twice",
    solution_name="double",
    properties=(
        Property("numbers", "any three of them", _numbers),
        Property("zeros", "stay zeros", _zeros),
    ),
    mistakes=(
        Mistake("half", "This **halves**.", half),
        Mistake("one more", "This is one too many.", plus_one, see="2 · Else"),
    ),
    alternative=lambda x: x + x,
)


def having(**changes) -> Exercise:
    return dataclasses.replace(DOUBLE, **changes)


def probing(probe, **changes) -> Exercise:
    """An exercise of a single property."""
    return having(properties=(Property("only", "one", probe),), mistakes=(), **changes)


def told(report) -> str:
    return " ".join(str(report).split())


@pytest.fixture
def known(monkeypatch):
    """Make 9.1 an exercise that `check` finds."""
    monkeypatch.setattr(catalogue, "lessons", lambda: ["09"])
    monkeypatch.setattr(catalogue, "exercises", lambda lesson: (DOUBLE,))


@pytest.fixture(autouse=True)
def own_progress(monkeypatch, tmp_path):
    """Keep the learner's own progress out of it."""
    monkeypatch.setenv("COURSE_PROGRESS_FILE", str(tmp_path / "progress.json"))


# ---- verdicts ----------------------------------------------------------------------------------


def test_right_answer_passes_and_says_the_same_whatever_the_seed():
    texts = {str(judge(DOUBLE, double)) for _ in range(5)}
    assert len(texts) == 1
    assert texts.pop().splitlines() == [
        "✓ 9.1 double · 2 of 2 properties hold",
        "  ✓ numbers  any three of them",
        "  ✓ zeros    stay zeros",
    ]


def test_wrong_answer_is_told_with_inputs_result_and_section():
    report = judge(DOUBLE, lambda x: x**2, seed=1)
    assert report.status is Status.FAIL and report.mistake is None
    assert report.headline == "✗ 9.1 double · 1 of 2 properties hold"
    x = torch.randn(3, generator=torch.Generator().manual_seed(1))
    shown = [f"{value:.4g}" for value in (2 * x).tolist()]
    assert f"wanted [{', '.join(shown)}]" in told(report)
    assert "with x = [" in told(report) and "got [" in told(report)
    assert 'See lesson 09, section "1 · Twice".' in told(report)


@pytest.mark.parametrize("mistake", DOUBLE.mistakes, ids=lambda m: m.name)
def test_mistake_is_recognised_in_other_words(mistake):
    others = {"half": lambda y: y * 0.5, "one more": lambda y: y + y + torch.ones_like(y)}
    report = judge(DOUBLE, others[mistake.name])
    assert report.mistake is mistake
    assert mistake.says.replace("**", "") in told(report)
    assert f'section "{mistake.see or DOUBLE.section}"' in told(report)


def test_mistake_must_agree_on_every_property():
    def half_but_one_at_zero(x):
        return x / 2 if x.any() else x + 1

    assert judge(DOUBLE, half_but_one_at_zero).mistake is None


def test_fresh_inputs_every_time_and_the_same_for_one_seed():
    seen = []

    def watching(x):
        seen.append(x.clone())
        return 2 * x

    for seed in (None, None, 5, 5):
        judge(DOUBLE, watching, seed=seed)
    first, second, third, fourth = (torch.stack(seen[6 * i : 6 * i + 3]) for i in range(4))
    assert not torch.equal(first, second)
    assert torch.equal(third, fourth)
    assert not torch.equal(third[0], third[1]), "the trials of a property differ"


def test_every_trial_counts():
    calls = []

    def wrong_the_third_time(x):
        calls.append(x)
        return 2 * x + (len(calls) == 3)

    assert judge(DOUBLE, wrong_the_third_time).status is Status.FAIL


# ---- not written, unfit ------------------------------------------------------------------------


def _stub(x):
    raise NotImplementedError()


@pytest.mark.parametrize("answer", [_stub, lambda x: None, None, ...], ids=repr)
def test_stub_is_not_written_yet(answer):
    report = judge(DOUBLE, answer)
    assert report.status is Status.FAIL and report.unwritten
    assert report.headline == "✗ 9.1 double · not written yet"
    assert "NotImplementedError:" not in str(report)


def test_none_hints_at_the_return_and_may_be_allowed():
    assert "`return` is missing" in told(judge(DOUBLE, lambda x: None))

    def writes(answer, rng):
        x = torch.ones(2)
        answer(x)
        return Seen(x, 2 * torch.ones(2))

    exercise = probing(writes, returns_none=True, changes_inputs=True)
    assert judge(exercise, lambda x: (x.mul_(2) and None) or None).status is not Status.PASS
    assert judge(exercise, lambda x: x.__imul__(2).numel() and None).status is Status.PASS


def test_called_instead_of_handed_over():
    report = judge(DOUBLE, double(torch.ones(3)))
    assert 'check("9.1 double", double)' in told(report)


# ---- what can be the matter --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda x: (2 * x)[None], "The answer should have shape (3,); came (1, 3)."),
        (lambda x: 2 * x.double(), "The answer should have dtype float32; came float64."),
        (lambda x: 2 * x / (x != x[0]), "The answer"),
        (lambda x: torch.full_like(x, torch.nan), "The answer is NaN (not a number) in 3 of 3"),
        (lambda x: [1, 2], "came a list"),
        (lambda x: 2 * x.requires_grad_(), ""),
        (lambda x: x.mul_(2), "It changes its argument `x`"),
        (lambda x: x[5], "It raised IndexError: index 5"),
        (lambda: 0, "It raised TypeError"),
    ],
    ids=["shape", "dtype", "inf", "nan", "list", "grad", "in-place", "raises", "arguments"],
)
def test_general_faults_have_sentences_of_their_own(answer, says):
    report = judge(DOUBLE, answer)
    assert (report.status is Status.PASS) is (says == "")
    assert says in told(report)


def test_exception_is_told_with_the_learners_own_line():
    def broken(x):
        y = x + 1
        return y.no_such_thing

    text = told(judge(DOUBLE, broken))
    assert "It raised AttributeError" in text and "with x = [" in text
    assert "return y.no_such_thing" in text and "observe.py" not in text


def test_result_that_the_probe_cannot_use_is_a_failure_not_a_crash():
    def unpacks(answer, rng):
        a, b = answer(torch.ones(1))
        return Seen(a, b)

    report = judge(probing(unpacks), lambda x: 3)
    assert report.status is Status.FAIL and "TypeError" in told(report)


def test_tuples_name_their_parts():
    def probe(answer, rng):
        wanted = (torch.ones(1), torch.zeros(1))
        return Seen.of(answer, (torch.ones(1),), wanted=wanted, names=("o", "lse"))

    exercise = probing(probe)
    wrong = judge(exercise, lambda x: (x, x))
    assert "The difference is in `lse`." in told(wrong)
    assert "3 values" in told(judge(exercise, lambda x: (x, x, x)))
    assert "(o, lse)" in told(judge(exercise, lambda x: (x, x, x)))


@pytest.mark.parametrize(
    ("got", "wanted", "fine"),
    [
        (3, 3, True),
        (3, 4, False),
        (3.0, 3, True),
        (torch.tensor(3), 3, True),
        (torch.tensor(0.1), 0.1, True),
        (0.1001, 0.1, False),
        (True, True, True),
        (False, True, False),
        ("a", "a", True),
        ("a", "b", False),
        ([(0, 2), (2, 3)], [(0, 2), (2, 3)], True),
        ([(0, 2)], [(0, 2), (2, 3)], False),
        ({"a": 1}, {"a": 1}, True),
        ({"b": 1}, {"a": 1}, False),
        (torch.tensor([torch.nan, 1]), torch.tensor([torch.nan, 1]), True),
        (torch.tensor([0.0, 1]), torch.tensor([torch.nan, 1]), False),
        (torch.tensor(-torch.inf), torch.tensor(-torch.inf), True),
        (torch.tensor(torch.inf), torch.tensor(-torch.inf), False),
        (None, None, True),
    ],
    ids=str,
)
def test_comparison(got, wanted, fine):
    exercise = probing(lambda answer, rng: Seen(got, wanted), alternative=0)
    assert (judge(exercise, 1).status is Status.PASS) is fine


def test_tolerance_is_the_stated_one():
    def probe(answer, rng):
        return Seen.of(answer, (torch.ones(2),), wanted=torch.ones(2), atol=0.1)

    assert judge(probing(probe), lambda x: x + 0.09).status is Status.PASS
    assert judge(probing(probe), lambda x: x + 0.11).status is Status.FAIL


def test_large_tensors_are_told_by_their_worst_entry():
    def probe(answer, rng):
        x = torch.zeros(30, 40)
        return Seen.of(answer, (x,), wanted=x)

    def off(x):
        y = x.clone()
        y[3, 7], y[4, 4] = 5.0, 1.0
        return y

    text = told(judge(probing(probe), off))
    assert "differs in 2 of 1200 entries, the first at [3, 7]; the worst at [3, 7]: got 5" in text
    assert len(text) < 500


def test_endless_answer_is_stopped():
    def endless(x):
        while True:
            with contextlib.suppress(Exception):  # time's up must come through all the same
                time.sleep(0.01)

    start = time.monotonic()
    report = judge(having(seconds=0.3), endless)
    assert time.monotonic() - start < 5
    assert report.status is Status.FAIL and "longer than 0.3 s" in told(report)
    assert "1 more not tried" in told(report)


# ---- not verified ------------------------------------------------------------------------------


def _cannot(answer, rng):
    raise NotVerified("needs a GPU")


def test_not_verified_is_not_a_pass(known, capsys, monkeypatch):
    exercise = having(properties=(*DOUBLE.properties, Property("fast", "on a GPU", _cannot)))
    monkeypatch.setattr(catalogue, "exercises", lambda lesson: (exercise,))
    check("9.1 double", double)
    text = capsys.readouterr().out
    assert text.startswith("? 9.1 double · 2 of 3 properties hold, 1 not verified")
    assert "? fast     not verified: needs a GPU" in text
    assert progress.solved() == {}
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(CheckFailed, match="not verified"):
        check("9.1 double", double)


def test_failure_outweighs_not_verified():
    exercise = having(properties=(Property("fast", "on a GPU", _cannot), *DOUBLE.properties))
    report = judge(exercise, half)
    assert report.status is Status.FAIL and report.mistake.name == "half"


def test_missing_package_is_not_verified():
    report = judge(having(needs=("torch", "no_such_package")), double)
    assert report.status is Status.NOT_VERIFIED
    assert str(report) == "? 9.1 double · not verified: no_such_package is not installed here"


def test_specs_that_cannot_be_imported_are_not_verified(monkeypatch):
    def needs_triton(lesson):
        raise catalogue.NeedsPackage("No module named 'triton'", name="triton")

    monkeypatch.setattr(catalogue, "lessons", lambda: ["09"])
    monkeypatch.setattr(catalogue, "exercises", needs_triton)
    assert (
        str(judge("9.1 double", double))
        == "? 9.1 double · not verified: triton is not installed here"
    )


# ---- check and progress ------------------------------------------------------------------------


def test_check_prints_records_and_returns_nothing(known, capsys):
    assert check("9.1 double", double) is None
    assert "✓ 9.1 double · 2 of 2" in capsys.readouterr().out
    assert [*progress.solved()] == ["9.1"]


def test_check_raises_one_line(known, capsys):
    with pytest.raises(CheckFailed) as caught:
        check("9.1 double", half)
    assert "This halves." in capsys.readouterr().out
    (line,) = caught.value._render_traceback_()
    assert line == "CheckFailed: ✗ 9.1 double · 1 of 2 properties hold"
    assert progress.solved() == {}


def test_unknown_exercise_names_the_nearest(known):
    with pytest.raises(catalogue.UnknownExercise, match=r'Near it: "9\.1 double"'):
        check("9.7 duble", double)
    with pytest.raises(catalogue.UnknownExercise, match='There is no exercise ""'):
        check("", double)


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


def test_solutions_are_nobodys_progress(tmp_path, monkeypatch):
    (tmp_path / "solutions").mkdir()
    monkeypatch.chdir(tmp_path / "solutions")
    progress.record("3.1")
    assert progress.solved() == {}


def test_show_tells_what_is_done_and_what_is_next(known, capsys):
    progress.show()
    assert "○" in (text := capsys.readouterr().out) and "next: 9.1 double" in text
    progress.record("9.1")
    progress.show()
    assert "1 of 1 exercises solved" in (text := capsys.readouterr().out) and "●" in text
    progress.forget()
    assert progress.solved() == {}
