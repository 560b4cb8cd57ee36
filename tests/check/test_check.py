"""The checker itself: what passes, what fails and in what words, and what is never green."""

from dataclasses import replace

import pytest
import torch
from doubling import DOUBLE, double, half, having, probing, told

from course import progress
from course.check import CheckFailed, NotVerified, Property, Seen, catalogue, check, judge
from course.check.report import Status


@pytest.fixture
def known(monkeypatch):
    """Make 9.1 an exercise that `check` finds."""
    monkeypatch.setattr(catalogue, "lessons", lambda: ["09"])
    monkeypatch.setattr(catalogue, "exercises", lambda lesson: (DOUBLE,))


@pytest.fixture(autouse=True)
def own_progress(monkeypatch, tmp_path):
    """Keep the learner's own progress untouched."""
    monkeypatch.setenv("COURSE_PROGRESS_FILE", str(tmp_path / "progress.json"))


# ---- Verdicts ------------------------------------------------------------------------------------


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


def test_without_a_mistake_the_first_failing_property_says_where_to_read():
    numbers, zeros = DOUBLE.properties
    exercise = having(
        properties=(replace(numbers, see="2 · Numbers"), replace(zeros, see="3 · Zeros"))
    )
    pages = {
        "2 · Numbers": lambda x: x**2 + 1,  # both fail
        "3 · Zeros": lambda x: 2 * x if x.any() else x + 7,
        DOUBLE.section: half,  # recognised: the mistake itself says where
    }
    for section, answer in pages.items():
        assert f'See lesson 09, section "{section}".' in told(judge(exercise, answer)), section


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
    assert not torch.equal(third[0], third[1]), "a property's trials must differ"


def test_every_trial_counts():
    calls = []

    def wrong_the_third_time(x):
        calls.append(x)
        return 2 * x + (len(calls) == 3)

    assert judge(DOUBLE, wrong_the_third_time).status is Status.FAIL


# ---- Not written, unfit --------------------------------------------------------------------------


def _stub(x):
    raise NotImplementedError()


NOTHING = {"stub": _stub, "returns None": lambda x: None, "None": None, "dots": ...}


@pytest.mark.parametrize("answer", NOTHING.values(), ids=NOTHING)
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

    def in_place(x):
        x.mul_(2)

    assert judge(exercise, in_place).status is Status.PASS
    assert judge(exercise, lambda x: None).status is Status.FAIL


def test_called_instead_of_handed_over():
    report = judge(DOUBLE, double(torch.ones(3)))
    assert 'check("9.1 double", double)' in told(report)


# ---- Not verified --------------------------------------------------------------------------------


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
    text = str(judge("9.1 double", double))
    assert text == "? 9.1 double · not verified: triton is not installed here"


# ---- Check ---------------------------------------------------------------------------------------


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
    with pytest.raises(catalogue.UnknownExercise, match=r'Nearest: "9\.1 double"'):
        check("9.7 duble", double)
    with pytest.raises(catalogue.UnknownExercise, match='There is no exercise ""'):
        check("", double)
