"""Set up and start the course, using only Python's standard library.

    python course/bootstrap.py install    make .venv and install the requirements
    python course/bootstrap.py lab        the same, then open JupyterLab on the first lesson
    python course/bootstrap.py test       the same, then run every test
    python course/bootstrap.py run CMD    the same, then run a command inside .venv

`make lab` and `make test` call this file, and so does Windows, where there is no make. What happens
after the installation is in `launch.py`, next to it.

This file runs before anything is installed, on whatever Python is at hand. It keeps to the syntax
of Python 3.6, so that an old one can still report that it is too old.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOG_NAME = "setup.log"
OLDEST, NEWEST = (3, 11), (3, 13)

# What pip's log says, and what the reader can do about it. The first match counts.
PIP_TROUBLE = (
    (("No space left on device",), "The disk is full: free about 8 GB"),
    (
        (
            "NameResolutionError",
            "NewConnectionError",
            "ConnectTimeoutError",
            "ReadTimeoutError",
            "ProxyError",
            "Failed to establish a new connection",
            "Connection refused",
            "Network is unreachable",
            "No matching distribution found for setuptools",  # every index has it: none was reached
        ),
        "No network, or the package index cannot be reached: connect this machine"
        " (behind a proxy, set HTTPS_PROXY)",
    ),
    (
        ("No matching distribution found", "Could not find a version that satisfies"),
        "A requirement has no build for this machine: use 64-bit Python 3.11, 3.12 or 3.13 on"
        " Linux, Windows or an Apple-silicon Mac",
    ),
)


class SetupError(Exception):
    """The set-up cannot go on; the message is one sentence that says what to do."""


def check_python(version: tuple) -> None:
    """Raise SetupError unless the course runs on Python of this (major, minor) version."""
    found = tuple(version[:2])
    if OLDEST <= found <= NEWEST:
        return
    trouble = "old" if found < OLDEST else "new"
    raise SetupError(
        f"Python {found[0]}.{found[1]} is too {trouble} for this course: install Python 3.11, 3.12"
        " or 3.13 and name it, as in `make lab PYTHON=python3.11`"
        " (without make: `python3.11 course/bootstrap.py lab`)."
    )


def check_venv_module(version: tuple) -> None:
    """Raise SetupError if this Python has no `venv`, as is usual on Debian and Ubuntu."""
    if all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        return
    raise SetupError(
        f"This Python has no `venv` module: install it (on Debian or Ubuntu: `sudo apt install"
        f" python{version[0]}.{version[1]}-venv`) and run the same command again."
    )


def venv_python(root: str) -> str:
    """Return the path of the Python in the project's .venv (it need not exist)."""
    parts = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return os.path.join(root, ".venv", *parts)


def fingerprint(root: str) -> str:
    """Return a string that changes when the requirements or the folder's location change."""
    import tomllib  # not before check_python: it is new in 3.11

    with open(os.path.join(root, "pyproject.toml"), "rb") as file:
        table = tomllib.load(file)
    tools = table.get("tool", {})
    installed = [table.get("build-system"), table.get("project"), tools.get("setuptools")]
    digest = hashlib.sha256(json.dumps(installed, sort_keys=True).encode()).hexdigest()
    return f"{digest} {os.path.realpath(root)}"


def read_text(path: str) -> str:
    """Return the text of a file, or an empty string if there is no such file."""
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def venv_is_usable(root: str, version: tuple) -> bool:
    """Say whether .venv is complete, of this (major, minor) Python, and still where it was made.

    An interrupted installation leaves `.venv/.unfinished` behind; such a .venv is made again.
    """
    folder = os.path.join(root, ".venv")
    if os.path.exists(os.path.join(folder, ".unfinished")):
        return False
    made_by = read_text(os.path.join(folder, "pyvenv.cfg")).replace(" ", "")
    if f"version={version[0]}.{version[1]}." not in made_by:
        return False
    stamp = read_text(os.path.join(folder, ".installed"))
    if stamp and stamp.split(" ", 1)[1] != os.path.realpath(root):
        return False
    python = venv_python(root)
    if not os.path.exists(python):  # or it links to a Python that has been removed
        return False
    probe = subprocess.run([python, "-c", "import pip"], stderr=subprocess.DEVNULL)
    return probe.returncode == 0


def make_venv(root: str) -> None:
    """Make .venv from scratch; any existing one is removed."""
    check_venv_module(sys.version_info)
    base = getattr(sys, "_base_executable", sys.executable)  # .venv's own Python cannot rebuild it
    log_path = os.path.join(root, LOG_NAME)
    shutil.rmtree(os.path.join(root, ".venv"), ignore_errors=True)
    with open(log_path, "w", encoding="utf-8") as log:
        made = subprocess.run(
            [base, "-m", "venv", os.path.join(root, ".venv")], stdout=log, stderr=subprocess.STDOUT
        )
    if made.returncode:
        raise SetupError(
            f"Python could not create the folder .venv: see {log_path}, fix the problem and run the"
            " same command again."
        )


def diagnose(log: str) -> str:
    """Return what pip's log says went wrong and what to do about it, as half a sentence."""
    for signs, advice in PIP_TROUBLE:
        if any(sign in log for sign in signs):
            return advice
    return "pip could not install the requirements: fix what its last lines report"


def progress(line: str) -> str:
    """Return what to show of a line from pip: packages of 1 MB or more, and the last step."""
    words = line.split()
    if words[:1] == ["Downloading"] and words[-1] in ("MB)", "GB)"):
        return "-".join(words[1].split("-")[:2]) + " " + " ".join(words[-2:])
    return "unpacking, the last step" if words[:2] == ["Installing", "collected"] else ""


def pip_install(root: str) -> None:
    """Install the project, editable, with its requirements; keep pip's output in setup.log."""
    log_path = os.path.join(root, LOG_NAME)
    unfinished = os.path.join(root, ".venv", ".unfinished")
    for path in (log_path, unfinished):
        open(path, "w").close()  # empty the log: pip appends to it
    command = [venv_python(root), "-m", "pip", "install", "--no-input", "--log", log_path]
    process = subprocess.Popen(
        [*command, "--editable", ".[dev]"],
        cwd=root,
        env=dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_USER="0"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it is also in the log
    )
    for raw in process.stdout:
        news = progress(raw.decode("utf-8", "replace"))
        if news:
            print("  " + news, flush=True)
    status = process.wait()
    if status >= 0:  # below 0: it was killed, and .venv may be in any state
        os.remove(unfinished)
    if status:
        advice = diagnose(read_text(log_path))
        raise SetupError(f"{advice}, then run the same command again (pip's log: {log_path}).")


def install(root: str) -> str:
    """Bring .venv up to date with pyproject.toml, return its Python; quick if nothing changed."""
    check_python(sys.version_info)
    python, wanted = venv_python(root), fingerprint(root)
    stamp = os.path.join(root, ".venv", ".installed")
    usable = venv_is_usable(root, sys.version_info)
    if usable and read_text(stamp) == wanted:
        return python
    version = ".".join(str(part) for part in sys.version_info[:3])
    print(
        f"Installing into .venv (Python {version}). The first time takes a few minutes.", flush=True
    )
    if not usable:
        make_venv(root)
    pip_install(root)
    with open(stamp, "w", encoding="utf-8") as file:
        file.write(wanted)
    return python


def main(arguments: list) -> int:
    """Install, then hand over to launch.py for anything but `install`; return the exit status."""
    if not arguments or arguments[0] not in ("install", "lab", "test", "run"):
        print(__doc__)
        return 2
    try:
        python = install(ROOT)
    except SetupError as trouble:
        print(trouble, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: run the same command again to continue.", file=sys.stderr)
        return 130
    if arguments[0] == "install":
        return 0
    command = [python, os.path.join(ROOT, "course", "launch.py"), *arguments]
    if os.name == "nt":  # exec on Windows returns to the shell before the program ends
        return subprocess.call(command)
    os.execv(python, command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
