"""Lesson 09 quotes the kernels word for word, and its figure of a recorded run can be drawn."""

import re

from course import figures
from course.notebooks.files import ROOT, read

LESSON = ROOT / "notebooks" / "09_flash_decoding_triton.ipynb"


def quoted_lines() -> list[str]:
    """The lines of code that the lesson's text quotes in ```python blocks."""
    text = "\n".join(c.source for c in read(LESSON).cells if c.cell_type == "markdown")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_every_quoted_line_stands_in_a_kernel():
    lines = {
        line.strip()
        for name in ("split", "combine")
        for line in (ROOT / "kernels" / f"{name}.py").read_text(encoding="utf-8").splitlines()
    }
    quoted = quoted_lines()
    assert len(quoted) >= 15
    assert [line for line in quoted if line not in lines] == []


def test_a_recorded_run_can_be_drawn():
    rows = [
        {"Lk": 512 << i, "fa2_ms": 2.0**i, "sdpa_ms": 1.0, "flash_decoding_ms": 0.5,
         "share_of_read": 0.1 * i}
        for i in range(9)
    ]  # fmt: skip
    left, right = figures.gpu_decode(rows, "made up").axes
    fa2 = next(line for line in left.lines if line.get_label() == "FlashAttention-2")
    assert list(fa2.get_xdata()) == [row["Lk"] for row in rows]
    assert list(fa2.get_ydata()) == [row["fa2_ms"] / 1e3 for row in rows]
    assert [text.get_text() for text in left.texts] == [f"{2 * 2.0**i:.1f}×" for i in range(9)]
    assert list(right.lines[0].get_ydata()) == [row["share_of_read"] for row in rows]


def test_key_blocks_draws_each_block_once():
    ax = figures.key_blocks([[(0, 32), (32, 40)], [(0, 0), (0, 0)]], 16, 48).axes[0]
    widths = [bar.get_width() for bar in ax.patches if bar.get_width() != 48]
    assert widths == [16, 16, 8]


def test_packed_tile_names_its_rows():
    ax = figures.packed_tile(G=3, Lq=2, Hkv=2, kv_head=1, block_m=16).axes[0]
    texts = [text.get_text() for text in ax.texts]
    assert texts.count("padding") == 10
    assert [t for t in texts if ", h" in t][2:4] == ["query 0, h5", "query 1, h3"]
