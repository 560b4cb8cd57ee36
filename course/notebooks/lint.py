"""Check notebooks against the rules, and say where the rules are broken."""

from __future__ import annotations

from pathlib import Path

from course.notebooks.files import read
from course.notebooks.rules import EVERYWHERE, Finding
from course.notebooks.rules_of_kinds import lesson_rules, solution_rules

LARGEST = 1_000_000  # bytes in a stored notebook


def lint(path: Path) -> list[Finding]:
    """Return all findings on a lesson or a solutions notebook, told apart by its folder."""
    nb, size = read(path), path.stat().st_size
    rules = solution_rules(path) if path.parent.name == "solutions" else lesson_rules(path)
    findings = [found for rule in (*EVERYWHERE, *rules) for found in rule(nb)]
    if size > LARGEST:
        findings.append(Finding("", f"{size:,} bytes; at most {LARGEST:,} are allowed"))
    return findings


def show(paths: list[Path]) -> int:
    """Print the findings on notebooks; return 1 if any of them is an error."""
    errors = 0
    for path in paths:
        for finding in lint(path):
            errors += finding.error
            where = f"{path.parent.name}/{path.name}" + (f" [{finding.cell}]" * bool(finding.cell))
            print(f"{'✗' if finding.error else '!'} {where}: {finding.message}")
    print(f"{len(paths)} notebooks, {errors} errors")
    return 1 if errors else 0
