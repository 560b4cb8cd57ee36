"""Earlier builds of the kernels, to be measured beside today's in one run."""

import subprocess
import zipfile
from pathlib import Path

from benchmarks.machine import ROOT


def build_of(commit: str, folder: Path) -> Path:
    """Write `kernels/` as it was at a commit into a folder, and return that.

    Raises OSError or subprocess.CalledProcessError where there is no git, or no such commit.
    """
    folder.mkdir()
    archive = ["git", "archive", "--format=zip", f"--output={folder}.zip", commit, "kernels"]
    subprocess.run(archive, cwd=ROOT, check=True, capture_output=True, text=True)
    with zipfile.ZipFile(f"{folder}.zip") as file:
        file.extractall(folder)
    return folder
