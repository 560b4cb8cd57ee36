"""Recorded runs: the JSON that `benchmarks` writes and lessons, figures and checks read."""

import json
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"


def load(name: str, folder: Path = RESULTS) -> dict | None:
    """Return the recorded run `NAME.json` of a folder, or None if nobody has recorded one yet."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
