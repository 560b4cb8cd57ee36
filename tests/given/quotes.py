"""Lines of code that a lesson quotes, and the lines they must match."""

import re

from course.notebooks.files import ROOT, read


def quoted_lines(lesson: str) -> list[str]:
    """The lines of code in the ```python blocks of the lesson's text, without their comments."""
    text = "\n".join(c.source for c in read(ROOT / "notebooks" / lesson).cells
                     if c.cell_type == "markdown")  # fmt: skip
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    return [bare(line) for block in blocks for line in block.splitlines() if bare(line)]


def lines_of(*modules: str) -> set[str]:
    """All lines of these modules of `kernels`, without their comments."""
    texts = [(ROOT / "kernels" / f"{name}.py").read_text(encoding="utf-8") for name in modules]
    return {bare(line) for text in texts for line in text.splitlines()}


def bare(line: str) -> str:
    """The line without its indentation and its comment."""
    return re.sub(r"\s*# .*$", "", line).strip()
