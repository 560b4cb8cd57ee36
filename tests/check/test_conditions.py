"""A verdict depends on the answer alone: not on what the process is set to, before or by it."""

import contextlib
import random
import warnings

import numpy as np
import pytest
import torch
from doubling import DOUBLE, double, half, having, probing, told
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from course.check import Property, Seen, catalogue, conditions, judge
from course.check.report import Status


class Strict(TorchFunctionMode):
    """A function mode that no function gets through."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} was called under the learner's mode")


class Scaled(TorchDispatchMode):
    """A dispatch mode that makes every result of arithmetic wrong."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * 3 if func is torch.ops.aten.mul.Tensor else result


@contextlib.contextmanager
def numbers():
    """The settings of numbers and messages, each as far off as it goes."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(conditions.kept())
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(1)
        torch.set_printoptions(precision=1, sci_mode=True)
        np.set_printoptions(precision=1, threshold=1)
        np.seterr(all="raise")
        warnings.simplefilter("error")
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        yield


@contextlib.contextmanager
def modes():
    """Everything that is entered like a context, and bfloat16 by default."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(conditions.kept())
        torch.set_default_dtype(torch.bfloat16)
        torch.set_default_device("meta")
        for mode in (
            torch.inference_mode(),
            torch.autocast("cpu", torch.float16),
            torch.autograd.set_detect_anomaly(True),
            FakeTensorMode(),
            Scaled(),
            Strict(),
        ):
            stack.enter_context(mode)
        yield


STATES = {"numbers": numbers, "modes": modes}


def everything():
    """What the process is set to, as values that compare."""
    told = [setting.get() for setting in conditions.settings()]
    dispatch = torch.utils._python_dispatch._get_current_dispatch_mode_stack()
    return told, list(dispatch), warnings.filters[:], torch.is_inference_mode_enabled()


def chance():
    """Where the global generators of random numbers are."""
    states = torch.random.get_rng_state(), np.random.get_state()[1]
    return [x.tolist() for x in states], random.getstate()


def need(exercise):
    if missing := exercise.missing():
        pytest.skip(f"{', '.join(missing)} is not installed")


def specs():
    found = []
    for lesson in catalogue.lessons():
        with contextlib.suppress(catalogue.NeedsPackage):
            found += catalogue.exercises(lesson)
    return found


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
@pytest.mark.parametrize("exercise", specs(), ids=lambda exercise: exercise.id)
def test_right_answers_pass_whatever_is_set_and_it_stays_set(exercise, state):
    need(exercise)
    drawn = chance()
    with state():
        before = everything()
        report = judge(exercise, exercise.right, seed=1)
        shown = str(report)
        after = everything()
    assert report.status is Status.PASS, shown
    assert before == after and chance() == drawn


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_wrong_answers_are_told_in_the_same_words(state):
    wrongs = [half, lambda x: x**2, lambda x: (2 * x)[None], lambda x: 2 * x / (x - x)]
    plain = [str(judge(DOUBLE, wrong, seed=1)) for wrong in wrongs]
    with state():
        assert [str(judge(DOUBLE, wrong, seed=1)) for wrong in wrongs] == plain
    assert judge(DOUBLE, half).mistake.name == "half"


def sets_everything(x):
    """A right answer that leaves the process in a state in which it would be wrong."""
    doubled = x + x
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.set_autocast_enabled("cpu", True)
    torch.set_anomaly_enabled(True)
    torch.set_num_threads(1 if torch.get_num_threads() > 1 else 2)
    torch.set_printoptions(precision=1)
    np.set_printoptions(precision=1)
    np.seterr(all="raise")
    warnings.simplefilter("error")
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    Strict().__enter__()
    return doubled


def test_what_an_answer_sets_ends_with_it():
    def probe(answer, rng):
        x = torch.randn(3, generator=rng)
        got = answer(x)
        wanted = torch.zeros(3) + 2 * x  # in fp32, on the CPU, and it warns nobody
        assert wanted.dtype == torch.float32 and torch.is_grad_enabled()
        return Seen(got, wanted)

    before = everything(), chance()
    report = judge(probing(probe), sets_everything)
    assert report.status is Status.PASS, str(report)
    assert (everything(), chance()) == before


def test_what_a_probe_sets_holds_for_the_answer():
    """Such as memory that is NaN until written (`guards.empty_is_nan`)."""
    found = []

    def probe(answer, rng):
        torch.set_default_dtype(torch.float64)
        got = answer(torch.ones(2, dtype=torch.float32))
        found.append(torch.get_default_dtype())
        return Seen(got, 2 * torch.ones(2, dtype=torch.float32))

    def answer(x):
        found.append(torch.get_default_dtype())
        return 2 * x

    assert judge(probing(probe), answer, seed=1).status is Status.PASS
    assert {*found} == {torch.float64} and torch.get_default_dtype() == torch.float32


def test_a_stopped_answer_is_cleaned_up_after():
    def endless(x):
        torch.set_default_dtype(torch.float64)
        Strict().__enter__()
        while True:
            pass

    before = everything()
    report = judge(having(seconds=0.3), endless)
    assert "longer than 0.3 s" in told(report) and everything() == before


def test_an_answer_by_chance_gets_the_same_chance_for_the_same_seed():
    def draws(answer, rng):
        return Seen(answer(torch.ones(1)), torch.zeros(()))

    exercise = having(properties=(Property("only", "one", draws),), mistakes=())
    answers = [lambda x: torch.randn(()), lambda x: torch.tensor(float(np.random.randn())).float()]
    answers.append(lambda x: torch.tensor(random.random()))
    for answer in answers:
        assert len({str(judge(exercise, answer, seed=seed)) for seed in (5, 5, 6)}) == 2


def test_specs_are_imported_under_the_same_conditions(monkeypatch):
    """They are imported by the first check of a lesson, whatever is set by then."""
    found = []

    class Spec:
        EXERCISES = ()

    def imports(name):
        found.append((torch.get_default_dtype(), torch.get_default_device()))
        return Spec

    monkeypatch.setattr(catalogue.importlib, "import_module", imports)
    with modes():
        assert catalogue.exercises.__wrapped__("09") == ()
    assert found == [(torch.float32, torch.device("cpu"))]


def test_an_import_that_fails_is_told_by_its_message(monkeypatch):
    """Such as triton imported before the kernels, in the wrong mode: no package is missing."""
    reasons = {
        ImportError("triton was imported in compiled mode: restart Python."): "compiled mode: rest",
        ImportError("no symbol in libtriton", name="torchless"): "torchless is not installed here",
        ImportError("DLL load failed", name="numpy._core"): "not verified: DLL load failed",
    }
    monkeypatch.setattr(catalogue, "lessons", lambda: ["09"])
    for error, says in reasons.items():

        def fails(name, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(catalogue.importlib, "import_module", fails)
            patch.setattr(catalogue, "exercises", catalogue.exercises.__wrapped__)
            report = judge("9.1 double", double)
        assert report.status is Status.NOT_VERIFIED
        assert says in str(report) and "None" not in str(report)
