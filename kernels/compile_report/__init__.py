"""What a kernel becomes on a GPU you do not have: registers, spills, shared memory, instructions.

Triton brings the toolchains along, and none of them needs a GPU. So a kernel can be compiled here
for an A100 (`arch=80`), an H100 (`arch=90`) or any of `targets`, and the machine code read:

    >>> from kernels import compile_report
    >>> compile_report.report("softmax fp16 16384", arch=(80, 90))  # doctest: +SKIP
    kernel                                  sm  regs  spills  shared     load  async  tensor    PTX
    softmax fp16 16384 columns              80    93       0      32  128 bit      0       0   1061
    softmax fp16 16384 columns              90    93       0      32  128 bit      0       0   1073

A row is one kernel compiled for one target: registers per thread, bytes spilled to slow memory (if
not 0, tiles are too large), bytes of shared memory per program, the widest load from global memory
(128 bits is the best on these two), copies to shared memory that run in the background,
tensor-core instructions, lines of PTX. The figures above are triton 3.9's; versions differ.

From a shell, for every shipped kernel and every target, with an error if one breaks a promise of
`compile_report.promises`: `python -m kernels.compile_report [--arch 80 gfx942] [--kernel NAME]`.

Compiling needs a process whose kernels are not interpreted. `run`, `report` and `compile_for`
start one if necessary, so they work in a notebook on a laptop. What is compiled from
each of `MODULES` is listed in `compile_report.launches`; nothing in `kernels` imports this.
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kernels.compile_report.case import CompileCase, LaunchCase
from kernels.compile_report.compiling import compile_all, compile_one
from kernels.compile_report.portable import text_of
from kernels.compile_report.rows import STAGES, Report, Reports
from kernels.compile_report.targets import TARGETS, target

MODULES = ("primer", "softmax", "flash_attention", "flash_decoding", "append", "plan")
LAUNCHES = f"{__name__}.launches"

__all__ = ["MODULES", "CompileCase", "LaunchCase", "Report", "Reports", "cases", "compile_for"]
__all__ += ["report", "run"]


def compile_for(
    kernel: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any],
    *,
    arch: int | str = 90,
    num_warps: int = 4,
    num_stages: int = 3,
    name: str | None = None,
) -> Report:
    """Compile one kernel for one GPU, which need not be present, and return a `Report`.

    kernel, signature, constexprs: as in `CompileCase`. arch: 80 (A100), 90 (H100), "gfx942", …

    If kernels are interpreted here, another process compiles. It imports a kernel of this package;
    any other kernel, say from a notebook cell, is sent as source text with what it uses: helpers,
    constants and imports of other cells.

    Raises ValueError for a signature that does not fit the kernel, RuntimeError with the
    compiler's message if the other process fails.
    """
    from kernels.runtime import INTERPRETED

    given = [*signature, *constexprs]
    if sorted(given) != sorted(kernel.arg_names):
        raise ValueError(
            f"signature and constexprs must name {kernel.arg_names}, each once; got {given}"
        )
    name = name or kernel.__name__
    case = CompileCase(name, kernel, signature, constexprs, num_warps, num_stages)
    return run(_as_module(case), arch)[0] if INTERPRETED else compile_one(case, target(arch))


def _as_module(case: CompileCase) -> str:
    """Source text of a module that holds one kernel and its case."""
    arguments = (dict(case.signature), dict(case.constexprs), case.num_warps, case.num_stages)
    return (
        f"{text_of(case.kernel)}\n\nfrom {__name__} import CompileCase\n\n"
        f"def compile_cases():\n"
        f"    return [CompileCase({case.name!r}, {case.kernel.fn.__name__}, *{arguments!r})]\n"
    )


def run(name_or_source: str = "", arch: int | str | Sequence[int | str] = (80, 90)) -> Reports:
    """Compile in a separate process and return the reports, with their PTX.

    name_or_source: a case's name, or part of a module's or a case's ("softmax", "matmul|D=64"; ""
    is all), or the source text of a module with a `compile_cases()` of its own, which lists
    `CompileCase`s. arch: one architecture or several. About a second per kernel and architecture;
    Triton caches the result. Raises RuntimeError with the other process's message if that fails.
    """
    archs = map(str, [arch] if isinstance(arch, int | str) else arch)
    command = [sys.executable, "-m", __name__, "--json", "--ptx", "--arch", *archs]
    with tempfile.TemporaryDirectory() as folder:
        if "\n" in name_or_source:
            source = Path(folder, "kernel_source.py")
            source.write_text(name_or_source)
            command += ["--source", str(source)]
        else:
            command += ["--kernel", name_or_source]
        env = os.environ | {"TRITON_INTERPRET": "0"}
        root = Path(__file__).parents[__name__.count(".") + 1]  # where the package is found
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=root)
    if done.returncode:
        raise RuntimeError(f"the compiling process failed:\n{done.stderr[-3000:]}")
    return Reports(Report(**row) for row in json.loads(done.stdout))


def report(name_or_source: str = "", arch: int | str | Sequence[int | str] = (80, 90)) -> None:
    """Print the table of `run(name_or_source, arch)`."""
    print(run(name_or_source, arch))


def cases(name: str = "", source: str = "") -> list[CompileCase | LaunchCase]:
    """Return the case called `name`, or those whose "module: case name" it matches as a regex.

    source: a file with a `compile_cases()` of its own, used instead of `MODULES`. Imports the
    kernels. Raises ValueError if no case has that name.
    """
    if source:
        sys.path.insert(0, str(Path(source).parent))
    listed = []
    modules = [Path(source).stem] if source else [f"{LAUNCHES}.{known}" for known in MODULES]
    for module in modules:
        short = module.removeprefix(f"{LAUNCHES}.")
        listed += [(short, case) for case in importlib.import_module(module).compile_cases()]
    found = [case for _, case in listed if case.name == name]
    found = found or [case for short, case in listed if re.search(name, f"{short}: {case.name}")]
    if not found:
        raise ValueError(f"no compile case is called {name!r}; the modules are {MODULES}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile kernels without a GPU, print the results, and check them.

    Returns 0, or 1 if a shipped kernel breaks a promise.
    """
    parser = argparse.ArgumentParser(f"python -m {__name__}", description=main.__doc__)
    names = [known.name for known in TARGETS]
    parser.add_argument("--arch", nargs="+", default=names, help=" ".join(names))
    parser.add_argument("--kernel", default="", help="part of a name, or a regex")
    parser.add_argument("--source", default="", help="a file with a compile_cases() of its own")
    parser.add_argument("--counts", action="store_true", help="what is spent per tile, too")
    parser.add_argument("--json", action="store_true", help="rows as JSON instead of a table")
    parser.add_argument("--ptx", action="store_true", help="with --json: the assembly, too")
    parser.add_argument("--jobs", type=int, default=0, help="processes; default: as many as help")
    options = parser.parse_args(arguments)
    os.environ["TRITON_INTERPRET"] = "0"  # before the first kernel is imported
    reports = compile_all(
        options.kernel, options.source, [target(arch).name for arch in options.arch], options.jobs
    )
    if options.json:
        hidden = () if options.ptx else ("ptx",)
        print(json.dumps([row.as_dict(hidden) for row in reports]))
        return 0
    print(f"{reports.table()}\n{STAGES}")
    if options.counts:
        print(f"\n{reports.counts()}")
    return int(any(row.violations for row in reports))
