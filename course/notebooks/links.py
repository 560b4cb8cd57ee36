"""Links in the notebooks: each leads somewhere, and the way through the course has no gap."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from nbformat import NotebookNode

from course.notebooks.files import ROOT, notebooks
from course.notebooks.rules import Finding, cells

LINK = re.compile(r"\]\(([^()\s]+)\)")
FENCED = re.compile(r"```.*?```|`[^`\n]*`", re.S)  # code in prose: brackets there are no links


def targets(source: str) -> list[str]:
    """Return what the links of a markdown text lead to, web addresses and headings left out."""
    found = (link.split("#")[0] for link in LINK.findall(FENCED.sub("", source)))
    return [link for link in found if link and not re.match(r"[a-z]+:", link)]


def resolve(nb: NotebookNode, path: Path) -> Iterator[Finding]:
    """Every relative link leads to a file or folder of the project."""
    for cell in cells(nb, "markdown"):
        for link in targets(cell.source):
            if not _reached(path, link).exists():
                yield Finding(cell.id, f"a link leads nowhere: {link}")


def way(nb: NotebookNode, path: Path) -> Iterator[Finding]:
    """Lesson and exercises end with links to each other, to the answers and to the next lesson."""
    lessons = [lesson.name for lesson in notebooks("notebooks")]
    if path.name not in lessons:
        return
    after = lessons[lessons.index(path.name) + 1 :][:1]
    wanted = [ROOT / "notebooks" / after[0] if after else ROOT / "README.md"]
    if (ROOT / "solutions" / path.name).exists():
        wanted += [ROOT / folder / path.name for folder in ("exercises", "solutions")]
    if path.parent.name != "notebooks":
        wanted.append(ROOT / "notebooks" / path.name)
    ending = (link for cell in cells(nb, "markdown")[-2:] for link in targets(cell.source))
    reached = {_reached(path, link) for link in ending}
    for goal in wanted:
        if goal not in reached:
            yield Finding("", f"no link at its end to {goal.relative_to(ROOT)}")


def _reached(path: Path, link: str) -> Path:
    return Path(os.path.normpath(path.parent / unquote(link)))
