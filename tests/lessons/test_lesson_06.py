"""Lesson 06 quotes the kernel word for word, and names places that exist."""

import re

import torch
from quotes import lines_of, quoted_lines

from course import figures
from course.notebooks.files import ROOT, read

LESSON = "06_flash_attention_triton.ipynb"


def test_every_quoted_line_stands_in_the_kernel():
    quoted = quoted_lines(LESSON)
    assert len(quoted) >= 25
    lines = lines_of("flash_attention/forward", "primitives")
    assert [line for line in quoted if line not in lines] == []


def test_every_module_that_it_names_exists():
    text = "\n".join(cell.source for cell in read(ROOT / "notebooks" / LESSON).cells)
    named = set(re.findall(r"kernels/(?:\w+/)?\w+\.py", text))
    assert {"kernels/flash_attention/forward.py", "kernels/flash_attention/backward.py"} <= named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_causal_stages_names_both_axes():
    visible = torch.ones(4, 6, dtype=torch.bool).tril(2)
    texts = [t.get_text() for t in figures.causal_stages([(2, 6)], visible, 4, 2).axes[0].texts]
    assert {"queries ↓", "keys →", "full = 2, stop = 6"} <= set(texts)
