"""The range of each version stands in several files: they agree, and .ci/run tests inside it."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from course import bootstrap

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [f"3.{minor}" for minor in range(bootstrap.OLDEST[1], bootstrap.NEWEST[1] + 1)]
JOBS = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]
CELLS = JOBS["everything"]["strategy"]["matrix"]["include"]


def requirements(extra: str = "") -> list[Requirement]:
    """What the project, or an extra of it, requires on Linux; extras that name others included."""
    extras = PROJECT["optional-dependencies"]
    found = []
    for text in extras[extra] if extra else PROJECT["dependencies"]:
        wanted = Requirement(text)
        if wanted.name == PROJECT["name"]:
            found += [inner for name in wanted.extras for inner in requirements(name)]
        elif wanted.marker is None or wanted.marker.evaluate({"sys_platform": "linux"}):
            found.append(wanted)
    return found


def specifier(name: str) -> SpecifierSet:
    return next(wanted.specifier for wanted in requirements() if wanted.name == name)


def pins() -> dict[str, str]:
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    found = dict(line.split("==") for line in lines if not line.startswith("#"))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}


# Triton is left open: PyTorch for GPUs requires the one that it was made with.
PINNED = [wanted for wanted in requirements() + requirements("dev") if wanted.name != "triton"]


@pytest.mark.parametrize("wanted", PINNED, ids=lambda wanted: wanted.name)
def test_ci_tests_with_a_version_in_the_range(wanted: Requirement) -> None:
    """If this fails, move the range or the pin (`.ci/pin` writes all pins anew)."""
    assert wanted.specifier.contains(pins()[wanted.name.lower()])


def test_pins_leave_the_build_open() -> None:
    """A pin of 2.13.0+cpu could be met with PyTorch's own index alone."""
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins().values())
    assert len(pins()) > 100 and "triton" not in pins()


@pytest.mark.parametrize(
    "file", ["README.md", "CONTRIBUTING.md", "Makefile", "course/bootstrap.py"]
)
def test_every_list_of_pythons_is_whole(file: str) -> None:
    text = " ".join((ROOT / file).read_text().replace('"', " ").split())
    lists = re.findall(r"Python ((?:3\.\d+(?:, | or )){2,}3\.\d+)", text)
    assert lists and all(re.findall(r"3\.\d+", found) == PYTHONS for found in lists)


def test_make_tries_the_pythons_of_the_range() -> None:
    text = (ROOT / "Makefile").read_text()
    assert [name for name in re.findall(r"python(3\.\d+)", text)] == PYTHONS
    (oldest, newest) = re.search(r"\((3, \d+)\) <= sys.version_info < \((3, \d+)\)", text).groups()
    assert f"({oldest})" == str(bootstrap.OLDEST)
    assert f"({newest})" == str((3, bootstrap.NEWEST[1] + 1))


def test_the_workflow_runs_the_whole_range() -> None:
    assert sorted({cell["python"] for cell in CELLS}) == PYTHONS
    for name, beyond in (("torch", ("2.10", "2.16")), ("triton", ("3.5", "3.10"))):
        tested = {cell[name] for cell in CELLS if name in cell}
        series = [f"{v.split('.')[0]}.{m}" for v in tested for m in range(20)]
        assert tested == {v for v in series if specifier(name).contains(f"{v}.0")}
        assert not any(specifier(name).contains(f"{v}.0") for v in beyond)


def test_triton_for_windows_has_the_range_of_triton() -> None:
    windows = next(
        Requirement(text) for text in PROJECT["dependencies"] if text.startswith("triton-windows")
    )
    assert windows.specifier == specifier("triton")
    assert windows.marker.evaluate({"sys_platform": "win32", "platform_machine": "AMD64"})
    assert not windows.marker.evaluate({"sys_platform": "linux", "platform_machine": "x86_64"})


def test_this_python_is_in_the_range() -> None:
    bootstrap.check_python(sys.version_info)
