"""What somebody wrote in a notebook: the sources of its cells. Outputs are nobody's answer."""

from __future__ import annotations

import hashlib
import json

STUB = "raise NotImplementedError()"  # nbgrader's, where an answer was


def sources(content: bytes) -> str | None:
    """Return a digest of a notebook's cells, None if `content` is not a notebook.

    Running a notebook doesn't change it: outputs, numbers, metadata and empty cells don't count
    (JupyterLab adds an empty cell when the last one is run).
    """
    try:
        written = [
            (cell["cell_type"], "".join(cell["source"]), cell.get("attachments") or {})
            for cell in json.loads(content)["cells"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    kept = [cell for cell in written if cell[1].strip() or cell[2]]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def answered(content: bytes) -> bool:
    """Say whether an exercise notebook has an answer in place of one of its stubs."""
    try:
        return any(
            cell["metadata"].get("nbgrader", {}).get("solution")
            and STUB not in "".join(cell["source"])
            for cell in json.loads(content)["cells"]
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def digest(content: bytes) -> str:
    """Return a digest of a file, the same for the line ends of Windows."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()
