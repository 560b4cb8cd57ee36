"""Learners' own copies of the notebooks, in work/: git ignores them, and nothing overwrites them.

    python -m course.notebooks.copies     what `make lab` does first

On the first start all lessons, exercises and solutions are copied. On later ones a copy that nobody
has changed is renewed if the course has a new version; a changed one is kept, and the new version
is put beside it, as "NAME (new).ipynb". Nothing is deleted.
What counts as a change: see `answers.sources`.

`work/.copied.json` records, for each notebook, the digests of what was copied and offered.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from course.notebooks.answers import answered, digest, sources
from course.notebooks.history import FOLDERS, committed, edited, tracked

ROOT = Path(__file__).resolve().parents[2]
RECORD = ".copied.json"
# work/ has the three folders; whatever else a notebook links to lies one folder further up.
OUTWARD = re.compile(rb"\]\(\.\./(?!(?:notebooks|exercises|solutions)/)")
SAYS = {
    "copied": "Copied to work/, where you work (git ignores it, and no update overwrites what you"
    " change there): {}.",
    "renewed": "Renewed in work/, where you had changed nothing: {}.",
    "offered": "The course has a new version of what you have changed: yours is kept, and the new"
    " one is beside it in work/: {}.",
    "broken": "Not readable as a notebook, and kept as it is (rename it and start again to get a"
    " fresh copy): {}.",
    "failed": "Not written in work/: {}.",
}
MOST = 6  # names in a sentence that needs no action


def lay_out(root: Path = ROOT) -> list[str]:
    """Bring work/ up to date; return what there is to say about it, one sentence each.

    Raises OSError if work/ itself cannot be made or its record not be written.
    """
    work, said = root / "work", defaultdict(list)
    work.mkdir(exist_ok=True)
    with _alone(work):
        record = _read_record(work)
        for name, tree, course in _course(root):
            try:
                kind, about = _bring(work / name, tree, course, record.setdefault(name, {}))
            except OSError as error:
                kind, about = "failed", f"{name} ({error.strerror or error})"
            said[kind].append(about)
        write(work / RECORD, json.dumps(record, indent=1).encode())
    for kind in ("copied", "renewed"):
        if len(said[kind]) > MOST:
            said[kind] = [f"{len(said[kind])} notebooks"]
    return [text.format(", ".join(said[kind])) for kind, text in SAYS.items() if said[kind]]


def _course(root: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield (name, the file that lies there, the course's version of it), as they are in work/.

    They differ if someone has edited the file in place. With git, the course's version is the last
    commit's, and a file that git does not track is not the course's.
    """
    ours, dirty = tracked(root), edited(root)
    for path in sorted(path for f in FOLDERS for path in (root / f).glob("[0-9][0-9]_*.ipynb")):
        name = path.relative_to(root).as_posix()
        if ours is not None and name not in ours:
            continue
        tree = path.read_bytes()
        course = committed(root, name) if name in dirty else None
        yield name, OUTWARD.sub(rb"](../../", tree), OUTWARD.sub(rb"](../../", course or tree)


def _bring(mine: Path, tree: bytes, course: bytes, entry: dict) -> tuple[str, str]:
    """Copy, renew, offer or keep one notebook; return what was done, and to which."""
    name, theirs = f"{mine.parent.name}/{mine.name}", sources(course)
    if theirs is None:  # an update that went wrong
        return "", name
    # An answer in the course's own exercises/ is somebody's: its copy is never to be renewed.
    original = None if mine.parent.name == "exercises" and answered(course) else theirs
    if not mine.exists():
        write(mine, tree if sources(tree) else course)
        entry.update(copied=original, file=digest(course))
        return "copied", name
    held = mine.read_bytes()
    yours, ran = sources(held), digest(held) != entry.get("file")
    if yours is not None and yours in (theirs, entry.get("copied")):
        if (yours == theirs and ran) or digest(held) == digest(course):
            entry["copied"] = original
            return "", name
        if mine.read_bytes() != held:  # saved at this very moment
            return "", name
        write(mine, course)
        entry.update(copied=original, file=digest(course))
        return "renewed", name
    if theirs not in (entry.get("copied"), entry.get("offered")):
        return "offered", _offer(mine, course, entry)
    return ("broken" if yours is None else ""), name


def _offer(mine: Path, course: bytes, entry: dict) -> str:
    """Put the course's version beside a changed copy; replace an older offer if it is untouched."""
    n, theirs = 1, sources(course)
    while True:
        beside = mine.with_name(f"{mine.stem} (new{f' {n}' if n > 1 else ''}).ipynb")
        there = sources(beside.read_bytes()) if beside.exists() else ""
        if there in ("", entry.get("offered", ""), theirs):
            break
        n += 1
    if (
        there != theirs
    ):  # it is there already if a start was cut short before the record was written
        write(beside, course)
    entry["offered"] = theirs
    return f"{mine.parent.name}/{beside.name}"


def write(path: Path, content: bytes) -> None:
    """Write everything or nothing: make a full copy beside the file, then rename it over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _read_record(work: Path) -> dict[str, dict]:
    try:
        record = json.loads((work / RECORD).read_bytes())
        return {name: dict(entry) for name, entry in record.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # then every copy that is not the course's version counts as changed


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Wait for another start to finish. Where files can't be locked, go on: writing is atomic."""
    with (work / ".lock").open("a") as file:
        with contextlib.suppress(OSError):
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Bring work/ up to date and say what was done; return the exit status."""
    try:
        for sentence in lay_out():
            print(sentence)
    except OSError as error:
        print(f"work/ can't be brought up to date: {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
