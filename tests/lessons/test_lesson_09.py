"""Lesson 09 quotes the kernels word for word, and its figure of a recorded run can be drawn."""

import re

import pytest
from quotes import lines_of, quoted_lines

from benchmarks import protocol
from course import figures
from course.notebooks.files import ROOT, read
from kernels.compile_report.loops import parse
from kernels.compile_report.pipes import busy, multiply_adds

LESSON = "09_flash_decoding_triton.ipynb"
QUOTED = tuple(f"flash_decoding/{name}" for name in ("split", "attend", "rows", "combine"))


def test_every_quoted_line_stands_in_a_kernel():
    quoted, lines = quoted_lines(LESSON), lines_of(*QUOTED)
    assert len(quoted) >= 15
    assert [line for line in quoted if line not in lines] == []


@pytest.mark.parametrize("module", QUOTED)
def test_every_module_is_quoted(module):
    others = lines_of(*(name for name in QUOTED if name != module))
    assert set(quoted_lines(LESSON)) - others


def test_every_function_stands_where_the_lesson_says():
    text = "\n".join(cell.source for cell in read(ROOT / "notebooks" / LESSON).cells)
    places = re.findall(r"((?:`\w+`(?:, )?)+) of `(kernels/(?:\w+/)?\w+\.py)`", text)
    assert len(places) >= 4
    for names, place in places:
        source = (ROOT / place).read_text(encoding="utf-8")
        for name in re.findall(r"\w+", names):
            assert f"\ndef {name}(" in source, f"{name} is not in {place}"


def test_the_machine_code_shown_is_as_long_as_the_lesson_counts():
    """The excerpt goes from the target of its last jump to that jump; 16 bytes an instruction."""
    cells = {cell.id: cell.source for cell in read(ROOT / "notebooks" / LESSON).cells}
    block = re.search(r"```text\n(.*?)```", cells["l09-62c"], re.S)[1]
    rows = re.findall(r"^(\w{4}) +(@!P0 )?([A-Z].*?)(?:  +.*)?$", block, re.M)
    code = parse("\n".join(f"/*{at}*/ {when}{what} ;" for at, when, what in rows))
    assert len(code) == len(block.splitlines()) == 10
    assert int(code[-1].operands, 16) == code[0].address
    first, last = re.search(r"\((0x\w+) - (0x\w+)\) // 16", cells["l09-62d"]).groups()
    assert (int(first, 16), int(last, 16)) == (code[-1].address, code[0].address)
    assert multiply_adds(code[2].name) == 16 * 8 * 16
    assert busy([code[6]], "sm_90") == {"xu": 8}  # an exp2, as the lesson says


def test_issue_shares_draws_every_kernel_once_and_ours_first():
    rows = [row for row in protocol.load("peers_static")["rows"] if row["target"] == "sm_90"]
    today = [row for row in rows if not row["peer"].startswith("ours at")]
    ax = figures.issue_shares(rows, "recorded").axes[0]
    drawn = sorted(bar.get_width() for bar in ax.patches if bar.get_width())
    assert drawn == sorted(row["issue_share"] for row in rows)
    names = [label.get_text() for label in ax.get_yticklabels()]
    kinds = [text.get_text() for text in ax.texts if "G = " in text.get_text()]
    assert len(kinds) == len(set(kinds)) == 3
    ours = sum(row["peer"] == "ours" and "bf16, G 8" in row["case"] for row in rows)
    assert len(names) == len(today) < len(rows)  # an earlier build is drawn on ours
    assert all(name.startswith("ours") for name in names[:ours])
    assert "vLLM, decode, pages of 16" in names and "ours, e4m3" in names


def test_a_recorded_run_can_be_drawn():
    rows = [
        {"Lk": 512 << i, "fa2_ms": 2.0**i, "sdpa_ms": 1.0, "flash_decoding_ms": 0.5,
         "share_of_read": 0.1 * i}
        for i in range(9)
    ]  # fmt: skip
    left, right = figures.gpu_decode(rows[::-1], "made up").axes
    fa2 = next(line for line in left.lines if line.get_label() == "FlashAttention-2")
    assert list(fa2.get_xdata()) == [row["Lk"] for row in rows]
    assert list(fa2.get_ydata()) == [row["fa2_ms"] / 1e3 for row in rows]
    assert [text.get_text() for text in left.texts] == [f"{2 * 2.0**i:.1f}×" for i in range(9)]
    assert list(right.lines[0].get_ydata()) == [row["share_of_read"] for row in rows]


def test_who_was_not_timed_is_not_drawn():
    rows = [
        {"Lk": 512, "flash_decoding_ms": 0.5, "share_of_read": 0.1},
        {"Lk": 1024, "fa2_ms": 3.0, "flash_decoding_ms": 0.6, "share_of_read": 0.2},
        {"Lk": 2048, "cannot": {"flash_decoding": "out of memory"}},
    ]
    left, right = figures.gpu_decode(rows, "made up").axes
    drawn = {line.get_label(): list(line.get_xdata()) for line in left.lines}
    assert drawn == {"FlashAttention-2": [1024], "Flash-Decoding": [512, 1024]}
    assert list(right.lines[0].get_xdata()) == [512, 1024]


def test_key_blocks_draws_each_block_once():
    ax = figures.key_blocks([[(0, 32), (32, 40)], [(0, 0), (0, 0)]], 16, 48).axes[0]
    widths = [bar.get_width() for bar in ax.patches if bar.get_width() != 48]
    assert widths == [16, 16, 8]


def test_packed_tile_names_its_rows():
    ax = figures.packed_tile(G=3, Lq=2, Hkv=2, kv_head=1, block_m=16).axes[0]
    texts = [text.get_text() for text in ax.texts]
    assert texts.count("padding") == 10
    assert [t for t in texts if ", h" in t][2:4] == ["query 0, h5", "query 1, h3"]


def test_main_and_tail_colours_what_is_seen():
    ax = figures.main_and_tail(["a", "b"], [6, 7], start=0, end=4, stop=7, block_n=4).axes[0]
    colors = [box.get_facecolor() for box in ax.patches]
    whole, seen, hidden = colors[0], colors[4], colors[7]
    assert len({whole, seen, hidden}) == 3
    assert colors[:8] == [whole] * 4 + [seen] * 2 + [hidden] * 2
    assert colors[8:] == [whole] * 4 + [seen] * 3 + [hidden]
