"""What every Triton that is allowed must be able to read, found without installing it.

`tests/versions.py` installs each of them and tries; this is what it has taught.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNEL_FILES = sorted((ROOT / "kernels").rglob("*.py"))


def nested_targets(source: str) -> list[int]:
    """Lines of jit functions that unpack a tuple within a tuple.

    Triton 3.6 and 3.7 interpret them, but fail to compile them for the first time in a process:
    "unhashable type: 'list'", from `DependenciesFinder.visitAssnTarget`.
    """
    jitted = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        and any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list)
    ]
    found = [
        node.lineno
        for function in jitted
        for node in ast.walk(function)
        if isinstance(node, ast.Tuple)
        and isinstance(node.ctx, ast.Store)
        and any(isinstance(part, ast.Tuple) for part in node.elts)
    ]
    return sorted(set(found))


@pytest.mark.parametrize("file", KERNEL_FILES, ids=lambda file: file.stem)
def test_no_kernel_unpacks_a_tuple_within_a_tuple(file: Path) -> None:
    assert nested_targets(file.read_text(encoding="utf-8")) == []


def test_the_rule_can_fail() -> None:
    body = "    a, b = x\n    (c, d), e = y\n"
    assert nested_targets(f"@triton.jit\ndef f(x, y):\n{body}") == [4]
    assert nested_targets(f"def f(x, y):\n{body}") == []  # plain Python may
