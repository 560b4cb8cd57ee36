"""Set-up and its errors: each must be one sentence that says what to do."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course import bootstrap, installers

ROOT = Path(__file__).resolve().parents[2]
FITTING = sys.version_info
MODULES = ("__init__", "bootstrap", "cpu_torch", "heartbeat", "installers")


@pytest.fixture(autouse=True)
def by_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without uv; those with it are in test_setup_by_uv.py."""
    monkeypatch.setenv("COURSE_INSTALLER", "pip")
    monkeypatch.setattr(bootstrap.sys, "dont_write_bytecode", False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with nothing but what the set-up reads."""
    (tmp_path / "course").mkdir()
    for module in MODULES:
        shutil.copy(ROOT / "course" / f"{module}.py", tmp_path / "course")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "small"\nversion = "1"\noptional-dependencies.dev = []\n'
        '[build-system]\nrequires = ["setuptools>=77"]\n'
    )
    return tmp_path


@pytest.fixture
def made(project: Path) -> Path:
    """The same, with a .venv that looks finished (its Python and pip are this test's)."""
    python = Path(bootstrap.venv_python(str(project)))
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    version = ".".join(map(str, FITTING[:3]))
    base = Path(sys._base_executable).parent
    (project / ".venv" / "pyvenv.cfg").write_text(
        f"home = {base}\ninclude-system-site-packages = false\nversion = {version}\n"
    )
    packages = project / ".venv" / "lib" / f"python{FITTING[0]}.{FITTING[1]}" / "site-packages"
    (packages / "pip").mkdir(parents=True)
    (packages / "pip" / "__init__.py").touch()
    (project / ".venv" / ".installed").write_text(bootstrap.fingerprint(str(project)))
    return project


def one_sentence(text: str) -> bool:
    """Say whether a text is one line and one sentence: versions and file names may contain dots."""
    return text.count("\n") == 0 and text.endswith(".") and ". " not in text


@pytest.mark.parametrize("module", MODULES)
def test_parses_on_old_pythons(module: str) -> None:
    source = (ROOT / "course" / f"{module}.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 6))


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 9, 2), (3, 10, 14)])
def test_an_old_python_says_that_it_is_too_old(version: tuple) -> None:
    with pytest.raises(bootstrap.SetupError, match=r"too old .* install Python 3\.11") as caught:
        bootstrap.check_python(version)
    assert one_sentence(str(caught.value))


def test_a_python_newer_than_the_course_says_so() -> None:
    with pytest.raises(bootstrap.SetupError, match=r"3\.15 is too new") as caught:
        bootstrap.check_python((3, 15, 0))
    assert one_sentence(str(caught.value))


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 4), (3, 13, 9), (3, 14, 2)])
def test_a_fitting_python_passes(version: tuple) -> None:
    bootstrap.check_python(version)


@pytest.mark.parametrize("minor", range(6, 11))
def test_a_real_old_python_where_there_is_one(minor: int, project: Path) -> None:
    python = shutil.which(f"python3.{minor}")
    if python is None or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"this machine has no Python 3.{minor}")
    done = subprocess.run(
        [python, str(project / "course" / "bootstrap.py"), "lab"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"Python 3.{minor} is too old" in done.stderr
    assert one_sentence(done.stderr.strip())


@pytest.mark.parametrize("absent", ["venv", "ensurepip"])
def test_a_missing_venv_module_names_the_package(
    absent: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = bootstrap.importlib.util.find_spec
    monkeypatch.setattr(
        bootstrap.importlib.util, "find_spec", lambda name: None if name == absent else seen(name)
    )
    package = f"sudo apt install python{FITTING[0]}.{FITTING[1]}-venv"
    with pytest.raises(bootstrap.SetupError, match=package) as caught:
        bootstrap.install(str(project))
    assert one_sentence(str(caught.value))
    assert not (project / ".venv").exists()


def test_without_network_it_says_so_and_the_next_run_starts_again(project: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if "PIP_" not in name}
    environment.update(
        PIP_CONFIG_FILE=os.devnull,
        PIP_INDEX_URL="http://127.0.0.1:9/",  # port 9, "discard": nobody answers
        PIP_RETRIES="1",
        PIP_NO_CACHE_DIR="1",
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(project / "course" / "bootstrap.py"), "install"],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("No network")
        assert one_sentence(done.stderr.strip())
        assert str(project / "setup.log") in done.stderr
        assert "Connection refused" in (project / "setup.log").read_text()
        assert not (project / ".venv" / ".installed").exists()
        assert bootstrap.venv_is_usable(str(project), FITTING)  # complete, just empty


def test_a_finished_venv_is_left_alone(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "make_venv", lambda *_: pytest.fail("made .venv again"))
    monkeypatch.setattr(bootstrap, "fill_venv", lambda *_: pytest.fail("installed again"))
    assert bootstrap.install(str(made)) == bootstrap.venv_python(str(made))


def test_changed_requirements_are_installed_into_the_same_venv(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(bootstrap, "make_venv", lambda *_: pytest.fail("made .venv again"))
    monkeypatch.setattr(bootstrap, "fill_venv", lambda root, uv: calls.append(root))
    text = (made / "pyproject.toml").read_text()
    (made / "pyproject.toml").write_text(text + '[tool.ruff]\nline-length = "100"\n')
    bootstrap.install(str(made))
    assert calls == []  # a linter's settings install nothing
    (made / "pyproject.toml").write_text(text.replace("dev = []", 'dev = ["tqdm"]'))
    bootstrap.install(str(made))
    assert calls == [str(made)]
    bootstrap.install(str(made))
    assert calls == [str(made)]


@pytest.mark.parametrize("damage", ["cut short", "other Python", "moved", "Python gone", "no pip"])
def test_a_broken_venv_is_made_again(
    damage: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, calls = made / ".venv", []
    if damage == "cut short":
        (folder / ".unfinished").touch()
    elif damage == "other Python":
        (folder / "pyvenv.cfg").write_text("version = 3.10.2\n")
    elif damage == "moved":
        (folder / ".installed").write_text("0123 /somewhere/else")
    elif damage == "Python gone":
        Path(bootstrap.venv_python(str(made))).unlink()
    elif damage == "no pip":
        shutil.rmtree(next(folder.glob("lib/*/site-packages/pip")))
    monkeypatch.setattr(bootstrap, "make_venv", lambda root, uv: calls.append(root))
    monkeypatch.setattr(bootstrap, "fill_venv", lambda root, uv: calls.append(root))
    bootstrap.install(str(made))
    assert calls == [str(made), str(made)]


@pytest.mark.parametrize("line", ["version = {}.{}.7", "version_info = {}.{}.7"])
def test_a_venv_made_by_venv_or_by_uv_is_known(line: str, made: Path) -> None:
    cfg = made / ".venv" / "pyvenv.cfg"
    lines = [text for text in cfg.read_text().splitlines() if not text.startswith("version")]
    cfg.write_text("\n".join([*lines, line.format(*FITTING)]))
    assert bootstrap.venv_is_usable(str(made), FITTING)
    assert not bootstrap.venv_is_usable(str(made), (FITTING[0], FITTING[1] + 1))
    cfg.write_text("\n".join([*lines, "uv_" + line.format(*FITTING)]))
    assert not bootstrap.venv_is_usable(str(made), FITTING)


def test_an_interrupted_installation_leaves_a_mark(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (made / ".venv" / ".installed").unlink()
    monkeypatch.setattr(bootstrap, "follow", interrupted)
    monkeypatch.setattr(bootstrap, "venv_is_usable", lambda root, version: True)
    monkeypatch.setattr(bootstrap, "ROOT", str(made))
    assert bootstrap.main(["install"]) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert (made / ".venv" / ".unfinished").exists()


@pytest.mark.parametrize("keeps_nothing", [True, False])
def test_all_is_compiled_where_python_keeps_nothing_compiled(
    keeps_nothing: bool, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (module,) = made.glob(".venv/lib/*/site-packages/pip/__init__.py")
    monkeypatch.setattr(bootstrap.sys, "dont_write_bytecode", keeps_nothing)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(bootstrap, "fill_venv", lambda root, uv: None)
    (made / ".venv" / ".installed").unlink()
    bootstrap.install(str(made))
    assert (module.parent / "__pycache__").exists() == keeps_nothing


@pytest.mark.parametrize(("status", "marked"), [(-9, True), (1, False)])
def test_only_a_killed_pip_leaves_a_mark(
    status: int, marked: bool, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "follow", lambda *_, **__: status)
    with pytest.raises(installers.SetupError) as caught:
        bootstrap.fill_venv(str(made))
    assert one_sentence(str(caught.value))
    assert (made / ".venv" / ".unfinished").exists() == marked
