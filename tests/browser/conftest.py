"""A JupyterLab of our own and a Chromium to view it: what `make browser` needs.

Chromium is the one thing that pip does not install. Any on this machine will do: the program that
CHROMIUM names, one on the PATH, or Playwright's own.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from course.launch import ROOT, keep_quiet, private_environment

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
STARTING_SECONDS = 90
MISSING = (
    "No Chromium was found: install it (on Debian or Ubuntu `sudo apt install chromium`, anywhere"
    " `.venv/bin/python -m playwright install chromium`) or set the variable CHROMIUM to its path."
)


def find_chromium(own: str) -> str:
    """The path of a Chromium; `own`: where Playwright keeps its own, if that is installed."""
    named = os.environ.get("CHROMIUM")
    found = [named] if named else [*map(shutil.which, NAMES), own]
    for path in found:
        if path and Path(path).exists():
            return path
    pytest.exit(MISSING, returncode=1)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab serving this project, with `%s` where a notebook's path goes."""
    folder = tmp_path_factory.mktemp("jupyter")
    environment = private_environment(folder)
    settings = Path(environment["JUPYTERLAB_SETTINGS_DIR"])
    keep_quiet(settings)
    # Keep all cells in the page at once, even those out of view, so that they can be found.
    file = settings / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"windowingMode": "none"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.root_dir={ROOT}", "--LanguageServerManager.autodetect=False"]
    environment["COURSE_PROGRESS_FILE"] = str(folder / "progress.json")
    log = folder / "lab.log"
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
    try:
        wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, log)
        # Reset the workspace, or Lab would reopen what the last test left open.
        yield f"http://127.0.0.1:{port}/lab/tree/%s?token={token}&reset"
    finally:
        server.terminate()
        server.wait(20)


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    """Return when the server answers; fail with its log if it dies or takes too long."""
    until = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = find_chromium(playwright.chromium.executable_path)
        # no sandbox: containers and root cannot create one, and the pages are our own
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
