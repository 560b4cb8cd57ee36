"""environment.yml against pyproject.toml, and our `kernels` beside Hugging Face's."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from course import environment

ROOT = Path(__file__).resolve().parents[2]


def in_fresh_python(code: str, *arguments: object) -> str:
    """Run code in a new Python, in the project's folder; return what it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def other_kernels(tmp_path: Path) -> Path:
    """A folder with an installed package `kernels` from another project, such as Hugging Face's."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("__version__ = '0.99'\n")
    info = tmp_path / "kernels-0.99.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.99\n")
    return tmp_path


def test_environment_yml_lists_what_pyproject_lists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    by_pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    extras = project["optional-dependencies"]
    whole, *dev = extras["dev"]
    assert whole == "flash-decoding-course[course]"
    assert by_pip == [*project["dependencies"], *extras["course"], *dev, "--editable ."]
    assert f"python{project['requires-python']}" in conda


def test_bootstrap_accepts_the_pythons_that_pyproject_accepts() -> None:
    from course.bootstrap import NEWEST, OLDEST

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest, newest = ".".join(map(str, OLDEST)), f"{NEWEST[0]}.{NEWEST[1] + 1}"
    assert project["requires-python"] == f">={oldest},<{newest}"


def test_report_prints_what_is_here() -> None:
    found = environment.report()
    text = str(found)
    assert text == repr(found)
    for word in (found.python, found.torch, found.triton, found.gpu, "Kernels"):
        assert word in text
    assert found.cores >= 1


def test_report_leaves_the_kernels_importable() -> None:
    pytest.importorskip("triton", reason="triton is not installed: no kernel to import")
    code = """
from course.environment import report
print(report().mode)
from kernels.runtime import INTERPRETED
print("interpreted" if INTERPRETED else "compiled")
"""
    first, second = in_fresh_python(code).splitlines()
    assert first == second


def test_report_without_triton_says_where_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = environment.importlib.util.find_spec
    monkeypatch.setattr(
        environment.importlib.util,
        "find_spec",
        lambda name: None if name == "triton" else seen(name),
    )
    monkeypatch.setattr(environment.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(environment.sys, "platform", "darwin")
    found = environment.report()
    assert (found.triton, found.mode) == ("missing", "not at all")
    assert found.notices[0].startswith("Triton has no build for Darwin")
    for way in ("container", "WSL", "Colab"):
        assert way in str(found)

    for platform, machine, notice in (
        ("linux", "x86_64", environment.TRITON_MISSING),
        ("win32", "AMD64", environment.TRITON_MISSING),
        ("win32", "ARM64", environment.NO_TRITON.format(system="Darwin")),
    ):
        monkeypatch.setattr(environment.sys, "platform", platform)
        monkeypatch.setattr(environment.platform, "machine", lambda machine=machine: machine)
        assert environment.report().notices[0] == notice


def test_windows_is_said_to_be_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_mode", lambda: ("interpreted", ""))
    assert environment.ON_WINDOWS not in environment.report().notices
    monkeypatch.setattr(environment.sys, "platform", "win32")
    assert environment.report().notices[0] == environment.ON_WINDOWS


REPORT = """
import sys
place, folder = sys.argv[1:]
sys.path.insert(0, folder) if place == "before" else sys.path.append(folder)
from course.environment import namespace_notice, report
import kernels
print(hasattr(kernels, "__version__"))
print(report().mode)
print(namespace_notice())
"""


def test_another_kernels_that_hides_ours_is_named(other_kernels: Path) -> None:
    # Whether `kernels.runtime` is still found behind the other package depends on how ours was
    # installed; the notice does not.
    has_version, _, notice = in_fresh_python(REPORT, "before", other_kernels).splitlines()
    assert has_version == "True"
    assert str(other_kernels) in notice
    assert "pip uninstall kernels" in notice
    assert "make lab" in notice


def test_another_kernels_behind_ours_is_mentioned(other_kernels: Path) -> None:
    has_version, mode, notice = in_fresh_python(REPORT, "after", other_kernels).splitlines()
    assert has_version == "False"
    assert "0.99" in notice
    assert "transformers" in notice
    if environment.importlib.util.find_spec("triton"):
        assert mode in ("interpreted", "compiled")


def test_alone_there_is_nothing_to_notice() -> None:
    code = "from course.environment import namespace_notice; print(repr(namespace_notice()))"
    assert in_fresh_python(code) == "''"


def test_lessons_without_kernels_import_without_triton() -> None:
    """As on macOS: what the lessons that need only PyTorch import must not ask for Triton."""
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "triton" else find(name, *more)
sys.modules["triton"] = None  # `import triton` raises
import benchmarks.here, benchmarks.protocol
import course.check, course.figures, course.hardware
print(sys.modules.get("kernels.runtime"))
"""
    assert in_fresh_python(code) == "None"


def test_importing_kernels_imports_nothing_else() -> None:
    code = "import sys, kernels; print(*({'torch', 'triton', 'numpy'} & set(sys.modules)))"
    assert in_fresh_python(code) == ""


def test_our_kernels_has_no_version() -> None:
    """transformers mistakes a `kernels` with `__version__` for Hugging Face's."""
    import kernels

    assert not hasattr(kernels, "__version__")
    assert Path(kernels.__file__).resolve() == ROOT / "kernels" / "__init__.py"


def test_another_kernels_in_our_own_venv_is_not_ours(
    other_kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """.venv lies inside the project's folder: being inside it proves nothing."""
    monkeypatch.setattr(environment, "ROOT", other_kernels.parent)
    spec = importlib.util.spec_from_file_location("kernels", other_kernels / "kernels/__init__.py")
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: spec)
    assert str(other_kernels) in environment.namespace_notice()


def test_need_gpu_is_one_sentence_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "_gpu", lambda: "none")
    assert environment.main(["need-gpu"]) == 1
    assert capsys.readouterr().err.startswith("No GPU was found")
