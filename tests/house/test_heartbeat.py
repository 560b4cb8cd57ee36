"""Signs of life: a slow step of the set-up is never silent, and an interrupted one is ended."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from course import heartbeat

SLOW = "import time; print('begin', flush=True); time.sleep(1); print('end'); raise SystemExit(3)"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def read(line: str) -> tuple[str, str]:
    return ("begun", "working") if line.startswith("begin") else ("", "")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT", 0.2)


def test_a_silent_step_is_named_again_and_again(
    quick: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    status = heartbeat.follow([sys.executable, "-c", SLOW], "starting", read, str(log))
    assert status == 3
    assert log.read_text().split() == ["before", "begin", "end"]
    lines = capfd.readouterr().out.splitlines()
    begun = lines.index("  begun")
    assert set(lines[:begun]) <= {"  still starting (0 s)", "  still starting (1 s)"}
    assert len(lines[begun:]) >= 3 and all("still working" in line for line in lines[begun + 1 :])
    assert not any("\r" in line for line in lines)  # not a terminal: nothing is overwritten


def test_no_gap_is_longer_than_the_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """News that is not shown does not count: pip says a hundred times what it looks at."""
    assert heartbeat.BEAT <= 5
    news = heartbeat.News("looking")
    news.shown = time.monotonic() - heartbeat.BEAT / 2
    news.turn_to("another")
    assert news.patience() <= heartbeat.BEAT / 2
    news.tell("news")
    assert heartbeat.BEAT / 2 < news.patience() <= heartbeat.BEAT


def test_on_a_terminal_the_signs_overwrite_each_other(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    heartbeat.follow([sys.executable, "-c", SLOW], "starting", read)
    text = screen.getvalue()
    assert text.count("\n") == 1  # of the one piece of news
    assert text.count("still working") >= 2
    assert text.endswith("\r")  # the last sign has been wiped away


def test_an_interrupted_command_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    popen = subprocess.Popen

    def note(*arguments: object, **options: object) -> subprocess.Popen:
        started.append(popen(*arguments, **options))
        return started[0]

    def interrupt(line: str) -> tuple[str, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(heartbeat.subprocess, "Popen", note)
    code = "import time; print('begin', flush=True); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        heartbeat.follow([sys.executable, "-c", code], "starting", interrupt)
    assert started[0].returncode not in (None, 0)


def test_output_that_is_no_text_does_no_harm(tmp_path: Path) -> None:
    code = r"import os; os.write(1, b'\xff\xfe bytes\n')"
    assert heartbeat.follow([sys.executable, "-c", code], "x", read, str(tmp_path / "log")) == 0
    assert "bytes" in (tmp_path / "log").read_text(encoding="utf-8")
    assert os.path.getsize(tmp_path / "log")
