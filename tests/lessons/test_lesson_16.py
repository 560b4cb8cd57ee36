"""Lesson 16 says of other modules what is so, and its recorded measurements are what it tells."""

import re

import torch
from torch.nn import functional

from course.notebooks.files import ROOT, read
from reference.distributed import heads_of_rank, sent_bytes

LESSON = "16_beyond_one_gpu.ipynb"


def prose() -> str:
    return "\n".join(c.source for c in read(ROOT / "notebooks" / LESSON).cells)


def test_nothing_is_left_to_be_written():
    assert not re.search(r"[A-Z]{4,}-TEXT|TODO|XXX", prose())


def test_gather_and_reduce_meet_where_the_lesson_says():
    """4 ranks in bf16, 2 in fp32 (nearly, there: 4 bytes a row)."""
    assert sent_bytes("gather", 4, 64, 128, 2) == sent_bytes("reduce", 4, 64, 128, 2)
    for size, ranks in ((2, 4), (4, 2)):
        few, many = (
            sent_bytes("gather", r, 64, 128, size) <= sent_bytes("reduce", r, 64, 128, size)
            for r in (ranks, 2 * ranks)
        )
        assert few and not many


def test_pytorch_merges_by_sigmoid_as_the_lesson_says():
    """The formula of `_SDPAMerger`, on two empty partials."""
    nothing = torch.tensor([-torch.inf])
    assert functional.sigmoid(nothing - nothing).isnan().all()


def test_the_exercises_heads_are_shared_out_as_said():
    assert [len(x) for x in heads_of_rank(4, 3)] == [2, 1, 1]
