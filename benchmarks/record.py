"""A record on disk that grows cell by cell, so that a run may be cut short and resumed."""

import json
import os
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SAME = ("code", "gpu", "driver", "torch", "triton")
"""What must agree for rows of an earlier run to be kept with those of this one."""


class Record:
    """Circumstances and rows; written after every row, if it has a path.

    header: everything but the rows. resume: keep the rows in the file at `path` if they were
    measured with the same code on the same machine (`SAME`); `kept` and `dropped` count them.
    """

    def __init__(self, path: Path | None, header: Mapping[str, Any], *, resume: bool) -> None:
        self.path, self.header = path, dict(header)
        self.rows: dict[str, dict[str, Any]] = {}
        self.dropped = 0
        if resume and path and path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            rows = before.get("rows", [])
            if all(before.get(key) == self.header.get(key) for key in SAME):
                self.rows = {row["cell"]: row for row in rows}
                self.header["peers"] = before.get("peers", {}) | self.header.get("peers", {})
            else:
                self.dropped = len(rows)
        self.kept = len(self.rows)

    def holds(self, cell: str, names: Collection[str]) -> bool:
        """Whether the cell's row has a time or a reason for all these contestants."""
        row = self.rows.get(cell)
        if row is None:
            return False
        said = row["cannot"]
        return all(f"{n}_ms" in row or n in said or f"{n} graph" in said for n in names)

    def put(self, cell: str, row: Mapping[str, Any]) -> None:
        """Add the cell's row, replacing any earlier one, and write the file."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.rows[cell] = {"cell": cell, "date": now, **row}
        self.write()

    def write(self) -> None:
        """Write the whole file or nothing: a run that is cut short leaves what was there."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        draft.write_text(self.as_json(), encoding="utf-8")
        os.replace(draft, self.path)

    def as_json(self) -> str:
        """The whole record, one line per row."""
        head = json.dumps(self.header, indent=1, ensure_ascii=False).removesuffix("\n}")
        rows = ",\n".join("  " + json.dumps(r, ensure_ascii=False) for r in self.rows.values())
        return f'{head},\n "rows": [\n{rows}\n ]\n}}\n'
