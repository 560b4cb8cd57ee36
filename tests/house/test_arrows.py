"""Who may import whom, and how big a file, a function and a kernel may be.

Read from the syntax trees: nothing is imported.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("reference", "kernels", "course", "benchmarks", "library")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

STANDARD = set(sys.stdlib_module_names)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LISTED = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["course"]
REQUIRED = {re.match(r"[\w-]+", text)[0] for text in LISTED}
IMPORT_NAMES = {
    "ipython": "IPython",
    "pyzmq": "zmq",
    "jupyter-core": "jupyter_core",
}  # packages imported under another name
DECLARED = {IMPORT_NAMES.get(name, name) for name in REQUIRED}
# Peers that `benchmarks` measures if they happen to be installed.
OPTIONAL = {"flash_attn", "flashinfer", "xformers", "psutil", "transformers"}

MAY_IMPORT = {
    "reference": STANDARD | {"torch", "reference"},
    "kernels": STANDARD | {"torch", "triton", "kernels"},
    "course": STANDARD | DECLARED | {"reference", "kernels", "course"},
    "benchmarks": STANDARD | DECLARED | OPTIONAL | {"reference", "kernels", "course", "benchmarks"},
    "library": STANDARD | {"setuptools", "rename"},  # builds the wheel; `rename` is beside it
}
# Models are there to be run rather than read: their weights are files, and training takes minutes.
# Only these modules may import what reads the files, what shows the progress, and other models.
MAY_ALSO_IMPORT = {
    "course/huggingface/__init__.py": {"transformers"},  # in functions: an optional extra
    "course/huggingface/models.py": {"transformers"},
    "reference/checkpoint.py": {"safetensors"},
    "reference/train.py": {"tqdm"},
    "reference/pretrained/gguf_file.py": {"gguf", "numpy"},
    "reference/pretrained/gguf_header.py": {"gguf"},
    "reference/pretrained/huggingface.py": {"safetensors", "tokenizers"},
    "reference/pretrained/tokenizer.py": {"jinja2", "tokenizers"},
    "reference/serving/load.py": {"tqdm"},
    "course/launch.py": {"zmq"},  # in a function: asked whether it can encrypt, once installed
}
# These run before anything is installed, on any Python: the first imports the next three.
SETUP = tuple(f"course/{name}.py" for name in ("bootstrap", "cpu_torch", "heartbeat", "installers"))
BEFORE_INSTALLATION = (*SETUP, "course/launch.py")
FILE_LINES, FUNCTION_LINES, KERNEL_LINES = 350, 40, 90
TOP_FILES, TOP_FOLDERS, FILES_OF_A_CALL = 16, 6, 16  # in kernels/; in one decode call


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imported(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Yield the line and top-level name of every import, wherever it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, package if node.level else str(node.module).split(".")[0]


def forbidden_imports(source: str, package: str, allowed: set[str]) -> list[str]:
    found = imported(ast.parse(source), package)
    return [f"line {line} imports {name}" for line, name in found if name not in allowed]


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count a function's lines without its docstring: shapes and sources may take up space."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def is_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("triton.jit" in ast.unparse(decorator) for decorator in function.decorator_list)


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def too_long(source: str) -> list[str]:
    found = []
    for function in functions(ast.parse(source)):
        limit = KERNEL_LINES if is_kernel(function) else FUNCTION_LINES
        if code_lines(function) > limit:
            found.append(f"{function.name}: {code_lines(function)} lines, at most {limit}")
    return found


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_imports_follow_the_arrows(file: Path) -> None:
    package = relative(file).split("/")[0]
    own = {"course"} if relative(file) in SETUP else set()
    early = relative(file) in BEFORE_INSTALLATION
    allowed = STANDARD | own if early else MAY_IMPORT[package]
    allowed = allowed | MAY_ALSO_IMPORT.get(relative(file), set())
    assert forbidden_imports(file.read_text(encoding="utf-8"), package, allowed) == []


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_nothing_reads_code_out_of_a_notebook(file: Path) -> None:
    names = {name for _, name in imported(tree_of(file), "")}
    assert not names & {"notebooks", "solutions", "exercises", "tests", "importnb", "nbimporter"}


@pytest.mark.parametrize("file", FILES + TESTS, ids=relative)
def test_files_and_functions_stay_small(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= FILE_LINES, "split it"
    assert too_long(source) == []


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_no_module_is_a_drawer_for_odds_and_ends(file: Path) -> None:
    assert not {"utils", "util", "helpers", "helper", "common", "misc"} & {file.stem, *file.parts}


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_no_module_global_is_reassigned(file: Path) -> None:
    found = [node.names for node in ast.walk(tree_of(file)) if isinstance(node, ast.Global)]
    assert found == []


def test_the_set_up_imports_itself_alone() -> None:
    graph, own = arrows(("course",)), {module_of(ROOT / file) for file in SETUP}
    assert len(graph["course.bootstrap"]) == 3
    assert {name for module in own for name in graph[module]} <= own


def test_every_package_is_looked_at() -> None:
    """A renamed folder must not turn these tests into tests of nothing."""
    assert {relative(file).split("/")[0] for file in FILES} == set(PACKAGES)
    assert set(BEFORE_INSTALLATION) | set(MAY_ALSO_IMPORT) <= {relative(file) for file in FILES}


def test_the_import_rule_can_fail() -> None:
    source = "def f():\n    from kernels.softmax import softmax\n    import numpy.linalg\n"
    found = forbidden_imports(source, "reference", MAY_IMPORT["reference"])
    assert found == ["line 2 imports kernels", "line 3 imports numpy"]
    assert forbidden_imports("from . import attention", "reference", {"reference"}) == []


@pytest.mark.parametrize(("decorator", "limit"), [("", 40), ("@triton.jit\n", 90)])
def test_the_length_rule_can_fail(decorator: str, limit: int) -> None:
    body = '    """Words\n    that do not count."""\n' + "    x = 1\n" * (limit - 1)
    assert too_long(f"{decorator}def f():\n{body}") == []
    assert too_long(f"{decorator}def f():\n{body}    x = 1\n") == [
        f"f: {limit + 1} lines, at most {limit}"
    ]


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def arrows(packages: tuple[str, ...] = ("kernels",), later: bool = False) -> dict[str, set[str]]:
    """For each module, the modules of these packages that are imported with it.

    later: also those that it imports inside a function, when that is called.
    """
    files = {module_of(file): file for file in FILES if relative(file).split("/")[0] in packages}
    found: dict[str, set[str]] = {}
    for name, file in files.items():
        found[name] = set()
        tree = tree_of(file)
        for node in ast.walk(tree) if later else tree.body:
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & set(files)
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(files)
                found[name] |= inner or ({node.module} & set(files))
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A chain of modules that leads back to its start, or []."""
    done: set[str] = set()

    def walk(name: str, chain: list[str]) -> list[str]:
        if name in chain:
            return [*chain[chain.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := walk(other, [*chain, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := walk(name, []))), [])


def test_no_import_goes_in_a_circle() -> None:
    assert circle(arrows(PACKAGES)) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]  # the rule can fail


def test_the_compile_report_imports_kernels_and_never_the_reverse() -> None:
    graph = arrows()
    report = {name for name in graph if name.startswith("kernels.compile_report")}
    assert len(report) > 10 and any(graph[name] - report for name in report)
    assert {
        name: graph[name] & report for name in set(graph) - report if graph[name] & report
    } == {}


def test_the_ground_floor_imports_no_room() -> None:
    graph = arrows()
    ground = ("runtime", "primitives", "call", "checks", "heuristics", "split_rules", "devices")
    ground += ("call_cache",)
    for name in ground:
        assert {other.split(".")[1] for other in graph[f"kernels.{name}"]} <= set(ground), name


def test_kernels_is_seen_at_one_look() -> None:
    inside = [path for path in (ROOT / "kernels").iterdir() if path.name != "__pycache__"]
    folders = [path for path in inside if path.is_dir()]
    assert len(folders) <= TOP_FOLDERS and len(inside) - len(folders) <= TOP_FILES


def test_a_decode_call_is_read_in_few_files() -> None:
    """Everything `flash_decode` imports, except torch.compile's operator and plans."""
    graph, read, todo = arrows(later=True), set(), ["kernels.flash_decoding"]
    while todo:
        name = todo.pop()
        if name not in read and not name.startswith(("kernels.plan", "kernels.flash_decoding.op")):
            read.add(name)
            todo += graph[name]
    assert {"kernels.flash_decoding.split", "kernels.runtime"} <= read
    assert len(read) <= FILES_OF_A_CALL
