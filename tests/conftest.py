"""Shared by all tests: decides how kernels run before anything else imports triton."""

import importlib.util
import re

import pytest

HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON:
    # Some calls into torch (use_deterministic_algorithms, compile) import triton behind our back.
    # The first import decides for the whole process, so it has to be this one.
    from kernels import runtime
else:
    # macOS: there is no kernel to run
    collect_ignore_glob = ["kernels/*", "compile_report/*", "lessons/test_lesson_09_exercises.py"]
    collect_ignore_glob += [
        f"check/test_{x}.py" for x in ("kernels", "launches", "compiler", "mutants")
    ]


if HAS_TRITON and runtime.INTERPRETED:
    from course.check import quick_interpreter

    quick_interpreter.put(quick_interpreter.replacements())


@pytest.fixture(autouse=HAS_TRITON)
def no_call_is_known() -> None:
    """Each test begins as a new process does: what it replaces was not remembered before."""
    from kernels import call_cache

    call_cache.clear()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadfile`, deal out the tests of exercises one exercise at a time.

    As one file they would be half of all the work. What one exercise's mistakes do is remembered
    by the process.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByExercise(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            number = re.search(r"test_exercises\.py::\w+\[(\d+\.\d+)", nodeid)
            return number[1] if number else super()._split_scope(nodeid)

    return ByExercise(config, log)


def pytest_report_header() -> str:
    """Say at the top of every run what was tested: the interpreter or a GPU."""
    if not HAS_TRITON:
        return "kernels: not tested, triton has no wheel for this system"
    mode = "interpreted" if runtime.INTERPRETED else "compiled"
    return f"kernels: {mode}, on {runtime.device()}"


def pytest_terminal_summary(terminalreporter) -> None:
    """Say how much of the course was exercised: counted from the tests that ran and passed.

    Tests report it with `record_property("exercised", (what, which))`, which xdist passes on. A
    notebook counts as executed if nbval ran it and none of its cells failed.
    """
    kinds = ("lessons", "exercises", "checks", "mistakes", "notebooks executed")
    exercised: dict[str, set[str]] = {kind: set() for kind in kinds}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "exercised":
                exercised[value[0]].add(value[1])
        if ".ipynb::Cell" in report.nodeid:
            exercised["notebooks executed"].add(report.nodeid.split("::")[0])
    broken = terminalreporter.getreports("failed") + terminalreporter.getreports("error")
    exercised["notebooks executed"] -= {report.nodeid.split("::")[0] for report in broken}
    if any(exercised.values()):
        counted = [f"{len(which)} {kind}" for kind, which in exercised.items() if which]
        terminalreporter.write_sep("=", "exercised and passed: " + ", ".join(counted))
