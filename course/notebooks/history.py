"""What git knows of a project's notebooks; without git, or outside a repository, nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

FOLDERS = ("notebooks", "exercises", "solutions")


def _git(root: Path, *arguments: str) -> bytes | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, env=environment
        )
    except OSError:  # there is no git
        return None
    return done.stdout if done.returncode == 0 else None


def _names(listing: bytes | None) -> set[str] | None:
    return None if listing is None else {name for name in listing.decode().split("\0") if name}


def tracked(root: Path) -> set[str] | None:
    """Return the files in `FOLDERS` that git tracks, as "exercises/03_….ipynb"; None without git.

    None also if it tracks none of them: then the project was unpacked in someone else's repository.
    """
    return _names(_git(root, "ls-files", "-z", "--", *FOLDERS)) or None


def edited(root: Path) -> set[str]:
    """Return the files in `FOLDERS` that differ from the last commit; empty without git."""
    listing = _git(root, "diff", "--name-only", "--relative", "-z", "HEAD", "--", *FOLDERS)
    return _names(listing) or set()


def committed(root: Path, name: str) -> bytes | None:
    """Return a file as in the last commit, or None."""
    return _git(root, "show", f"HEAD:./{name}")


def staged(root: Path, name: str) -> bytes | None:
    """Return a file as in git's index, or None."""
    return _git(root, "show", f":./{name}")
