"""Execute notebooks in a fresh kernel, and store them with their outputs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

from course.launch import private_kernels
from course.notebooks.copies import write
from course.notebooks.files import normalise, read, text

SECONDS = 120  # per cell


def execute(nb: NotebookNode, folder: Path, bar: tqdm | None = None) -> NotebookNode:
    """Run all cells in place, with `folder` as working directory; return the normalised notebook.

    Lets nbclient's errors through. The learner's own progress file is not touched.
    """
    client = NotebookClient(
        nb,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    if runtime := os.environ.get("JUPYTER_RUNTIME_DIR"):  # `make` sets it
        client.config.KernelManager.update(private_kernels(Path(runtime)))
    if bar is not None:
        client.on_cell_complete = lambda cell, cell_index: bar.update()
    with tempfile.TemporaryDirectory() as scratch:
        progress = {"COURSE_PROGRESS_FILE": str(Path(scratch) / "progress.json")}
        client.execute(env={**os.environ, **progress})
    return normalise(nb)


def run(paths: list[Path]) -> int:
    """Execute and store notebooks; return how many failed. Those stay as they were."""
    failures = 0
    for path in paths:
        nb = read(path)
        code = sum(cell.cell_type == "code" for cell in nb.cells)
        with tqdm(total=code, desc=path.name, unit="cell") as bar:
            try:
                execute(nb, path.parent, bar)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                failures += 1
                bar.write(f"✗ {path.name} was not stored:\n{error}")
                continue
        write(path, text(nb).encode())
    return failures
