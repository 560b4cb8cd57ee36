"""Compiles FlashInfer's decode kernel by nvcc, from its installed headers, without a GPU.

FlashInfer compiles a launcher for each combination of dtypes and head dims, and so do we. The
launcher that `SOURCE` instantiates chooses its tiles itself and brings one kernel for each group
size; numbers in their names tell them apart. Its other path for grouped heads, the prefill kernel
on tensor cores, is not compiled here.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernels.compile_report import sass
from kernels.compile_report.counts import count
from kernels.compile_report.targets import Target

D, SIZE = 128, 2  # head dim; bytes of a bf16
STAGES = 2  # from sm_80 on
SOURCE = """
#include <flashinfer/attention/decode.cuh>
#include <flashinfer/attention/default_decode_params.cuh>
#include <flashinfer/attention/variants.cuh>

namespace flashinfer {
using Number = nv_bfloat16;
using Params = BatchDecodeParams<Number, Number, Number, int32_t>;
using Plain = DefaultAttention<false, false, false, false>;
template cudaError_t BatchDecodeWithPagedKVCacheDispatched<
    128, PosEncodingMode::kNone, Plain, Params>(Params, Number*, float*, bool, cudaStream_t);
}
"""
INCLUDES = ("include", "cccl/libcudacxx/include", "cccl/cub", "cccl/thrust")
_KERNEL = re.compile(r"BatchDecodeWithPagedKVCacheKernel\w*?ModeE0E((?:Lj\d+E)+)")


def nvcc_version() -> str:
    """The version of the nvcc on PATH; "missing" if there is none."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return "missing"
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    return (re.findall(r"\bV(\d[\d.]*)", said) or ["unknown"])[0]


def rows_of(data: Path, on: Target) -> list[dict[str, Any]]:
    """Compile and count; data: the folder of the wheel's sources. One row that says why, if not."""
    row = {"peer": "flashinfer", "target": on.name}
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return [row | {"case": "", "missing": "there is no nvcc on PATH"}]
    source, cubin = data / "launcher.cu", data / f"{on.name}.cubin"
    source.write_text(SOURCE)
    arch = f"{on.name}a" if on.arch == 90 else on.name
    flags = ["-cubin", "-O3", "-std=c++17", "--expt-relaxed-constexpr", "--use_fast_math"]
    folders = [f"-I{data / folder}" for folder in INCLUDES]
    command = [nvcc, *flags, f"-arch={arch}", *folders, str(source), "-o", str(cubin)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or ["nvcc failed"]
        return [row | {"case": "", "missing": errors[0]}]
    return [row | found for found in _kernels(sass.disassemble(cubin.read_bytes()), on)]


def _kernels(text: str, on: Target) -> Iterator[dict[str, Any]]:
    """Count the kernels for groups of eight heads and for single ones."""
    for name in re.findall(r"Function : (\S+)", text):
        match = _KERNEL.search(name)
        if not match:
            continue
        stages, tile, _, x, y, z = map(int, re.findall(r"\d+", match[1]))
        if stages != STAGES or y not in (1, 8):
            continue
        warps, keys = x * y * z // 32, tile * y * z
        # As the launcher asks for it: K and V of two stages, then one pointer per key and thread.
        shared = 2 * stages * keys * D * SIZE + tile * x * y * z * 8
        registers = int(re.search(rf"{re.escape(name)}:\s+REG:(\d+)", text)[1])
        resident = on.resident_blocks(registers=registers, shared_bytes=shared, num_warps=warps)
        spent = count(text, on, warps, 2 * keys * D * SIZE, function=name)
        yield {
            "case": f"decode: bf16, G {y}, pages of any size",
            "registers": registers,
            "spill_bytes": 0,
            "num_warps": warps,
            "shared_bytes": shared,
            "resident_blocks": resident,
            **spent.fields(warps, resident, on),
        }
