"""The set-up where uv is present: what it is asked, and when pip takes over."""

import sys
from pathlib import Path

import pytest

from course import bootstrap, installers

OFFLINE = "error: Request failed\n  cause: client error (Connect)\n  cause: dns error\n"


class Played:
    """Stands for `follow`: notes each command, writes what it is told to the log, returns that."""

    def __init__(self, root: Path, **answers: tuple[int, str]) -> None:
        self.root, self.answers, self.commands = root, answers, []

    def __call__(self, command: list, step: str, read: object, *_: object, **options: object):
        self.commands.append(command)
        status, text = self.answers.get(self.tool(command), (0, ""))
        with open(self.root / "setup.log", "a") as log:
            log.write(text)
        return status

    def tool(self, command: list) -> str:
        return "uv" if command[0] == "/bin/uv" else "pip" if "pip" in command else "venv"

    @property
    def tools(self) -> list[str]:
        return [self.tool(command) for command in self.commands]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with an empty .venv, on a machine whose pip has an index of its own."""
    (tmp_path / ".venv").mkdir()
    (tmp_path / "setup.log").touch()
    settings = {"index-url": "https://a.example/simple", "constraint": "pins.txt"}
    monkeypatch.setattr(installers, "pip_settings", lambda python: settings)
    monkeypatch.setattr(bootstrap.cpu_torch, "options", lambda *_: ["torch==2.13.0+cpu"])
    for name in ("UV_CONSTRAINT", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def play(root: Path, monkeypatch: pytest.MonkeyPatch, **answers: tuple[int, str]) -> Played:
    played = Played(root, **answers)
    monkeypatch.setattr(bootstrap, "follow", played)
    return played


def test_uv_installs_into_venv_from_pips_index(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = play(root, monkeypatch)
    bootstrap.fill_venv(str(root), "/bin/uv")
    (command,) = played.commands
    assert command == [
        *("/bin/uv", "pip", "install", "--python", bootstrap.venv_python(str(root))),
        *("--default-index", "https://a.example/simple", "--constraint", "pins.txt"),
        *("--editable", ".[dev]", "torch==2.13.0+cpu"),
    ]
    assert not (root / ".venv" / ".unfinished").exists()


def test_uv_makes_a_venv_with_pip_in_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = play(root, monkeypatch)
    bootstrap.make_venv(str(root), "/bin/uv")
    (command,) = played.commands
    assert command == [
        *("/bin/uv", "venv", "--seed", "--python", sys._base_executable),
        *("--default-index", "https://a.example/simple", str(root / ".venv")),
    ]


def test_where_uv_makes_no_venv_python_does(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".venv" / "left over").touch()
    played = play(root, monkeypatch, uv=(2, "error: something"))
    bootstrap.make_venv(str(root), "/bin/uv")
    assert played.tools == ["uv", "venv"]
    assert played.commands[1][1:3] == ["-m", "venv"]
    assert not (root / ".venv" / "left over").exists()
    played = play(root, monkeypatch, uv=(2, ""), venv=(1, ""))
    with pytest.raises(installers.SetupError, match="could not create the folder"):
        bootstrap.make_venv(str(root), "/bin/uv")


def test_what_is_wrong_for_uv_and_pip_alike_is_said_at_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = play(root, monkeypatch, uv=(1, OFFLINE))
    with pytest.raises(installers.SetupError, match=r"^No network.*\(uv's log: .*setup\.log\)\.$"):
        bootstrap.fill_venv(str(root), "/bin/uv")
    assert played.tools == ["uv"]
    assert not (root / ".venv" / ".unfinished").exists()


@pytest.mark.parametrize("trouble", ["thread 'main' panicked", "invalid peer certificate"])
def test_where_uv_fails_for_another_reason_pip_tries(
    trouble: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    played = play(root, monkeypatch, uv=(101, trouble))
    bootstrap.fill_venv(str(root), "/bin/uv")
    assert played.tools == ["uv", "pip"]
    assert played.commands[1][-3:] == ["--editable", ".[dev]", "torch==2.13.0+cpu"]
    assert "pip tries" in capsys.readouterr().out
    assert trouble in (root / "setup.log").read_text()


def test_pips_trouble_is_not_mistaken_for_uvs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"uv": (1, "invalid peer certificate"), "pip": (1, "No space left on device")}
    play(root, monkeypatch, **answers)
    with pytest.raises(installers.SetupError, match=r"^The disk is full.*\(pip's log"):
        bootstrap.fill_venv(str(root), "/bin/uv")


def test_a_killed_uv_leaves_a_mark(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = play(root, monkeypatch, uv=(-9, ""))
    with pytest.raises(installers.SetupError, match="uv was killed, then run the same command"):
        bootstrap.fill_venv(str(root), "/bin/uv")
    assert played.tools == ["uv"]
    assert (root / ".venv" / ".unfinished").exists()
