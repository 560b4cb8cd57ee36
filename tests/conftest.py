"""Shared by all tests: settle how kernels run before anything else imports triton."""

import importlib.util

HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON:
    # Some calls into torch (use_deterministic_algorithms, compile) import triton behind our back.
    # The first import decides for the whole process, so it has to be ours.
    from kernels import runtime
else:
    collect_ignore_glob = ["test_kernels_*.py"]  # macOS, Windows: there is nothing to run


def pytest_report_header() -> str:
    """Say at the top of every run what was tested: the interpreter or a GPU."""
    if not HAS_TRITON:
        return "kernels: not tested, triton has no wheel for this system"
    mode = "interpreted" if runtime.INTERPRETED else "compiled"
    return f"kernels: {mode}, on {runtime.device()}"
