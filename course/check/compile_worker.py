"""Compiles kernels for GPUs that need not be there: what `course.check.compiler` starts.

One line of JSON in, one out: the text of a module, the kernel's name, its arguments; back comes
what the compiler says against it, or "".
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from kernels.compile_report.case import CompileCase, source_of
from kernels.compile_report.targets import target

# isort: split
import triton
from triton.backends import backends
from triton.backends.compiler import GPUTarget

_TYPES = {
    **{f"float{n}": f"fp{n}" for n in (16, 32, 64)},
    **{f"int{n}": f"i{n}" for n in (8, 16, 32, 64)},
    **{"bfloat16": "bf16", "uint8": "u8", "bool": "i1"},
    **{"float8_e4m3fn": "fp8e4nv", "float8_e5m2": "fp8e5"},
}


def load(text: str, name: str, folder: str, number: int) -> Any:
    """Return the kernel that a text defines, from a file: Triton reads its source there."""
    path = Path(folder, f"kernel_{number}.py")
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


def case_of(kernel: Any, args: dict[str, Any], options: dict[str, int]) -> CompileCase:
    """Return what a launch with these arguments would compile."""
    signature, constants = {}, {}
    constexprs = {kernel.arg_names[i] for i in (p.num for p in kernel.params if p.is_constexpr)}
    for name in kernel.arg_names:
        value = args.get(name, next((p.default for p in kernel.params if p.name == name), None))
        if name in constexprs or value is None or (value == 1 and type(value) is int):
            constants[name] = value
        elif isinstance(value, dict):
            hint = ":16" if value["aligned"] else ""
            signature[name] = f"*{_TYPES[value['tensor']]}{hint}"
        elif isinstance(value, bool):
            signature[name] = "u1"
        elif isinstance(value, int):
            hint = ":16" if value % 16 == 0 else ""
            signature[name] = ("i32" if -(2**31) <= value < 2**31 else "i64") + hint
        else:
            signature[name] = "fp32"
    return CompileCase(kernel.__name__, kernel, signature, constants, **options)


def said(error: BaseException) -> str:
    """Return a compiler's message in one line: what is wrong, and the line of the kernel."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    words = lines[-1].strip() if lines else repr(error)
    words = re.sub(r"^\w+\((['\"])(.*)\1\)$", r"\2", words)  # AssertionError('…') around them
    if len(words) > 200:  # its first sentence
        words = words.split(". ")[0]
    marked = [i for i, line in enumerate(lines) if line.strip() == "^"]
    where = f", at `{lines[marked[0] - 1].strip()}`" if marked and marked[0] else ""
    return f"{words.rstrip('.')}{where}"


def verdict(request: dict[str, Any], folder: str, number: int) -> str:
    """Compile for every target of which this Triton has the backend; return the first trouble."""
    kernel = load(request["text"], request["name"], folder, number)
    case = case_of(kernel, request["args"], request["options"])
    for name in request["targets"]:
        on = target(name)
        if ("amd" if on.is_amd else "nvidia") not in backends:
            continue
        source, options = source_of(case, on)
        gpu = GPUTarget("hip" if on.is_amd else "cuda", on.arch, on.warp_size)
        try:
            triton.compile(source, gpu, options)
        except Exception as error:
            return f"It does not compile for a GPU ({on.example}): {said(error)}."
    return ""


def main() -> None:
    """Answer line by line until there are no more."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed must not look like an answer
    with tempfile.TemporaryDirectory() as folder:
        for number, line in zip(itertools.count(), sys.stdin, strict=False):
            try:
                answer = verdict(json.loads(line), folder, number)
            except Exception as error:
                traceback.print_exc()
                answer = f"It could not be compiled: {said(error)}."
            out.write(json.dumps(answer) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
