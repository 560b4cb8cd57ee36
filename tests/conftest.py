"""Shared by all tests: decides how kernels run before anything else imports triton."""

import importlib.util

HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON:
    # Some calls into torch (use_deterministic_algorithms, compile) import triton behind our back.
    # The first import decides for the whole process, so it has to be this one.
    from kernels import runtime
else:
    # macOS: there is no kernel to run
    collect_ignore_glob = ["kernels/*", "compile_report/*", "check/test_kernels.py"]
    collect_ignore_glob += ["lessons/test_lesson_09_exercises.py"]


def quicken_the_interpreter() -> None:
    """Spare Triton's interpreter what it repeats at every call of a helper, for the same result.

    While a kernel runs, the builtins of `tl` are replaced, among hundreds of members. The names
    never change, so they are listed once; and a helper that a running kernel calls finds everything
    replaced already, unless it sees `tl` under another name than those before it.
    """
    import inspect
    from functools import cache

    import triton.language as tl
    from triton.runtime import interpreter

    private = ("_patch_builtin", "_patch_attr", "_patch_lang", "_get_np_dtype")
    if not all(hasattr(interpreter, name) for name in private):
        return  # another version of Triton may do without
    search, replace_all = interpreter._patch_builtin, interpreter._patch_lang
    names = {
        owner: [name for name, member in inspect.getmembers(owner) if tl.core.is_builtin(member)]
        for owner in (tl, tl.core, tl.math, tl.tensor, tl.core.tensor_descriptor_base)
    }
    seen: dict[int, dict] = {}  # the globals of the helpers called so far by the running kernel

    def replace(owner: object, *rest: object) -> None:
        if owner not in names:
            return search(owner, *rest)
        for name in names[owner]:
            if tl.core.is_builtin(member := getattr(owner, name)):
                interpreter._patch_attr(owner, name, member, *rest)

    def replace_once(function: object) -> object:
        if tl.core.is_builtin(tl.load):  # nothing is replaced: this is a kernel, not a helper
            seen.clear()
        elif id(function.__globals__) in seen:
            return None  # what a helper's call returns is not used
        seen[id(function.__globals__)] = function.__globals__
        return replace_all(function)

    np_dtype_of, look_up = interpreter._get_np_dtype, cache(interpreter._get_np_dtype)

    def np_dtype(of: tl.dtype) -> object:
        element = of.element_ty if isinstance(of, tl.block_type) else of
        return look_up(element) if type(element) is tl.dtype else np_dtype_of(element)

    interpreter._patch_builtin, interpreter._patch_lang = replace, replace_once
    interpreter._get_np_dtype = np_dtype


if HAS_TRITON and runtime.INTERPRETED:
    quicken_the_interpreter()


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
