"""PyTorch's CPU build where no GPU is found: from a folder, from its index, or not at all."""

import os
import platform
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from course import bootstrap, cpu_torch

TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"
WANTED = "torch>=2.11,<2.16"


@pytest.fixture(autouse=True)
def bare_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Linux machine without GPU and without settings for pip or uv."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "COURSE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(cpu_torch.sys, "platform", "linux")
    monkeypatch.setattr(cpu_torch.glob, "glob", lambda pattern: [])
    monkeypatch.setattr(cpu_torch.os.path, "exists", lambda path: False)
    monkeypatch.setattr(cpu_torch.shutil, "which", lambda name: None)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip knows of; `put` fills it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def put(folder: Path, version: str, tag: str = "py3-none-any") -> None:
    """Make a wheel of an empty package `torch`."""
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-{tag}.whl", "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        )
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def python(tmp_path: Path) -> str:
    """A Python with pip and without PyTorch."""
    folder = tmp_path / "project"
    made = [sys.executable, "-m", "venv", "--without-pip", str(folder / ".venv")]
    subprocess.run(made, check=True)
    packages = next((folder / ".venv").glob("[Ll]ib*/**/site-packages"))
    (packages / "pip").symlink_to(
        Path(find_spec("pip").origin).parent
    )  # imported, pip bars setuptools
    return bootstrap.venv_python(str(folder))


@pytest.fixture
def project(tmp_path: Path) -> str:
    (tmp_path / "pyproject.toml").write_text(f'[project]\ndependencies = ["{WANTED}", "torchy"]\n')
    return str(tmp_path)


def test_the_newest_cpu_build_of_a_folder_is_taken(
    python: str, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cpu_torch.from_folder(python, WANTED) == ""  # the folder is empty
    for version in ("2.10.0+cpu", "2.12.0+cpu", "2.13.0+cpu", "2.13.0", "2.16.0+cpu"):
        put(wheels, version)
    put(wheels, "2.14.0+cpu", "cp27-cp27m-win_amd64")  # for another machine
    assert cpu_torch.from_folder(python, WANTED) == "2.13.0+cpu"

    (tmp_path / "pins.txt").write_text("torch==2.12.0\n")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "pins.txt"))
    assert cpu_torch.from_folder(python, WANTED) == "2.12.0+cpu"
    (tmp_path / "pins.txt").write_text("torch==2.11.0\n")
    assert cpu_torch.from_folder(python, WANTED) == ""


def test_another_build_in_a_folder_is_none(python: str, wheels: Path) -> None:
    put(wheels, "2.13.0+cu130")
    assert cpu_torch.from_folder(python, WANTED) == ""


def test_an_installed_pytorch_is_left_alone(
    project: str, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cpu_torch.from_folder(sys.executable, WANTED) == "installed"
    monkeypatch.setattr(cpu_torch, "on_index", lambda: pytest.fail("asked the index"))
    assert cpu_torch.options(sys.executable, project, {}) == []


@pytest.fixture
def page() -> Iterator[tuple[str, list[str]]]:
    """A web page with links, as PyTorch's index has it: its address, and the list of its links."""
    links = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write("\n".join(f'<a href="/whl/{link}">x</a>' for link in links).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", links
    server.shutdown()
    server.server_close()


def test_the_index_must_have_a_build_for_this_python(page: tuple[str, list[str]]) -> None:
    address, links = page
    end = f"linux_2_28_{platform.machine()}.whl#sha256=0"
    links += [f"torch-2.15.0%2Bcpu-cp27-cp27-many{end}", f"torch-2.15.0%2Bcu130-{TAG}-{TAG}-{end}"]
    links += [
        f"torch-2.15.0%2Bcpu-{TAG}-{TAG}t-many{end}",
        f"torch-2.15.0%2Bcpu-{TAG}-{TAG}-win.whl",
    ]
    assert not cpu_torch.on_index(address)
    links.append(f"torch-2.15.0%2Bcpu-{TAG}-{TAG}-many{end}")
    assert cpu_torch.on_index(address)


def test_an_index_that_cannot_be_reached_is_none() -> None:
    assert not cpu_torch.on_index("http://127.0.0.1:9/")  # port 9, "discard": nobody answers
    assert not cpu_torch.on_index("http://no.such.host.invalid/", patience=0.01)


@pytest.mark.parametrize(
    ("folder", "index", "settings", "expected"),
    [
        ("2.13.0+cpu", False, {}, ["torch==2.13.0+cpu"]),
        ("2.13.0+cpu", True, {}, ["torch==2.13.0+cpu"]),  # no download where a file lies
        ("", True, {}, ["--find-links", cpu_torch.PAGE]),
        ("", True, {"extra-index-url": "https://a.example"}, ["--find-links", cpu_torch.PAGE]),
        ("", True, {"index-url": "https://a.example"}, []),  # their index, and no other
        ("", True, {"no-index": "1"}, []),
        ("", False, {}, []),  # no network: the usual way
    ],
)
def test_folder_then_index_then_the_usual_way(
    folder: str,
    index: bool,
    settings: dict,
    expected: list,
    project: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_torch, "from_folder", lambda python, wanted: folder)
    monkeypatch.setattr(cpu_torch, "on_index", lambda: index)
    assert cpu_torch.options("python", project, settings) == expected
    monkeypatch.setenv("COURSE_GPU", "1")
    assert cpu_torch.options("python", project, settings) == []
    monkeypatch.delenv("COURSE_GPU")
    monkeypatch.setattr(cpu_torch.sys, "platform", "darwin")  # where there is one build only
    assert cpu_torch.options("python", project, settings) == []


def test_a_gpu_is_found_by_its_device_or_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not cpu_torch.has_gpu()
    with monkeypatch.context() as patch:
        patch.setattr(cpu_torch.glob, "glob", lambda pattern: ["/dev/nvidia0"])
        assert cpu_torch.has_gpu()
        patch.setenv("COURSE_GPU", "0")
        assert not cpu_torch.has_gpu()
    with monkeypatch.context() as patch:
        patch.setattr(cpu_torch.os.path, "exists", lambda path: path == "/dev/kfd")
        assert cpu_torch.has_gpu()
    program = tmp_path / "nvidia-smi"
    monkeypatch.setattr(cpu_torch.shutil, "which", lambda name: str(program))
    for script, found in (
        ("echo 'GPU 0: H200'", True),
        ("echo 'no devices'", False),
        ("exit 9", False),
    ):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        assert cpu_torch.has_gpu() == (found and os.name != "nt")
    monkeypatch.setenv("COURSE_GPU", "1")
    assert cpu_torch.has_gpu()
