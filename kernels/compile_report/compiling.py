"""Compiles cases for targets, in several processes where that helps, and reports the results."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import product
from multiprocessing import get_context
from typing import Any

from kernels.compile_report import amdgcn, sass
from kernels.compile_report.case import CompileCase, LaunchCase, source_of
from kernels.compile_report.counts import count
from kernels.compile_report.load_widths import stream_bits
from kernels.compile_report.promises import violations
from kernels.compile_report.rows import Report, Reports
from kernels.compile_report.targets import Target, target

Job = tuple[str, str, int, str]  # arguments of `cases`, which of them, name of the target


def compile_one(case: CompileCase | LaunchCase, on: Target) -> Report:
    """Compile in this process, whose kernels are not interpreted.

    A `LaunchCase` is also checked, and one that does not compile is reported as a failure; for a
    `CompileCase` the compiler's error is raised.
    """
    if isinstance(case, CompileCase):
        return _measure(case, on)
    claim = {"unsupported": case.unsupported.get(on.name, "")}
    try:
        row = _measure(case, on, case.streams, case.tile_bytes(on))
    except Exception as error:  # whatever the compiler raises: several classes, some from C++
        row = Report(case.name, on.arch, failure=_why(error))
    return _with(row, **claim, violations=tuple(violations(case, row, on)))


def _why(error: BaseException) -> str:
    """Return the last line of the original exception, which Triton wraps once per call."""
    while error.__cause__:
        error = error.__cause__
    lines = [line.strip(" ^") for line in str(error).splitlines()]
    return next(filter(None, reversed(lines)), repr(error))


def _with(row: Report, **fields: Any) -> Report:
    return Report(**(row.as_dict() | fields))


def _measure(
    case: CompileCase | LaunchCase, on: Target, streams: Sequence[str] = (), tile_bytes: int = 0
) -> Report:
    """Compile and read the machine code; tile_bytes: of the tiles that it streams, 0 for none."""
    import triton
    from triton.backends.compiler import GPUTarget

    source, options = source_of(case, on)
    backend = "hip" if on.is_amd else "cuda"
    compiled = triton.compile(source, GPUTarget(backend, on.arch, on.warp_size), options)
    text = compiled.asm["amdgcn" if on.is_amd else "ptx"]
    machine = "" if on.is_amd else sass.disassemble(compiled.asm["cubin"])
    counts = amdgcn.measure(text) if on.is_amd else sass.measure(machine)
    warps = compiled.metadata.num_warps
    shared = compiled.metadata.shared
    resident = on.resident_blocks(
        registers=counts["registers"],
        shared_bytes=shared,
        num_warps=warps,
        tensor_columns=getattr(compiled.metadata, "tmem_size", None) or 0,
    )
    spent = count(machine, on, warps, tile_bytes) if machine and tile_bytes else None
    return Report(
        name=case.name,
        arch=on.arch,
        num_warps=options["num_warps"],
        num_stages=_stages(source, options),
        **counts,
        shared_bytes=shared,
        resident_blocks=resident,
        stream_bits=stream_bits(text, streams),
        **(spent.fields(warps, resident, on) if spent else {}),
        ptx_lines=len(text.splitlines()),
        ptx=text,
    )


def _stages(source: Any, options: dict[str, int]) -> int:
    """Return NUM_STAGES, by which a kernel pipelines its own loop, or the launch's option."""
    names = list(source.fn.arg_names)
    if "NUM_STAGES" not in names:
        return options["num_stages"]
    return source.constants[(names.index("NUM_STAGES"),)]


@cache
def _cases(name: str, source: str) -> list[CompileCase | LaunchCase]:
    from kernels.compile_report import cases

    return cases(name, source)


def _compile_job(job: Job) -> Report:
    """Compile in whatever process this is: a job is plain strings; a case may not be picklable."""
    name, source, index, on = job
    return compile_one(_cases(name, source)[index], target(on))


def compile_all(name: str, source: str, targets: Sequence[str], jobs: int = 0) -> Reports:
    """Compile the cases that `kernels.compile_report.cases(name, source)` finds for each target.

    jobs: processes at a time; 0: one per twelve reports or so, at most one per CPU. Reports
    progress on stderr. Raises what compiling a `CompileCase` raises.
    """
    found = range(len(_cases(name, source)))
    todo: list[Job] = [(name, source, index, on) for index, on in product(found, targets)]
    jobs = jobs or min(os.cpu_count() or 1, 1 + len(todo) // 12)
    if jobs == 1:
        return _told(map(_compile_job, todo), len(todo))
    # spawn: a fork would copy torch's and LLVM's threads in whatever state they are in.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return _told(pool.map(_compile_job, todo), len(todo))


def _told(rows: Iterator[Report], total: int) -> Reports:
    """Collect the rows, announcing each as it arrives."""
    done, start = [], time.monotonic()
    for row in rows:
        done.append(row)
        outcome = "BROKEN" if row.violations else "not supported" if row.unsupported else "ok"
        seconds = time.monotonic() - start
        note = f"[{len(done)}/{total}, {seconds:.0f} s] {row.name} {row.target}: {outcome}"
        print(note, file=sys.stderr, flush=True)
    return Reports(done)
