"""The wheel: `reference` and `kernels` as a library that lives beside Hugging Face's `kernels`."""

import ast
import os
import re
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from installed import ROOT, Environment, build_sdist, build_wheel, other_kernels

NAME = "flash_decoding_course"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# "kernels==0.17.2", with a network: Hugging Face's own package instead of a stand-in.
REAL = os.environ.get("OTHER_KERNELS")

DECODE = """
import torch
from flash_decoding_course.kernels.flash_decoding import flash_decode
from flash_decoding_course.kernels.runtime import device
from flash_decoding_course.reference.attention import attention_with_cache, oracle_with_cache
from flash_decoding_course.reference.closeness import assert_close_to_oracle

torch.manual_seed(0)
q, lengths = torch.randn(2, 1, 4, 32), torch.tensor([40, 7], dtype=torch.int32)
call = (q, *torch.randn(2, 2, 48, 2, 32), lengths)
got = flash_decode(*(x.to(device()) for x in call), num_splits=3, return_lse=True)
base, truth = attention_with_cache(*call, return_lse=True), oracle_with_cache(*call)
for name, *three in zip(("o", "lse"), (x.cpu() for x in got), base, truth, strict=True):
    assert_close_to_oracle(*three, name=name)
print("decoded")
"""
THEIRS = "import kernels; print(kernels.__version__, kernels.kernelize.__module__)"
ALL_MODULES = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import flash_decoding_course as ours
names = [module.name for module in pkgutil.walk_packages(ours.__path__, f"{ours.__name__}.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names), ours.__version__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("build") / "dist")


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = Environment(tmp_path_factory.mktemp("environment"))
    made.install(wheel)
    return made


def sources() -> dict[str, str]:
    """The modules of the repository that ship, by their path in the wheel."""
    files = [
        file for package in ("reference", "kernels") for file in (ROOT / package).rglob("*.py")
    ]
    return {f"{NAME}/{file.relative_to(ROOT).as_posix()}": file.read_text() for file in files}


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def imports(source: bytes | str) -> list[str]:
    """What a module imports by absolute name: the first part of each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append(node.module)
    return [name.split(".")[0] for name in found]


def test_the_wheel_holds_one_package(wheel: Path) -> None:
    inside = contents(wheel)
    about = f"{NAME}-{PROJECT['version']}.dist-info"
    assert wheel.name == f"{NAME}-{PROJECT['version']}-py3-none-any.whl"
    assert {name.split("/")[0] for name in inside} == {NAME, about}
    assert inside[f"{about}/top_level.txt"].split() == [NAME.encode()]
    modules = {name for name in inside if name.endswith(".py")}
    assert modules == {*sources(), f"{NAME}/__init__.py"} and len(modules) > 60
    data = set(inside) - modules - {name for name in inside if name.startswith(about)}
    weights = {f"{NAME}/reference/weights/{name}" for name in ("model.safetensors", "held_out.txt")}
    assert data == {f"{NAME}/py.typed", *weights}


def test_modules_import_each_other_by_relative_names_and_keep_their_lines(wheel: Path) -> None:
    inside = contents(wheel)
    for name, source in sources().items():
        absolute = [x for x in imports(source) if x not in ("reference", "kernels")]
        assert imports(inside[name]) == absolute, name
        assert inside[name].decode().count("\n") == source.count("\n"), name


def test_no_text_of_the_wheel_says_the_names_of_the_repository(wheel: Path) -> None:
    """`python -m kernels.compile_report`, in a message, would start another package."""
    for name, text in contents(wheel).items():
        if name.startswith(f"{NAME}/") and name.endswith(".py"):
            old = r"(?<![\w./])(kernels|reference)\.(?!py\b)[a-z_]+\b(?=[\s.`'\"(\[])|`kernels`"
            assert [m[0] for m in re.finditer(old, text.decode())] == [], name


def test_it_requires_what_it_imports_and_no_more(wheel: Path) -> None:
    inside = contents(wheel)
    (text,) = (data for name, data in inside.items() if name.endswith("/METADATA"))
    metadata = Parser().parsestr(text.decode())
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    names = {re.match(r"[\w-]+", line)[0] for line in required}
    assert names == {"torch", "triton", "triton-windows", "numpy", "safetensors"}
    assert set(metadata.get_all("Provides-Extra")) == {"course", "dev", "hf"}
    assert metadata["Version"] == PROJECT["version"]


def test_an_sdist_becomes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    assert contents(build_wheel(build_sdist(tmp_path), tmp_path / "dist")) == contents(wheel)


def test_every_module_imports_with_the_requirements_alone(environment: Environment) -> None:
    pytest.importorskip("triton", reason="triton is not installed: no kernel to import")
    extras = PROJECT["optional-dependencies"]
    absent = {re.match(r"[\w-]+", line)[0] for line in extras["course"] + extras["dev"]}
    absent = {"IPython" if name == "ipython" else name.replace("-", "_") for name in absent}
    absent = absent - {NAME, "setuptools"} | {"course", "benchmarks"}  # torch itself has setuptools
    assert {"tqdm", "matplotlib", "nbgrader", "pytest"} < absent
    printed = environment.run("-c", ALL_MODULES, *absent)
    assert printed == f"{len(sources())} {PROJECT['version']}"


def test_beside_the_other_kernels_and_after_removing_either(
    wheel: Path, environment: Environment, tmp_path: Path
) -> None:
    pytest.importorskip("triton", reason="triton is not installed: no kernel to run")
    ours = environment.files()
    theirs = REAL or other_kernels(tmp_path)
    install = ("install", theirs) if REAL else ("install", "--no-index", "--no-deps", theirs)
    environment.pip(*install)
    both = environment.files()
    assert {name: both[name] for name in ours} == ours
    assert environment.run("-c", THEIRS + DECODE).splitlines()[-1] == "decoded"
    assert environment.files() == both, "a call wrote into the installed packages"

    environment.pip("uninstall", "-y", "flash-decoding-course")
    assert not any(name.startswith(NAME) for name in environment.files())
    assert "kernels.layer" in environment.run("-c", THEIRS)

    environment.install(wheel)
    environment.pip("uninstall", "-y", "kernels")
    assert environment.run("-c", DECODE) == "decoded"
    environment.run("-c", "import kernels", status=1)


def test_the_compile_report_of_the_wheel(environment: Environment) -> None:
    pytest.importorskip("triton", reason="triton is not installed: nothing compiles")
    report = ("-m", f"{NAME}.kernels.compile_report", "--arch", "80", "--kernel")
    table = environment.run(*report, "softmax fp16 16384")
    assert "128 bit" in table and "broken" not in table
    code = f"""
from {NAME}.kernels.compile_report import compile_for
from {NAME}.kernels.primer import vector_add_kernel
types = dict(x_ptr="*fp32:16", y_ptr="*fp32:16", out_ptr="*fp32:16", n="i32:16")
print(compile_for(vector_add_kernel, types, dict(BLOCK=1024), arch=80).load_bits)
"""
    assert environment.run("-c", code) == "128"


def test_the_two_copies_refuse_to_share_a_process(environment: Environment) -> None:
    """Both define the same operators; the second definition would silently replace the first."""
    pytest.importorskip("triton", reason="triton is not installed: no kernel to import")
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import {{}}.flash_decoding
try:
    import {{}}.flash_decoding
except ImportError as error:
    print(error)
"""
    names = ("kernels", f"{NAME}.kernels")
    for first, second in (names, names[::-1]):
        said = environment.run("-c", code.format(first, second))
        assert said.startswith(f"{second} cannot be imported beside {first}: they are two copies")
        assert said.endswith("Restart Python and import only one of them.")


def test_the_version_is_the_library_s_alone() -> None:
    assert not re.search(r"__version__\s*=", (ROOT / "kernels" / "__init__.py").read_text())
    text = (ROOT / "library" / NAME / "__init__.py").read_text()
    assert "__version__ = version(" in text  # of the metadata, which is pyproject's
