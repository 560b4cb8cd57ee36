"""kernels.explain.counted: the table is what the compiler makes of the kernel today."""

from pathlib import Path

import pytest
import triton

import kernels.explain.counted
from kernels import compile_report
from kernels.compile_report.counted import CASES, table, text_of
from kernels.compile_report.pipes import TENSOR
from kernels.compile_report.promises import COUNTED_WITH
from kernels.explain.counted import COUNTED

AGAIN = "python -m kernels.compile_report.counted > counted.py && mv counted.py kernels/explain/"


def test_the_file_is_as_it_is_generated():
    file = Path(kernels.explain.counted.__file__)
    assert file.read_text(encoding="utf-8") == text_of(COUNTED), AGAIN


def test_every_case_and_target_is_in_it():
    assert {key[0] for key in COUNTED} == set(TENSOR)
    assert all(compile_report.cases(name)[0].name == name for name in CASES)


@pytest.mark.skipif(
    tuple(map(int, triton.__version__.split(".")[:2])) != COUNTED_WITH,
    reason="the table was made with another Triton",
)
@pytest.mark.parametrize(
    ("name", "arch"),
    [("split bf16 D=128 G=8 Lq=1", 90), ("split bf16 int8 D=128 G=8 Lq=1 scale a head", 80)],
)
def test_rows_are_what_is_compiled_today(name, arch):
    found = table(compile_report.run(name, arch))
    assert len(found) == 1
    for key, row in found.items():
        assert COUNTED[key] == row, AGAIN
