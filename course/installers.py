"""pip and uv: how the set-up calls them, what to show of their output, what their errors mean.

uv is taken where it is present, since it needs seconds where pip needs minutes. It does not read
pip's settings (`pip.conf`, `PIP_…`), so those that say where packages come from are handed to it:
a package index of the user's own holds for both.

Like `bootstrap.py`, which uses it, this keeps to the standard library and Python 3.6's syntax.
"""

import ast
import os
import re
import shutil
import subprocess

OLDEST_UV = (0, 5)  # the first with --default-index and --index

# What the log says, and what the reader can do about it. The first match counts.
TROUBLE = (
    (("No space left on device",), "The disk is full: free about 8 GB"),
    (
        (
            "NameResolutionError",
            "NewConnectionError",
            "ConnectTimeoutError",
            "ReadTimeoutError",
            "ProxyError",
            "Failed to establish a new connection",
            "Connection refused",
            "Network is unreachable",
            "client error (Connect)",  # this and the next two are uv's
            "operation timed out",
            "network was disabled",
            "No matching distribution found for setuptools",  # every index has it: none was reached
        ),
        "No network, or the package index cannot be reached: connect this machine"
        " (behind a proxy, set HTTPS_PROXY)",
    ),
    (
        (
            "No matching distribution found",
            "Could not find a version that satisfies",
            "ResolutionImpossible",
            "No solution found when resolving dependencies",  # uv's
        ),
        "A requirement has no build for this machine, or a constraint of yours excludes it: use"
        " 64-bit Python 3.11, 3.12, 3.13 or 3.14 on Linux, Windows or an Apple-silicon Mac",
    ),
)


class SetupError(Exception):
    """The set-up cannot go on; the message is one sentence that says what to do."""


def known_trouble(log: str) -> str:
    """Return what a log says went wrong and what to do, as half a sentence, or "" if unknown."""
    if "invalid peer certificate" in log:  # uv's own list of certificates: pip may get through
        return ""
    for signs, advice in TROUBLE:
        if any(sign in log for sign in signs):
            return advice
    return ""


def diagnose(log: str) -> str:
    """Return what pip's log says went wrong and what to do about it, as half a sentence."""
    unknown = "pip could not install the requirements: fix what its last lines report"
    return known_trouble(log) or unknown


def no_news(line: str) -> tuple:
    """Show nothing of a line: the command is short."""
    return "", ""


def pip_news(line: str) -> tuple:
    """Return what to show of a line from pip (packages of 1 MB or more), and the step it begins."""
    words = line.split()
    if words[:1] == ["Downloading"] and words[-1] in ("MB)", "GB)"):
        package = "-".join(words[1].split("-")[:2]) + " " + " ".join(words[-2:])
        return package, "downloading " + package
    if words[:2] == ["Installing", "collected"]:
        return "unpacking, the last step", "unpacking"
    return "", "looking for packages" if words[:1] in (["Collecting"], ["Downloading"]) else ""


def uv_news(line: str) -> tuple:
    """Return what to show of a line from uv (packages of 1 MB or more), and the step it begins."""
    words = line.split()
    if words[:1] == ["Resolved"]:
        return f"{words[1]} packages needed", "downloading"
    if words[:1] == ["Downloading"] and len(words) == 3:
        return " ".join(words[1:]), "downloading"
    if words[:1] == ["Prepared"]:
        return "unpacking, the last step", "unpacking"
    return "", ""


def pip_environment() -> dict:
    """Return the environment for pip: this process's, but never its question about a new pip."""
    return dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_USER="0")


def pip_settings(python: str) -> dict:
    """Return the settings that `pip install` of this Python goes by, such as "index-url".

    They come from pip's files and from PIP_ variables; the latter win. Where this Python has no
    pip, they come from the variables alone.
    """
    asked = [python, "-m", "pip", "config", "list"]
    done = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    sections = {"global": {}, "install": {}, ":env:": {}}  # each wins over those before
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in sections:
            sections[section][key] = ast.literal_eval(value)
    if done.returncode:
        for name, value in os.environ.items():
            if name.startswith("PIP_"):
                sections[":env:"][name[4:].lower().replace("_", "-")] = value
    merged = {}
    for settings in sections.values():
        merged.update({key: value for key, value in settings.items() if value})
    return merged


def own_index(settings: dict) -> bool:
    """Say whether packages come from an index that the user has chosen instead of PyPI."""
    uv = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_NO_INDEX", "UV_OFFLINE")
    pip = ("index-url", "no-index")
    return any(settings.get(key) for key in pip) or any(os.environ.get(name) for name in uv)


def output_of(command: list) -> bytes:
    """Return what a program prints; nothing if it fails, or takes more than 20 s."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return b""


def working_uv() -> str:
    """Return the path of uv, or "" if there is none that runs and is new enough.

    COURSE_INSTALLER=pip in the environment says to do without uv.
    """
    path = shutil.which("uv")
    if not path or os.environ.get("COURSE_INSTALLER") == "pip":
        return ""
    found = re.match(rb"uv (\d+)\.(\d+)", output_of([path, "--version"]))
    new_enough = found and tuple(int(part) for part in found.groups()) >= OLDEST_UV
    return path if new_enough else ""


def uv_sources(settings: dict) -> list:
    """Return uv's options for where pip's settings say that packages come from.

    An index that the user has named to uv itself comes first: then pip's are not passed on.
    """
    options = []
    if not any(name.startswith(("UV_INDEX", "UV_DEFAULT_INDEX")) for name in os.environ):
        if settings.get("index-url"):
            options += ["--default-index", settings["index-url"]]
        for url in settings.get("extra-index-url", "").split():
            options += ["--index", url]
        if settings.get("extra-index-url"):  # as pip: the best version, wherever it is
            options += ["--index-strategy", "unsafe-best-match"]
    own = os.environ.get("UV_FIND_LINKS", "").split(",")  # the options below would hide it
    for place in filter(None, own + settings.get("find-links", "").split()):
        options += ["--find-links", place]
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    for host in settings.get("trusted-host", "").split():
        options += ["--allow-insecure-host", host]
    return options


def uv_constraints(settings: dict) -> list:
    """Return uv's options for pip's constraints files, unless uv has been given its own."""
    if os.environ.get("UV_CONSTRAINT"):
        return []
    files = settings.get("constraint", "").split()
    return [option for file in files for option in ("--constraint", file)]


def uv_environment(settings: dict) -> dict:
    """Return the environment for uv: this process's, with pip's certificate, proxy and patience."""
    environment = dict(os.environ, UV_NO_PROGRESS="1", UV_PYTHON_DOWNLOADS="never")
    timeout = settings.get("timeout") or settings.get("default-timeout")
    for name, value in (
        ("SSL_CERT_FILE", settings.get("cert")),
        ("HTTPS_PROXY", settings.get("proxy")),
        ("HTTP_PROXY", settings.get("proxy")),
        ("UV_HTTP_TIMEOUT", timeout),
    ):
        if value:
            environment.setdefault(name, value)
    return environment
