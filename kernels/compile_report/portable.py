"""A kernel as text: everything that another process needs to compile it.

A kernel in a notebook can't be imported elsewhere, and its own source is not enough: it uses names
of other cells (helpers, constants, imports). Those are written down with it.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from types import CodeType, ModuleType
from typing import Any

OURS = __name__.partition("kernels.")[0]  # ""; as a library, "flash_decoding_course."
IMPORTABLE = tuple(f"{name}." for name in (f"{OURS}kernels", f"{OURS}reference", "triton"))
"""Modules whose functions the other process imports; all others are sent as source."""


def text_of(kernel: Any) -> str:
    """Return the text of a module that defines `kernel` under its name.

    Raises OSError if the source of the kernel, or of a helper that it calls, can't be found.
    """
    lines = ["import triton", "import triton.language as tl"]
    if _is_importable(kernel):
        lines.append(_import_of(kernel, kernel.fn.__name__))
    else:
        _write(kernel, lines, {"triton", "tl"})
    return "\n".join(lines) + "\n"


def _is_importable(kernel: Any) -> bool:
    """Say whether another process finds it by its module's name and its own."""
    function = kernel.fn
    home = sys.modules.get(function.__module__)
    named = getattr(home, function.__name__, None) is kernel
    return named and function.__module__.startswith(IMPORTABLE)


def _import_of(kernel: Any, name: str) -> str:
    return f"from {kernel.fn.__module__} import {kernel.fn.__name__} as {name}"


def _write(kernel: Any, lines: list[str], known: set[str]) -> None:
    """Append what a kernel uses, then the kernel; known: names that are there already."""
    function = kernel.fn
    known.add(function.__name__)
    for name in sorted(_names(function.__code__)):
        if name not in known and name in function.__globals__:
            known.add(name)
            _define(name, function.__globals__[name], lines, known)
    source = textwrap.dedent(inspect.getsource(function))
    lines += ["", "", "@triton.jit", source[source.index("def ") :].rstrip()]


def _names(code: CodeType) -> set[str]:
    """Return the names that code and the code within it may look up among the globals."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    annotations = {"tl", "triton"}
    return {*code.co_names, *annotations}.union(*inner)


def _define(name: str, value: Any, lines: list[str], known: set[str]) -> None:
    """Append a line or more that give `name` its value; leave out what has no such text."""
    if isinstance(value, ModuleType):
        lines.append(f"import {value.__name__} as {name}")
    elif inspect.isfunction(getattr(value, "fn", None)):
        if _is_importable(value):
            lines.append(_import_of(value, name))
        else:
            _write(value, lines, known)
            if value.fn.__name__ != name:
                lines.append(f"{name} = {value.fn.__name__}")
    elif type(value).__name__ == "constexpr":
        lines.append(f"{name} = tl.constexpr({_literal(value.value)})")
    elif value is None or isinstance(value, bool | int | float | str):
        lines.append(f"{name} = {_literal(value)}")
    elif type(value).__module__.startswith("triton.language"):
        lines.append(f"{name} = tl.{value}")


def _literal(value: Any) -> str:
    """Return a literal; inf and NaN have none of their own."""
    return f"float({str(value)!r})" if isinstance(value, float) else repr(value)
