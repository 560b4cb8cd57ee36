"""Set up and start the course, using only Python's standard library.

    python course/bootstrap.py install    make .venv and install the requirements
    python course/bootstrap.py lab        the same, then open JupyterLab on the first lesson
    python course/bootstrap.py test       the same, then run every test
    python course/bootstrap.py run CMD    the same, then run a command inside .venv

`make lab` and `make test` call this file, and so does Windows, where there is no make. What happens
after the installation is in `launch.py`, next to it; how pip or uv is called is in `installers.py`.

This file runs before anything is installed, on whatever Python is at hand. It and what it imports
keep to the syntax of Python 3.6, so that an old one can still report that it is too old.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path[0] = ROOT  # instead of the folder `course`: now `course` is this one, wherever we are

# Found only now.
from course import cpu_torch, installers  # noqa: E402
from course.heartbeat import follow  # noqa: E402
from course.installers import SetupError  # noqa: E402

LOG_NAME = "setup.log"
OLDEST, NEWEST = (3, 11), (3, 14)


def check_python(version: tuple) -> None:
    """Raise SetupError unless the course runs on Python of this (major, minor) version."""
    found = tuple(version[:2])
    if OLDEST <= found <= NEWEST:
        return
    trouble = "old" if found < OLDEST else "new"
    raise SetupError(
        f"Python {found[0]}.{found[1]} is too {trouble} for this course: install Python 3.11, 3.12,"
        " 3.13 or 3.14 and name it, as in `make lab PYTHON=python3.11`"
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
    made_by = read_text(os.path.join(folder, "pyvenv.cfg"))
    of_it = rf"^version(_info)? *= *{version[0]}\.{version[1]}\."  # the second form is uv's
    if not re.search(of_it, made_by, re.MULTILINE):
        return False
    stamp = read_text(os.path.join(folder, ".installed"))
    if stamp and stamp.split(" ", 1)[1] != os.path.realpath(root):
        return False
    python = venv_python(root)
    if not os.path.exists(python):  # or it links to a Python that has been removed
        return False
    probe = subprocess.run([python, "-c", "import pip"], stderr=subprocess.DEVNULL)
    return probe.returncode == 0


def make_venv(root: str, uv: str = "") -> None:
    """Make .venv from scratch, with pip in it, by uv if there is one; any existing one goes."""
    folder, log_path = os.path.join(root, ".venv"), os.path.join(root, LOG_NAME)
    base = getattr(sys, "_base_executable", sys.executable)  # .venv's own Python cannot rebuild it
    open(log_path, "w").close()
    shutil.rmtree(folder, ignore_errors=True)
    step = "making .venv"
    if uv:
        settings = installers.pip_settings(base)
        command = [uv, "venv", "--seed", "--python", base, *installers.uv_sources(settings), folder]
        environment = installers.uv_environment(settings)
        if follow(command, step, installers.no_news, log_path, cwd=root, env=environment) == 0:
            return
        shutil.rmtree(folder, ignore_errors=True)
    check_venv_module(sys.version_info)
    if follow([base, "-m", "venv", folder], step, installers.no_news, log_path):
        raise SetupError(
            f"Python could not create the folder .venv: see {log_path}, fix the problem and run the"
            " same command again."
        )


def uv_install(root: str, uv: str, what: list, settings: dict) -> int:
    """Install by uv; return its exit status. Its output is added to setup.log."""
    command = [uv, "pip", "install", "--python", venv_python(root)]
    command += installers.uv_sources(settings) + installers.uv_constraints(settings) + what
    environment = installers.uv_environment(settings)
    log_path = os.path.join(root, LOG_NAME)
    step = "looking for packages"
    return follow(command, step, installers.uv_news, log_path, cwd=root, env=environment)


def pip_install(root: str, what: list) -> int:
    """Install by pip; return its exit status. It writes setup.log itself, in more detail.

    As with uv, modules are compiled later: see `compile_modules`.
    """
    command = [venv_python(root), "-m", "pip", "install", "--no-input", "--no-compile"]
    command += ["--log", os.path.join(root, LOG_NAME), *what]
    environment = installers.pip_environment()
    step = "looking for packages"
    return follow(command, step, installers.pip_news, cwd=root, env=environment)


def fill_venv(root: str, uv: str = "") -> None:
    """Install the project, editable, with its requirements: by uv if there is one, else by pip.

    Where uv fails for a reason that is not known here, pip tries. An installation that is
    interrupted or killed leaves the mark `.venv/.unfinished`.
    """
    log_path, python = os.path.join(root, LOG_NAME), venv_python(root)
    unfinished = os.path.join(root, ".venv", ".unfinished")
    for path in (log_path, unfinished):
        open(path, "w").close()
    settings = installers.pip_settings(python)
    what = ["--editable", ".[dev]", *cpu_torch.options(python, root, settings)]
    by, status, trouble, by_uv = "pip", 1, "", ""
    if uv:
        by, status = "uv", uv_install(root, uv, what, settings)
        by_uv = read_text(log_path)
        trouble = installers.known_trouble(by_uv)
    if status > 0 and not trouble:
        if uv:
            print("  uv failed, for what reason setup.log says: pip tries", flush=True)
        by, status = "pip", pip_install(root, what)
        trouble = installers.diagnose(read_text(log_path)[len(by_uv) :])
    if status >= 0:  # below 0: it was killed, and .venv may be in any state
        os.remove(unfinished)
    if status:
        trouble = trouble or f"{by} was killed"
        raise SetupError(f"{trouble}, then run the same command again ({by}'s log: {log_path}).")


def compile_modules(root: str) -> None:
    """Compile all of .venv if Python is told to keep nothing compiled; on all cores, unlike pip.

    Otherwise Python compiles what is imported, when it is first imported, and keeps that. Under
    PYTHONDONTWRITEBYTECODE, as in many containers, it would compile PyTorch at each start.
    """
    if sys.dont_write_bytecode:
        command = [venv_python(root), "-m", "compileall", "-qq", "-j", "0"]
        follow([*command, os.path.join(root, ".venv")], "compiling", installers.no_news)


def install(root: str) -> str:
    """Bring .venv up to date with pyproject.toml, return its Python; quick if nothing changed."""
    check_python(sys.version_info)
    python, wanted = venv_python(root), fingerprint(root)
    stamp = os.path.join(root, ".venv", ".installed")
    usable = venv_is_usable(root, sys.version_info)
    if usable and read_text(stamp) == wanted:
        return python
    uv = installers.working_uv()
    version = ".".join(str(part) for part in sys.version_info[:3])
    by, time = ("uv", "a minute") if uv else ("pip", "a few minutes")
    print(
        f"Installing into .venv (Python {version}, by {by}). The first time takes {time}.",
        flush=True,
    )
    if not usable:
        make_venv(root, uv)
    fill_venv(root, uv)
    compile_modules(root)
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
