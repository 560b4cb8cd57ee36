"""What runs after the set-up: where it keeps its files, and that no failure is hidden."""

import json
import sys
from pathlib import Path

import pytest

from course import launch


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(launch, "ROOT", tmp_path)
    return tmp_path


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
