"""Does a kernel compile for GPUs? Asked of another process, since kernels are interpreted here.

The interpreter runs what no compiler accepts: `break` and `return` in a loop, a global that is no
constexpr, a number that changes its type from turn to turn. So a kernel that passes is compiled as
well, for `TARGETS`, without any GPU. The other process is started once and kept: it takes seconds
to import what it needs, and then a second per kernel. Triton keeps what it has compiled on disk.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import IO, Any

import torch

TARGETS = ("sm_90", "gfx942")
SECONDS = 90  # for one kernel; the first includes the start of the process


class NoCompiler(Exception):
    """The kernel could not be compiled here, through no fault of its own; the message says why."""


def trouble(kernel: Any, args: dict[str, Any], options: dict[str, Any]) -> str:
    """Return what the compiler says against a kernel launched with `args`, in short, or "".

    args: by name, all of them. options: other keywords of the launch; num_warps and num_stages
    count. Raises NoCompiler.
    """
    from kernels.compile_report.portable import text_of  # here: it settles Triton's mode

    try:
        text = text_of(kernel)
    except (OSError, TypeError, ValueError) as error:
        raise NoCompiler(f"its source was not found ({error})") from error
    kept = {name: options[name] for name in ("num_warps", "num_stages") if name in options}
    request = {"text": text, "name": kernel.fn.__name__, "args": _described(args), "options": kept}
    return _ask(json.dumps({**request, "targets": TARGETS}))


def start() -> None:
    """Start the other process, so that it is ready when it is needed."""
    _process()


def stop() -> None:
    """Stop the other process, if it runs; it is started again when it is needed."""
    if _process.cache_info().currsize:
        _give_up(_process())


def _described(args: dict[str, Any]) -> dict[str, Any]:
    """Return arguments as JSON: a tensor by its dtype and whether its address is aligned."""
    described = {}
    for name, x in args.items():
        if isinstance(x, torch.Tensor):
            aligned = x.data_ptr() % 16 == 0
            described[name] = {"tensor": str(x.dtype).removeprefix("torch."), "aligned": aligned}
        elif x is None or isinstance(x, bool | int | float | str):
            described[name] = x
        else:
            raise NoCompiler(f"its argument {name} is a {type(x).__name__}")
    return described


@cache
def _process() -> subprocess.Popen:
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "course.check.compile_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=root,
        env=environment,
    )
    atexit.register(_stop, process)
    return process


def _stop(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        stream.close()


def _ask(line: str) -> str:
    """Send one request and return the answer; a process that is gone or stuck is given up."""
    process = _process()
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
        answer = _line_of(process.stdout)
    except (OSError, ValueError, queue.Empty):
        answer = ""
    except BaseException:  # time is up, or the learner has interrupted: the answer is still to come
        _give_up(process)
        raise
    if not answer:
        _give_up(process)
        raise NoCompiler("the process that compiles did not answer")
    return json.loads(answer)


def _line_of(stream: IO[str]) -> str:
    """Return the next line, or raise queue.Empty after SECONDS; in a thread, as on Windows, too."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: lines.put(stream.readline()), daemon=True).start()
    return lines.get(timeout=SECONDS)


def _give_up(process: subprocess.Popen) -> None:
    _process.cache_clear()
    atexit.unregister(_stop)
    _stop(process)
