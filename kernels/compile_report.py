"""What a kernel becomes on a GPU you do not have: registers, spills, shared memory, instructions.

Triton brings NVIDIA's tool chain along, and none of it needs a GPU. So a kernel can be compiled
here for an A100 (`arch=80`) or an H100 (`arch=90`), and the machine code read:

    >>> from kernels import compile_report
    >>> compile_report.report("softmax fp16 16384", arch=(80, 90))  # doctest: +SKIP
    kernel                                  sm  regs  spills  shared     load  async  tensor    PTX
    softmax fp16 16384 columns              80    93       0      32  128 bit      0       0   1061
    softmax fp16 16384 columns              90    93       0      32  128 bit      0       0   1073

A row is one kernel compiled for one target: registers a thread, bytes spilled to slow memory (0,
or the tiles are too large), bytes of shared memory a program, the widest load from global memory
(128 bits is the best on these two), copies to shared memory that run in the background,
tensor-core instructions, lines of PTX. The figures above are triton 3.9's; versions differ.

From a shell: `python -m kernels.compile_report [--arch 80 90] [--kernel NAME] [--json]`.

Compiling needs a process whose kernels are not interpreted. `run`, `report` and `compile_for`
start one where they have to, so they work in a notebook on a laptop. Every module of `MODULES`
lists in `compile_cases()` what it wants to see compiled.
"""

import argparse
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kernels.sass import disassemble, measure

MODULES = ("primer", "softmax", "flash_attention", "flash_decoding")

_HEAD = f"{'kernel':<38}{'sm':>4}{'regs':>6}{'spills':>8}{'shared':>8}{'load':>9}"
_HEAD += f"{'async':>7}{'tensor':>8}{'PTX':>7}"


@dataclass(frozen=True)
class CompileCase:
    """One kernel and the arguments to compile it for, as a launch would specialise them.

    kernel: a `@triton.jit` function. signature: a type for every argument that is no constexpr;
    "*fp16" is a pointer, "i32", "i64", "fp32" are numbers, and ":16" behind it promises a multiple
    of 16 (a launch looks for itself; 128-bit loads need it). A stride that is always 1 belongs to
    the constexprs, where a launch puts it too.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3


@dataclass(frozen=True)
class Report:
    """What the compiler made of one kernel. Counts are of instructions in the machine code.

    registers: 32-bit, a thread (255 at most). spill_bytes: written to and read from local memory,
    a thread, because registers ran out. stack_bytes: a thread. shared_bytes: a program.
    load_bits: the widest load from global memory. async_copies: global → shared, without waiting.
    tensor_core: matrix instructions. ptx: the text, of `ptx_lines` lines.
    """

    name: str
    arch: int
    num_warps: int
    num_stages: int
    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int
    load_bits: int
    async_copies: int
    tensor_core: int
    ptx_lines: int
    ptx: str = field(default="", repr=False)

    def __str__(self) -> str:
        """One line of the table."""
        return (
            f"{self.name:<38}{self.arch:>4}{self.registers:>6}{self.spill_bytes:>8}"
            f"{self.shared_bytes:>8}{self.load_bits:>5} bit{self.async_copies:>7}"
            f"{self.tensor_core:>8}{self.ptx_lines:>7}"
        )


class Reports(tuple[Report, ...]):
    """Several reports; prints as a table."""

    def __str__(self) -> str:
        """A head and one line a report."""
        return "\n".join([_HEAD, *map(str, self)])

    __repr__ = __str__


def compile_for(
    kernel: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any],
    *,
    arch: int = 90,
    num_warps: int = 4,
    num_stages: int = 3,
    name: str | None = None,
) -> Report:
    """Compile one kernel for sm_<arch>, no GPU needed, and return a `Report`.

    kernel, signature, constexprs: as in `CompileCase`. arch: 80 (A100), 86, 89, 90 (H100), …

    Where kernels are interpreted another process compiles. A kernel of this package is imported
    there; any other, from a notebook cell say, travels as its source text, and can use `tl` and
    whatever is public in `kernels.primitives`, no more.

    Raises ValueError for a signature that does not fit the kernel, RuntimeError with the
    compiler's message where the other process fails.
    """
    from kernels.runtime import INTERPRETED

    given = [*signature, *constexprs]
    if sorted(given) != sorted(kernel.arg_names):
        raise ValueError(
            f"signature and constexprs should name {kernel.arg_names}, each once; got {given}"
        )
    name = name or kernel.__name__
    case = CompileCase(name, kernel, signature, constexprs, num_warps, num_stages)
    return run(_as_module(case), arch)[0] if INTERPRETED else _compile(case, arch)


def _compile(case: CompileCase, arch: int) -> Report:
    """Compile in this process, whose kernels are not interpreted."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    hints = {a: case.signature[a].split(":") for a in case.signature}
    names = case.kernel.arg_names
    compiled = triton.compile(
        ASTSource(
            case.kernel,
            {a: hints[a][0] if a in hints else "constexpr" for a in names},
            dict(case.constexprs),
            {(names.index(a),): [["tt.divisibility", 16]] for a in hints if "16" in hints[a][1:]},
        ),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": case.num_warps, "num_stages": case.num_stages},
    )
    ptx = compiled.asm["ptx"]
    return Report(
        name=case.name,
        arch=arch,
        num_warps=case.num_warps,
        num_stages=case.num_stages,
        shared_bytes=compiled.metadata.shared,
        **measure(disassemble(compiled.asm["cubin"])),
        ptx_lines=len(ptx.splitlines()),
        ptx=ptx,
    )


def _as_module(case: CompileCase) -> str:
    """Source text of a module that holds one kernel and its case."""
    fn = case.kernel.fn
    ours = fn.__module__.startswith("kernels.")
    kernel = f"from {fn.__module__} import {fn.__name__}" if ours else inspect.getsource(fn)
    arguments = (dict(case.signature), dict(case.constexprs), case.num_warps, case.num_stages)
    return (
        "from kernels.compile_report import CompileCase\nfrom kernels.primitives import *\n"
        f"import triton\nimport triton.language as tl\n\n{kernel}\n\ndef compile_cases():\n"
        f"    return [CompileCase({case.name!r}, {fn.__name__}, *{arguments!r})]\n"
    )


def run(name_or_source: str = "", arch: int | Sequence[int] = (80, 90)) -> Reports:
    """Compile in a process of its own and return the reports, with their PTX.

    name_or_source: part of a module's or a case's name ("softmax", "matmul|D=64"; "" is all), or
    the source text of a module with a `compile_cases()` of its own, which lists `CompileCase`s.
    arch: one architecture or several. About a second a kernel and architecture; Triton keeps the
    result. Raises RuntimeError with the other process's message where that fails.
    """
    archs = map(str, [arch] if isinstance(arch, int) else arch)
    command = [sys.executable, "-m", "kernels.compile_report", "--json", "--ptx", "--arch", *archs]
    with tempfile.TemporaryDirectory() as folder:
        if "\n" in name_or_source:
            source = Path(folder, "kernel_source.py")
            source.write_text(name_or_source)
            command += ["--source", str(source)]
        else:
            command += ["--kernel", name_or_source]
        env, root = os.environ | {"TRITON_INTERPRET": "0"}, Path(__file__).parents[1]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=root)
    if done.returncode:
        raise RuntimeError(f"the compiling process failed:\n{done.stderr[-3000:]}")
    return Reports(Report(**row) for row in json.loads(done.stdout))


def report(name_or_source: str = "", arch: int | Sequence[int] = (80, 90)) -> None:
    """Print the table of `run(name_or_source, arch)`."""
    print(run(name_or_source, arch))


def cases(name: str = "") -> list[CompileCase]:
    """Return the cases whose "module: case name" matches `name`, a regular expression.

    Imports the kernels. Raises ValueError where no case is called so.
    """
    found = []
    for module in MODULES:
        listed = importlib.import_module(f"kernels.{module}").compile_cases()
        found += [case for case in listed if re.search(name, f"{module}: {case.name}")]
    if not found:
        raise ValueError(f"no compile case is called {name!r}; the modules are {MODULES}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile kernels without a GPU and print what became of them."""
    parser = argparse.ArgumentParser("python -m kernels.compile_report", description=main.__doc__)
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], help="80 90 …")
    parser.add_argument("--kernel", default="", help="part of a name, or a regex")
    parser.add_argument("--source", help="a file with a compile_cases() of its own")
    parser.add_argument("--json", action="store_true", help="rows as JSON instead of a table")
    parser.add_argument("--ptx", action="store_true", help="with --json: the PTX text, too")
    options = parser.parse_args(arguments)
    os.environ["TRITON_INTERPRET"] = "0"  # before the first kernel is imported
    if options.source:
        sys.path.insert(0, str(Path(options.source).parent))
        chosen = importlib.import_module(Path(options.source).stem).compile_cases()
    else:
        chosen = cases(options.kernel)
    reports = Reports(_compile(case, arch) for case in chosen for arch in options.arch)
    if not options.json:
        print(reports)
        return
    print(json.dumps([asdict(row) | ({} if options.ptx else {"ptx": ""}) for row in reports]))


if __name__ == "__main__":
    main()
