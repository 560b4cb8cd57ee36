"""What a kernel becomes on a GPU you do not have: registers, spills, shared memory, instructions.

Triton brings the whole NVIDIA tool chain along (`ptxas`, `cuobjdump`), and none of it needs a GPU.
So a kernel can be compiled here for an A100 (`arch=80`) or an H100 (`arch=90`), and the machine code
read:

    >>> from kernels import compile_report
    >>> compile_report.report("softmax", arch=(80, 90))         # doctest: +SKIP
    kernel                         sm  regs  spills  shared  load    async  tensor   PTX
    softmax fp16 4096 columns      80    39       0      32  128 bit     0       0   512
    …

One row is one kernel compiled for one target: registers a thread, bytes spilled to slow memory (0,
or the tiles are too large), shared memory a program, the widest load from global memory (128 bits is
the best there is), copies to shared memory that run in the background, tensor-core instructions.

From a shell: `python -m kernels.compile_report [--arch 80 90] [--kernel NAME] [--json]`.

Compiling needs a process whose kernels are not interpreted, so `run` starts one: it works the same
in a notebook on a laptop. Every kernel module lists what it wants to see compiled in
`compile_cases()`; `MODULES` names those modules.
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MODULES = ("primer", "softmax", "flash_attention", "flash_decoding")

_COLUMNS = f"{'kernel':<38}{'sm':>4}{'regs':>6}{'spills':>8}{'shared':>8}{'load':>9}"
_COLUMNS += f"{'async':>7}{'tensor':>8}{'PTX':>7}"


@dataclass(frozen=True)
class CompileCase:
    """One kernel and the arguments to compile it for, as a launch would specialise them.

    kernel: a `@triton.jit` function. signature: a type for every argument that is no constexpr;
    "*fp16" is a pointer, "i32", "i64", "fp32" are numbers, and ":16" after it promises a
    multiple of 16 (Triton finds that out by itself at a launch; it allows 128-bit loads).
    A stride that is 1 belongs into the constexprs, where a launch puts it too.
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
    tensor_core: matrix instructions.
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
        """Head and one line a report."""
        return "\n".join([_COLUMNS, *map(str, self)])

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
    """Compile one kernel for `sm_<arch>` and read the result; no GPU needed.

    kernel, signature, constexprs: as in `CompileCase`. arch: 75 (T4), 80 (A100), 86, 89, 90 (H100).
    Returns a `Report`. Raises RuntimeError in a process that interprets its kernels (use `run`,
    which starts another one), ValueError for a signature that does not fit the kernel.
    """
    from kernels.runtime import INTERPRETED

    if INTERPRETED:
        raise RuntimeError(
            "this process interprets its kernels and cannot compile them: call "
            "compile_report.run(name_or_source, arch), which starts one that can"
        )
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    unknown = set(kernel.arg_names) ^ (set(signature) | set(constexprs))
    if unknown:
        raise ValueError(f"signature and constexprs should name each argument once: {unknown}")
    types = {
        a: signature[a].split(":")[0] if a in signature else "constexpr" for a in kernel.arg_names
    }
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, a in enumerate(kernel.arg_names)
        if signature.get(a, "").endswith(":16")
    }
    compiled = triton.compile(
        ASTSource(kernel, types, dict(constexprs), attrs=aligned),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": num_warps, "num_stages": num_stages},
    )
    ptx = compiled.asm["ptx"]
    return Report(
        name=name or kernel.__name__,
        arch=arch,
        num_warps=num_warps,
        num_stages=num_stages,
        shared_bytes=compiled.metadata.shared,
        **_read_machine_code(compiled.asm["cubin"]),
        ptx_lines=sum(bool(line.strip()) for line in ptx.splitlines()),
        ptx=ptx,
    )


def _read_machine_code(cubin: bytes) -> dict[str, int]:
    """Registers and stack from the resource section, the rest counted in the disassembly."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", "--dump-sass", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ops = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text, re.MULTILINE)
    loads = [op for op in ops if re.match(r"LDG(STS)?\b", op)]
    return {
        "registers": int(re.search(r"REG:(\d+)", text).group(1)),
        "stack_bytes": int(re.search(r"STACK:(\d+)", text).group(1)),
        "spill_bytes": sum(_bits(op) // 8 for op in ops if re.match(r"(STL|LDL)\b", op)),
        "load_bits": max(map(_bits, loads), default=0),
        "async_copies": sum(op.startswith(("LDGSTS", "UBLKCP", "UTMALDG")) for op in ops),
        "tensor_core": sum(
            bool(re.match(r"(HMMA|HGMMA|IMMA|IGMMA|DMMA|UTC\w*MMA)", op)) for op in ops
        ),
    }


def _bits(op: str) -> int:
    """Width of one load or store: the last of .64, .128, .U8, … in its name, 32 if there is none."""
    widths = re.findall(r"\.(?:[US])?(8|16|64|128)(?=\.|$)", op.replace("LTC128B", ""))
    return int(widths[-1]) if widths else 32


def cases(name: str = "") -> list[CompileCase]:
    """Return the compile cases of all kernel modules whose module or case name contains `name`.

    Raises ValueError where there is none. Importing this module imports no kernel; this does.
    """
    found = []
    for module in MODULES:
        listed = importlib.import_module(f"kernels.{module}").compile_cases()
        found += [case for case in listed if name in module or name in case.name]
    if not found:
        raise ValueError(f"no compile case is called like {name!r}; modules are {MODULES}")
    return found


def compile_all(these: Iterable[CompileCase], arch: Sequence[int]) -> Reports:
    """Compile each case for each architecture, in this process (see `compile_for`)."""
    return Reports(
        compile_for(
            case.kernel,
            case.signature,
            case.constexprs,
            arch=target,
            num_warps=case.num_warps,
            num_stages=case.num_stages,
            name=case.name,
        )
        for case in these
        for target in arch
    )


def run(name_or_source: str = "", arch: int | Sequence[int] = (80, 90)) -> Reports:
    """Compile in a process of its own, which works where kernels are interpreted, too.

    name_or_source: part of a module's or a case's name ("softmax"; "" is everything), or the
    source text of a module that has its own `compile_cases()` returning `CompileCase`s.
    arch: one architecture or several. Takes about a second a kernel and architecture, once; Triton
    keeps the result. Raises RuntimeError with the compiler's message where that fails.
    """
    targets = [arch] if isinstance(arch, int) else list(arch)
    command = [sys.executable, "-m", "kernels.compile_report", "--json", "--ptx"]
    command += ["--arch", *map(str, targets)]
    with tempfile.TemporaryDirectory() as folder:
        if "\n" in name_or_source:
            path = Path(folder, "source.py")
            path.write_text(name_or_source)
            command += ["--source", str(path)]
        else:
            command += ["--kernel", name_or_source]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | {"TRITON_INTERPRET": "0"},
            cwd=Path(__file__).parents[1],
        )
    if done.returncode:
        raise RuntimeError(f"compiling {name_or_source[:60]!r} failed:\n{done.stderr[-3000:]}")
    return Reports(Report(**row) for row in json.loads(done.stdout))


def report(name_or_source: str = "", arch: int | Sequence[int] = (80, 90)) -> None:
    """Print the table of `run(name_or_source, arch)`."""
    print(run(name_or_source, arch))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.compile_report", description=main.__doc__
    )
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], help="80 90 …")
    parser.add_argument("--kernel", default="", help="part of a module's or a case's name")
    parser.add_argument("--source", help="a file with its own compile_cases()")
    parser.add_argument("--json", action="store_true", help="rows as JSON instead of a table")
    parser.add_argument("--ptx", action="store_true", help="with --json: include the PTX text")
    options = parser.parse_args(arguments)
    os.environ["TRITON_INTERPRET"] = "0"  # before the first kernel is imported
    if options.source:
        spec = importlib.util.spec_from_file_location("source", options.source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        chosen = module.compile_cases()
    else:
        chosen = cases(options.kernel)
    reports = compile_all(chosen, options.arch)
    if not options.json:
        print(reports)
        return
    rows = [asdict(row) for row in reports]
    print(json.dumps([row if options.ptx else row | {"ptx": ""} for row in rows]))


if __name__ == "__main__":
    main()
