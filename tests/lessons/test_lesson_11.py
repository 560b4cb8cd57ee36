"""Lesson 11: what its prose says of the museum, of splits that occur, and of its sources."""

import math
import re

import pytest
import torch

from course.check.lesson_11.find_rounding import MOST, BlackBox
from course.notebooks.files import ROOT, read
from kernels.heuristics import choose_num_splits
from reference.precision import MUSEUM

LESSON = read(ROOT / "notebooks" / "11_precision.ipynb")
PROSE = "\n".join(cell.source for cell in LESSON.cells if cell.cell_type == "markdown")


def test_four_of_eleven_show_themselves_as_nan():
    nan = [p.name for p in MUSEUM.values() if math.isnan(p.error(p.broken))]
    assert (len(nan), len(MUSEUM)) == (4, 11)
    assert "only four of the eleven show themselves as NaN" in PROSE


def test_every_piece_is_named_and_linked_in_the_order_of_the_tour():
    sources = PROSE[PROSE.index("## Sources") :]
    links = re.findall(r"\((https://github\.com/[^)]+)\)", sources)
    assert links == [piece.link for piece in MUSEUM.values()]
    assert all(f"*{name}*" in sources for name in MUSEUM)


def test_short_prompts_are_never_split_and_long_ones_by_batch():
    def chosen(batch, length):
        rule = {"kv_heads": 8, "m_tiles": 1, "block_n": 64, "num_sms": 132}
        return choose_num_splits(batch=batch, max_len=length, **rule)

    batches = (1, 2, 4, 8, 16)
    assert {chosen(batch, 256) for batch in batches} == {1}
    assert len({chosen(batch, 8192) for batch in batches}) == len(batches)


def test_lesson_and_exercise_show_the_same_piece():
    """Exercise 11.3 is the museum's window piece in full: its stage 1 skips the same splits."""
    piece = MUSEUM["a window that the merge does not know"]
    scores, v, S, window, _ = piece.make_input()
    names = {}
    cells = read(ROOT / "solutions" / "11_precision.ipynb").cells
    source = next(cell.source for cell in cells if cell.source.startswith("def shipped"))
    exec(f"import math, torch\n{source}", names)

    o, lse = torch.full((S, v.shape[1]), 4.0), torch.full((S,), 4.0)
    got, _ = names["shipped"](scores, v, S, window, o, lse)
    torch.testing.assert_close(got, piece.broken(*piece.make_input()))


def test_a_sum_of_the_exercise_takes_as_many_numbers_as_its_text_says():
    text = "".join(cell["source"] for cell in read(ROOT / "solutions/11_precision.ipynb")["cells"])
    assert f"at most {MOST:,} numbers" in text
    total = BlackBox(0, 64, False)
    assert total(torch.ones(MOST)) == MOST
    for x in (torch.ones(MOST + 1), torch.ones(2, 3)):
        with pytest.raises(ValueError, match=r"of at most 10,000 numbers; got"):
            total(x)
