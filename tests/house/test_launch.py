"""What runs after the set-up: where it keeps its files, and that no failure is hidden."""

import json
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client import KernelManager

from course import launch


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(launch, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short path: pytest's own are too long for sockets on some systems."""
    with tempfile.TemporaryDirectory(prefix="k", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_nothing_is_kept_outside_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", "elsewhere")
    monkeypatch.setenv("JUPYTER_PATH", "elsewhere")
    environment = launch.private_environment(tmp_path)
    assert "JUPYTER_PATH" not in environment
    for name in launch.PRIVATE_FOLDERS:
        assert Path(environment[name]).parent == tmp_path / ".jupyter"
        assert Path(environment[name]).is_dir()


@pytest.mark.parametrize("display", ["DISPLAY", "WAYLAND_DISPLAY", None])
def test_without_a_display_no_browser_is_opened(
    display: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if display:
        monkeypatch.setenv(display, "0")
    monkeypatch.setattr(launch.sys, "platform", "linux")
    monkeypatch.setattr(launch.webbrowser, "get", lambda: None)
    assert ("--no-browser" in launch.lab_command()) == (display is None)
    assert ("open the address below" in capsys.readouterr().out) == (display is None)


def test_without_a_browser_the_address_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_found() -> None:
        raise launch.webbrowser.Error

    monkeypatch.setattr(launch.sys, "platform", "darwin")
    monkeypatch.setattr(launch.webbrowser, "get", none_found)
    assert "--no-browser" in launch.lab_command()
    assert launch.browser_missing() == "no browser was found"


@pytest.mark.parametrize(("user", "is_root"), [(0, True), (1000, False)])
def test_root_is_allowed_and_told(
    user: int, is_root: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch.os, "geteuid", lambda: user, raising=False)
    assert ("--allow-root" in launch.lab_command()) == is_root
    assert ("You are root" in capsys.readouterr().out) == is_root


def test_the_question_about_news_is_answered_once(tmp_path: Path) -> None:
    launch.keep_quiet(tmp_path)
    file = next(tmp_path.rglob("*.jupyterlab-settings"))
    assert json.loads(file.read_text())["fetchNews"] == "false"
    file.write_text("{}")
    launch.keep_quiet(tmp_path)
    assert file.read_text() == "{}"


@pytest.mark.parametrize("display", ["", ":0"])
def test_it_always_says_how_to_stop(
    display: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(launch.webbrowser, "get", lambda: None)
    launch.lab_command()
    assert "until you press Ctrl-C twice" in capsys.readouterr().out


def test_lab_opens_the_learners_copy_of_the_first_lesson(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(launch, "private_kernels", lambda runtime: {"transport": "ipc"})
    monkeypatch.setattr(launch, "run", lambda command: commands.append(command) or 0)
    monkeypatch.setattr(launch.subprocess, "call", lambda command, **_: commands.append(command))
    assert launch.main(["lab"]) == 0
    copies, lab = commands
    assert tuple(copies) == launch.COPIES
    assert "--LabApp.default_url=/lab/tree/work/notebooks/00_start_here.ipynb" in lab
    assert "--KernelManager.transport=ipc" in lab
    assert f"--ServerApp.root_dir={tmp_path}" in lab, "lessons link to modules outside work/"


def test_lab_does_not_open_on_copies_that_could_not_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch.subprocess, "call", lambda *_, **__: 1)
    monkeypatch.setattr(launch, "run", lambda command: pytest.fail("JupyterLab was started"))
    assert launch.lab() == 1


def deep(folder: Path) -> Path:
    """A folder whose path is too long for a socket in it."""
    folder = folder / "deep" / ("er" * 50)
    folder.mkdir(parents=True)
    return folder


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no sockets that are files")
def test_kernels_talk_over_files_where_sockets_can_be_files(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert launch.private_kernels(short_folder) == {"transport": "ipc"}
    assert not list(short_folder.iterdir()), "the socket that was tried is removed"
    encrypted = {"transport_encryption": "auto"}
    assert launch.private_kernels(deep(short_folder)) == encrypted
    assert launch.private_kernels(short_folder / "missing") == encrypted
    monkeypatch.delattr(socket, "AF_UNIX")  # Windows
    assert launch.private_kernels(short_folder) == encrypted


def test_kernels_start_where_nothing_private_is_to_be_had(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch.subprocess, "call", lambda command: 1)  # a pyzmq without encryption
    assert launch.private_kernels(deep(short_folder)) == {}


@pytest.mark.parametrize("long", [False, True], ids=["short path", "long path"])
def test_a_kernel_starts_and_warns_of_nothing(
    long: bool, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = deep(short_folder) if long else short_folder
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime))
    manager = KernelManager(kernel_name="python3", **launch.private_kernels(runtime))
    with (short_folder / "stderr").open("w") as stderr:
        manager.start_kernel(stderr=stderr)
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            reply = client.execute_interactive("assert 6 * 7 == 42", timeout=60)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    assert reply["content"]["status"] == "ok"
    assert "WARNING" not in (short_folder / "stderr").read_text()


def test_only_this_user_can_open_kernels_sockets_and_keys(tmp_path: Path) -> None:
    runtime = Path(launch.private_environment(tmp_path)["JUPYTER_RUNTIME_DIR"])
    assert sys.platform == "win32" or runtime.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("bad", [None, "first", "middle", "last"])
def test_a_failed_step_fails_the_run_and_hides_none(
    bad: str | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = {
        name: (sys.executable, "-c", f"print('ran {name}'); raise SystemExit({int(name == bad)})")
        for name in ("first", "middle", "last")
    }
    monkeypatch.setattr(launch, "TEST_STEPS", steps)
    assert launch.test() == int(bad is not None)
    text = capfd.readouterr().out
    assert [f"ran {name}" in text for name in steps] == [True] * 3
    assert text.count("FAILED") == int(bad is not None)


def test_a_command_that_is_not_known_explains_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert launch.main(["run"]) == launch.main(["dance"]) == 2
    assert "launch.py lab" in capsys.readouterr().out
