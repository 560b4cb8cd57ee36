"""How wide the loads of one pointer are: reads the assembly alongside the source.

The widest load of a kernel says little: K might come in 16-bit pieces while Q comes in 128. But
Triton records, in the PTX and AMDGCN it emits, which line and column of the source the next
instructions come from, and into which line that function was inlined:

    .loc  1 73 13, function_name $L__info_string0, inlined_at 1 160 13
    cp.async.cg.shared.global [ %r1 + 0 ], [ %rd2 + 0 ], 0x10, %r3;      ← 16 bytes per thread

    line 73, column 13 of file 1:   k = tl.load(k_ptrs, mask=mask, other=0.0)

So this copy loads from `k`. A load counts for a name if the call there is to a function
"load…" whose first argument begins with the name and "_" (`k_ptrs`, `cache.k_ptr + offs`). For an
argument without such a name (`ptrs`, inside a helper) we go up to the calling line.
"""

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

Place = tuple[str, int, int]  # file, line, column

_FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]+)"(?:\s+"([^"]+)")?', re.MULTILINE)
_LOC = re.compile(r"\s*\.loc\s+(\d+) (\d+) (\d+)")
_INLINED = re.compile(r"inlined_at (\d+) (\d+) (\d+)")
_INLINED_AMD = re.compile(r"@\[ ([^\s:]+):(\d+):(\d+)")
_ASM = re.compile(r"// begin inline asm\n.*?// end inline asm", re.DOTALL)
_LOAD = re.compile(r"(?:\w+\.)*load\w*\(\s*(?:\w+\.)*([a-zA-Z]\w*_\w*)")
_AMD_LOAD = re.compile(r"\s*(?:global|buffer)_load_(?:lds_)?(\w+)")
_AMD_BITS = {"dwordx4": 128, "dwordx3": 96, "dwordx2": 64, "dword": 32, "b128": 128, "b64": 64}


def stream_bits(assembly: str, streams: Sequence[str]) -> dict[str, int]:
    """Return, for each name, how many bits a thread loads with the *narrowest* of its loads.

    assembly: PTX or AMDGCN, with line information. streams: as in `LaunchCase`. A name without
    any load gets 0: the source uses another name, or the compiler needed no load.
    """
    found = {name: [0] for name in streams}
    for bits, places in _loads(assembly):
        pointer = next(filter(None, map(_pointer, places)), "")
        for name in found:
            if pointer.startswith(f"{name}_"):
                found[name].append(bits)
    return {name: min(bits[1:], default=0) for name, bits in found.items()}


def load_bits(instruction: str) -> int:
    """Return how many bits per thread a line of assembly loads from global memory, or 0.

    >>> load_bits("@%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];")
    128
    """
    if copy := re.search(
        r"cp\.async\.c[ag]\.shared\S*\.global\S* +\[[^]]*\], +\[[^]]*\], (\w+)", instruction
    ):
        return int(copy[1], 0) * 8
    if load := re.search(r"\bld\.global\S*?(?:\.v(\d))?\.[busf](\d+)\b", instruction):
        return int(load[1] or 1) * int(load[2])
    if load := _AMD_LOAD.match(instruction):
        return _AMD_BITS.get(load[1], 16)
    return 0


def _loads(assembly: str) -> Iterator[tuple[int, list[Place]]]:
    """Yield the width of each load, and where it comes from: its own call, then its callers."""
    files = {  # PTX: at the end
        n: f"{folder}/{name}" if name else folder for n, folder, name in _FILE.findall(assembly)
    }
    assembly = _ASM.sub(_one_place, assembly)
    callers: dict[Place, Place] = {}
    place, inlined = ("", 0, 0), []
    for line in assembly.splitlines():
        if match := _LOC.match(line):
            place = _place(match, files)
            callers.pop(place, None)
            if match := _INLINED.search(line):
                callers[place] = _place(match, files)
            inlined = [(f, int(n), int(c)) for f, n, c in _INLINED_AMD.findall(line)]
        elif bits := load_bits(line):
            yield bits, [place, *(inlined or _climb(place, callers))]


def _one_place(asm: re.Match) -> str:
    """PTX loads are inline assembly: LLVM keeps counting its lines, so only the first is right."""
    first, *others = re.split(r"(?<=\n)\t\.loc", asm[0])
    return first + "".join(
        "\t.loc" + text if i == 0 else text.split("\n", 1)[1] for i, text in enumerate(others)
    )


def _place(match: re.Match, files: dict[str, str]) -> Place:
    return files.get(match[1], ""), int(match[2]), int(match[3])


def _climb(place: Place, callers: dict[Place, Place]) -> list[Place]:
    chain = []
    while (place := callers.get(place)) and place not in chain:
        chain.append(place)
    return chain


def _pointer(place: Place) -> str:
    """Return what the load at a place loads from: "k_ptrs" for `tl.load(k_ptrs, …)`; else "".

    Triton says where the call begins (3.9) or where its first argument does (3.6); both lie in it.
    """
    file, *here = place
    # By name, among the imported modules: Triton's cache may hold another checkout's path.
    within = file.rpartition("kernels/")[2]  # "flash_decoding/rows.py", or a bare name
    ours = [path for path in _imported() if path.endswith(f"/{within}")] if within else []
    calls = [call for path in ours or [file] for call in _load_calls(path)]
    around = [(start, pointer) for start, end, pointer in calls if start <= tuple(here) <= end]
    return max(around, default=((), ""))[1]


@cache
def _load_calls(path: str) -> list[tuple[tuple[int, int], tuple[int, int], str]]:
    """List start and end (line, column) of every call to a "load…", and what it loads from."""
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    except OSError:  # Triton's own functions, by a bare name
        return []
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    found = []
    for call in calls:
        match = _LOAD.match(f"{ast.unparse(call.func)}({ast.unparse(call.args[0])}")
        if match:
            start, end = (call.lineno, call.col_offset), (call.end_lineno, call.end_col_offset)
            found.append((start, end, match[1]))
    return found


def _imported() -> list[str]:
    package = __package__.rpartition(".")[0] + "."  # "kernels."
    modules = [module for name, module in sys.modules.items() if name.startswith(package)]
    return [Path(module.__file__).as_posix() for module in modules if module.__file__]
