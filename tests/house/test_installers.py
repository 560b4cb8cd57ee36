"""What is read from pip's and uv's output, and pip's settings in uv's words."""

import os
import sys
from pathlib import Path

import pytest

from course import installers


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing set for pip or uv."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "COURSE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # pip then reads no file at all


def put_uv(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Make a program `uv` of a shell script, the only one on PATH."""
    program = folder / "uv"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return program


@pytest.mark.parametrize(
    ("log", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("NameResolutionError: Failed to resolve 'index'", "No network"),
        (
            "ERROR: No matching distribution found for torch<2.16,>=2.11",
            "no build for this machine",
        ),
        ("ERROR: ResolutionImpossible: for help visit …", "a constraint of yours"),
        ("NewConnectionError\nNo matching distribution found for torch", "No network"),
        ("No matching distribution found for setuptools>=77", "No network"),
        # uv 0.13.9:
        ("  cause: client error (Connect)\n  cause: dns error", "No network"),
        ("  cause: No space left on device (os error 28)", "The disk is full"),
        (
            "error: No solution found when resolving dependencies\n  cause: Because torch has no"
            " wheels with a matching platform tag",
            "no build for this machine",
        ),
    ],
)
def test_known_trouble_is_named(log: str, advice: str) -> None:
    assert advice in installers.known_trouble(log)
    assert advice in installers.diagnose(log)


@pytest.mark.parametrize(
    "log",
    [
        "error: metadata-generation-failed",
        # uv did reach the index, and did not trust it; pip may
        "cause: client error (Connect)\ncause: invalid peer certificate: UnknownIssuer",
    ],
)
def test_other_trouble_is_left_to_the_log(log: str) -> None:
    assert installers.known_trouble(log) == ""
    assert "fix what its last lines report" in installers.diagnose(log)


@pytest.mark.parametrize(
    ("line", "shown", "step"),
    [
        (
            "  Downloading torch-2.13.0-cp311-cp311-linux.whl (526.6 MB)",
            "torch-2.13.0 (526.6 MB)",
            "downloading torch-2.13.0 (526.6 MB)",
        ),
        ("  Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)", "", "looking for packages"),
        ("Installing collected packages: six, torch", "unpacking, the last step", "unpacking"),
        ("Collecting six", "", "looking for packages"),
        ("WARNING: something", "", ""),
        ("", "", ""),
    ],
)
def test_pips_big_downloads_and_steps_are_shown(line: str, shown: str, step: str) -> None:
    assert installers.pip_news(line) == (shown, step)


@pytest.mark.parametrize(
    ("line", "shown", "step"),
    [
        ("Resolved 131 packages in 2.15s", "131 packages needed", "downloading"),
        ("Downloading triton (272.5MiB)", "triton (272.5MiB)", "downloading"),
        (" Downloaded triton", "", ""),
        ("Prepared 131 packages in 33s", "unpacking, the last step", "unpacking"),
        (" + six==1.17.0", "", ""),
        ("", "", ""),
    ],
)
def test_uvs_big_downloads_and_steps_are_shown(line: str, shown: str, step: str) -> None:
    assert installers.uv_news(line) == (shown, step)


@pytest.mark.parametrize(
    ("script", "usable"),
    [
        ("echo 'uv 0.13.9 (x86_64-unknown-linux-gnu)'", True),
        ("echo 'uv 0.5.0'", True),
        ("echo 'uv 1.0.0'", True),
        ("echo 'uv 0.4.30'", False),  # too old: it has no --default-index
        ("echo 'uv 0.13.9'; exit 1", False),
        ("echo 'pyenv: uv: command not found' >&2; exit 127", False),
        ("echo 'another program called uv'", False),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="the uv made here is a shell script")
def test_only_a_uv_that_works_is_taken(
    script: str, usable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = put_uv(tmp_path, monkeypatch, script)
    assert installers.working_uv() == (str(program) if usable else "")
    monkeypatch.setenv("COURSE_INSTALLER", "pip")
    assert installers.working_uv() == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows asks for no such bit")
def test_a_uv_that_cannot_start_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_uv(tmp_path, monkeypatch, "").write_text("#!/no/such/interpreter\n")
    assert installers.working_uv() == ""
    (tmp_path / "uv").unlink()
    assert installers.working_uv() == ""


def test_pips_settings_are_those_of_its_files_and_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://a.example/simple\nfind-links =\n  /one\n  /two\n"
        "timeout = 30\n[install]\nindex-url = https://b.example/simple\n[freeze]\nindex-url = c\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_TIMEOUT", "90")
    monkeypatch.setenv("PIP_INDEX_URL", "")  # pip takes this as not set
    settings = installers.pip_settings(sys.executable)
    assert settings["index-url"] == "https://b.example/simple"
    assert settings["find-links"].split() == ["/one", "/two"]
    assert settings["timeout"] == "90"


def test_without_a_pip_its_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://a.example/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "")
    settings = installers.pip_settings("false")  # a program that always fails
    assert settings["index-url"] == "https://a.example/simple"
    assert "no-index" not in settings


def test_uv_is_told_where_pip_takes_packages_from() -> None:
    assert installers.uv_sources({}) == installers.uv_constraints({}) == []
    settings = {
        "index-url": "https://a.example/simple",
        "extra-index-url": "https://b.example/simple file:///c",
        "find-links": "\n/one\n/two",
        "constraint": "/d.txt e.txt",
        "trusted-host": "a.example",
        "no-index": "true",
        "disable-pip-version-check": "1",
    }
    assert installers.uv_sources(settings) == [
        *("--default-index", "https://a.example/simple"),
        *("--index", "https://b.example/simple", "--index", "file:///c"),
        *("--index-strategy", "unsafe-best-match"),
        *("--find-links", "/one", "--find-links", "/two"),
        "--no-index",
        *("--allow-insecure-host", "a.example"),
    ]
    constraints = ["--constraint", "/d.txt", "--constraint", "e.txt"]
    assert installers.uv_constraints(settings) == constraints


def test_what_uv_has_been_told_itself_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"index-url": "a", "extra-index-url": "b", "find-links": "c", "constraint": "d"}
    settings.update({"cert": "pips.pem", "proxy": "http://p.example", "timeout": "90"})
    assert installers.uv_environment(settings)["UV_HTTP_TIMEOUT"] == "90"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own.example/simple")
    monkeypatch.setenv("UV_FIND_LINKS", "x,y")
    monkeypatch.setenv("UV_CONSTRAINT", "own.txt")
    monkeypatch.setenv("SSL_CERT_FILE", "own.pem")
    assert installers.uv_sources(settings) == [
        *("--find-links", "x", "--find-links", "y", "--find-links", "c")
    ]
    assert installers.uv_constraints(settings) == []
    assert installers.uv_environment(settings)["SSL_CERT_FILE"] == "own.pem"
    assert installers.own_index({})
