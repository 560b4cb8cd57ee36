"""Start JupyterLab, the tests or any command in the course's installed environment.

    python course/launch.py lab        work/ brought up to date, then JupyterLab on the first lesson
    python course/launch.py test       every test, then the census
    python course/launch.py run CMD    a command

`bootstrap.py` calls this file with the Python of .venv. In an environment of your own (conda, a
container) call it yourself: it installs nothing. Jupyter, IPython, Matplotlib and Triton keep
all their files in the project's folder .jupyter: nothing is registered outside the project.

`lab` opens your own copies of the notebooks, in work/: `course.notebooks.copies` keeps them.
"""

import json
import os
import socket
import subprocess
import sys
import time
import uuid
import webbrowser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIRST_LESSON = "work/notebooks/00_start_here.ipynb"

PRIVATE_FOLDERS = {
    "JUPYTER_CONFIG_DIR": "config",
    "JUPYTER_DATA_DIR": "data",
    "JUPYTER_RUNTIME_DIR": "runtime",
    "JUPYTERLAB_SETTINGS_DIR": "settings",
    "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    "IPYTHONDIR": "ipython",
    "MPLCONFIGDIR": "matplotlib",
    "TRITON_HOME": "triton",
}
# These belong to another installation, whose kernels and settings would be found before ours.
FOREIGN = ("JUPYTER_PATH", "JUPYTER_CONFIG_PATH", "PYTHONHOME")

PYTEST = (sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile")
NOTEBOOKS = (sys.executable, "-m", "course.notebooks")
COPIES = (sys.executable, "-m", "course.notebooks.copies")
TEST_STEPS = {
    "tests": (*PYTEST, "tests"),
    "notebooks": (*PYTEST, "-p", "tests.conftest", "--nbval", "notebooks", "solutions"),
    "notebook rules": (*NOTEBOOKS, "lint"),
    "exercises in step": (*NOTEBOOKS, "check"),
    "census": (*NOTEBOOKS, "census"),
}


def private_environment(root: Path = ROOT) -> dict[str, str]:
    """Return this process's environment, with every private folder moved into the project."""
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    for name, folder in PRIVATE_FOLDERS.items():
        path = root / ".jupyter" / folder
        path.mkdir(parents=True, exist_ok=True)
        environment[name] = str(path)
    Path(environment["JUPYTER_RUNTIME_DIR"]).chmod(0o700)  # kernels' keys and sockets
    programs = str(Path(sys.executable).parent)  # for `!python` and `!pip` in a notebook
    environment["PATH"] = os.pathsep.join([programs, environment.get("PATH", os.defpath)])
    return environment


def browser_missing() -> str:
    """Return why no browser can be opened here, or an empty string."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return "there is no display"
    try:
        webbrowser.get()
    except webbrowser.Error:
        return "no browser was found"
    return ""


def sockets_work(folder: Path) -> bool:
    """Say whether a kernel's sockets can be files in this folder: try one.

    A path may have 107 bytes (103 on macOS), and some file systems (a Windows drive in WSL, a
    folder shared with a container) have no sockets. Windows itself has none in Python.
    """
    path = folder / f"kernel-{uuid.uuid4()}-ipc-1"  # a name as long as jupyter_client's
    try:
        with (
            socket.socket(socket.AF_UNIX) as server,
            socket.socket(socket.AF_UNIX) as client,
        ):
            server.bind(str(path))
            server.listen()
            client.connect(str(path))
        return True
    except (OSError, AttributeError):
        return False
    finally:
        path.unlink(missing_ok=True)


def private_kernels(runtime: Path) -> dict[str, str]:
    """Return KernelManager's settings by which no other user can listen to a kernel.

    Jupyter's own choice, open TCP ports, makes ipykernel 7 warn at each start. Where sockets can't
    be files, TCP is encrypted, if this pyzmq can do that.
    """
    if sockets_work(runtime):
        return {"transport": "ipc"}
    # This file itself imports nothing that has to be installed.
    lacking = subprocess.call([sys.executable, "-c", "import zmq; exit(not zmq.has('curve'))"])
    return {} if lacking else {"transport_encryption": "auto"}


def lab_command() -> list[str]:
    """Return JupyterLab's command line for this machine; print how to stop and how to see it."""
    command = [
        *(sys.executable, "-m", "jupyterlab", "--log-level=ERROR"),
        f"--ServerApp.root_dir={ROOT}",
        f"--LabApp.default_url=/lab/tree/{FIRST_LESSON}",
        # Looking for language servers would start npm and others, which write into the home folder.
        "--LanguageServerManager.autodetect=False",
    ]
    settings = private_kernels(Path(private_environment(ROOT)["JUPYTER_RUNTIME_DIR"]))
    command += [f"--KernelManager.{name}={value}" for name, value in settings.items()]
    print("JupyterLab runs until you press Ctrl-C twice here.")
    missing = browser_missing()
    if missing:
        command.append("--no-browser")
        print(
            f"As {missing}, open the address below yourself.\nTo open it on another machine, first"
            " run this there (with the port shown below): ssh -L 8888:localhost:8888 THIS_HOST"
        )
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
        print("You are root: notebooks will run with root's rights (--allow-root).")
    return command


def keep_quiet(settings: Path) -> None:
    """Answer no to JupyterLab's question about fetching news, unless it has been answered."""
    file = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))


def run(command: list[str]) -> int:
    """Run a command in the project's folder and environment; return its exit status."""
    environment = private_environment()
    if command[0] == "python":
        command = [sys.executable, *command[1:]]
    if os.name == "nt":  # exec on Windows returns to the shell before the program ends
        return subprocess.call(command, cwd=ROOT, env=environment)
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execvpe(command[0], command, environment)


def lab() -> int:
    """Bring work/ up to date, then open JupyterLab on its first lesson, or print the address."""
    environment = private_environment(ROOT)
    if status := subprocess.call(COPIES, cwd=ROOT, env=environment):
        return status
    keep_quiet(Path(environment["JUPYTERLAB_SETTINGS_DIR"]))
    return run(lab_command())


def test() -> int:
    """Run every test step, even after one has failed; return 1 if any did."""
    environment, lines, failed = private_environment(), [], False
    for name, command in TEST_STEPS.items():
        print(f"\n── {name}", flush=True)
        began = time.monotonic()
        status = subprocess.call(command, cwd=ROOT, env=environment)
        verdict = "passed" if status == 0 else f"FAILED (exit status {status})"
        lines.append(f"  {name:<18} {verdict:<24} {time.monotonic() - began:6.0f} s")
        failed = failed or status != 0
    print("\n── summary", *lines, sep="\n")
    return int(failed)


def main(arguments: list[str]) -> int:
    """Do what the first argument says; return the exit status."""
    match arguments:
        case ["lab"]:
            return lab()
        case ["test"]:
            return test()
        case ["run", _, *_]:
            return run(arguments[1:])
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
