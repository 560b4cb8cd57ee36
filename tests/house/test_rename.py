"""library/rename.py: a module's imports and text as they read in another package."""

import importlib.util
from pathlib import Path, PurePath

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("rename", ROOT / "library" / "rename.py")
rename = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(rename)

FILES = [
    PurePath(name)
    for name in (
        "__init__.py",
        "kernels/__init__.py",
        "kernels/call.py",
        "kernels/plan/__init__.py",
        "kernels/plan/plan_kernel.py",
        "reference/__init__.py",
        "reference/plan.py",
    )
]


def renamed(source: str, file: str = "kernels/plan/plan_kernel.py") -> str:
    return rename.renamed(source, PurePath(file), FILES, "lib")


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("kernels/call.py", "from kernels.plan import Plan", "from .plan import Plan"),
        ("kernels/plan/__init__.py", "from kernels.call import X", "from ..call import X"),
        ("kernels/plan/__init__.py", "from kernels.plan.x import f", "from .x import f"),
        ("kernels/plan/plan_kernel.py", "from kernels.plan import Plan", "from . import Plan"),
        ("kernels/plan/plan_kernel.py", "from kernels import call", "from .. import call"),
        ("reference/plan.py", "from reference import plan", "from . import plan"),
        ("reference/plan.py", "from kernels.call import X", "from ..kernels.call import X"),
        ("kernels/call.py", "from kernelspec import x", "from kernelspec import x"),
        ("kernels/call.py", "from torch import kernels", "from torch import kernels"),
        ("kernels/call.py", "import torch, os", "import torch, os"),
    ],
)  # fmt: skip
def test_an_import_becomes_relative(file: str, before: str, after: str) -> None:
    indented = "def f():\n    é = 'é'; {}  # é, no name\n"
    assert renamed(f"{before}\n", file) == f"{after}\n"
    assert renamed(indented.format(before), file) == indented.format(after)


def test_lines_and_the_order_stay_as_they_are() -> None:
    source = (
        '"""One\n\nTwo: `kernels.call`."""\n\n'
        "from kernels.call import (  # several\n    A,\n    B,\n)\n"
        "\n# isort: split\nimport triton\n"
    )
    wanted = source.replace("from kernels.call", "from ..call").replace("`kernels", "`lib.kernels")
    assert renamed(source) == wanted


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"""See `kernels.call`."""', '"""See `lib.kernels.call`."""'),
        ('""">>> from kernels import call"""', '""">>> from lib.kernels import call"""'),
        ('"""Twins in `reference`."""', '"""Twins in `lib.reference`."""'),
        ('"""`python -m kernels.plan --x`"""', '"""`python -m lib.kernels.plan --x`"""'),
        ('x = 1  # é: as kernels.call.X says', 'x = 1  # é: as lib.kernels.call.X says'),
        ('f"é {x} {x!r:>{y}}: use kernels.plan"', 'f"é {x} {x!r:>{y}}: use lib.kernels.plan"'),
        ('x = ("é kernels.call"\n "kernels")', 'x = ("é lib.kernels.call"\n "kernels")'),
    ],
)  # fmt: skip
def test_text_says_the_new_names(before: str, after: str) -> None:
    assert renamed(f"{before}\n") == f"{after}\n"


@pytest.mark.parametrize(
    "source",
    [
        '"""kernels/plan/plan_kernel.py; the kernels; reference code; kernels.nothing"""',
        '"""lib.kernels.call, my_kernels.call, x.reference.plan"""',
        "y = reference.plan + kernels",
        'name.startswith("kernels.")',
    ],
)
def test_what_is_no_module_stays(source: str) -> None:
    assert renamed(f"{source}\n") == f"{source}\n"


@pytest.mark.parametrize("source", ["import kernels", "import os, reference.plan as plan"])
def test_an_import_without_a_relative_form_stops_the_build(source: str) -> None:
    with pytest.raises(ValueError, match=r"plan_kernel\.py, line 2: must import with `from`; got"):
        renamed(f"\n{source}\n")
