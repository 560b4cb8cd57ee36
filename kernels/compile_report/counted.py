"""Prints the table that `kernels.explain` looks up: what the decode kernel spends on a tile.

Explaining a call needs no compiler, so the numbers are kept as a module. Whoever changes the kernel
makes it anew (a test recompiles a part of it and compares):

    python -m kernels.compile_report.counted > counted.py && mv counted.py kernels/explain/
"""

import sys
from collections.abc import Iterable

from kernels.call import KernelCall
from kernels.compile_report import cases, run
from kernels.compile_report.pipes import TENSOR
from kernels.compile_report.rows import Report
from kernels.compile_report.targets import target

CASES = (
    *(f"split bf16 D={D} G={G} Lq=1" for D in (64, 128, 256) for G in (1, 8)),
    "split bf16 D=128 G=8 Lq=8",
    *(f"split bf16 D=128 G={G} Lq=1 pages of 16" for G in (1, 8)),
    "split bf16 D=128 G=8 Lq=1 pages of 64",
    *(f"split bf16 int8 D=128 G={G} Lq=1 scale a head" for G in (1, 8)),
    *(f"split bf16 {kind} D=128 G=8 Lq=1 scale a head" for kind in ("e4m3", "e5m2")),
)
Key = tuple[str, str, int, int, str]
Row = tuple[int, int, str, int]

HEAD = '''\
"""What the decode kernel spends on a tile of K and V, counted in its machine code; generated.

How to make this file anew: `kernels.compile_report.counted`; how it is counted:
`kernels.compile_report.counts`.
"""

COUNTED = {
    # target, cache, D, rows of a tile, looked up per: instructions, warps, busiest pipe, its clocks
'''


def key_of(call: KernelCall, on: str) -> Key:
    """Return what decides which code a call runs: also asked by `kernels.explain.spent`."""
    args, k = call.args, call.args["cache"].k_cells.ptr
    kind = {2: "16 bit"}.get(k.element_size()) or str(k.dtype).removeprefix("torch.")
    page = args["PAGE"]
    lookup = "" if page is None else "key" if page % args["BLOCK_N"] else "block"
    return on, kind, args["D"], args["BLOCK_M"], lookup


def table(rows: Iterable[Report]) -> dict[Key, Row]:
    """Return the table of the reports on `CASES`; of two cases with one key, the larger counts."""
    found: dict[Key, Row] = {}
    for row in rows:
        if not row.tile_instructions:
            continue
        on = target(row.arch)
        key = key_of(cases(row.name)[0].make(on), on.name)
        lasts = row.tile_bytes / on.device.bytes_per_clock
        clocks = round(row.pipe_share * lasts * 4 / row.num_warps)
        counted = (row.tile_instructions, row.num_warps, row.pipe, clocks)
        found[key] = max(counted, found.get(key, counted))
    return found


def text_of(found: dict[Key, Row]) -> str:
    """Return the module's text."""

    def written(values: tuple) -> str:
        return ", ".join(f'"{x}"' if isinstance(x, str) else str(x) for x in values)

    lines = [f"    ({written(key)}): ({written(row)}),\n" for key, row in sorted(found.items())]
    return HEAD + "".join(lines) + "}\n"


def main() -> None:
    """Compile for every target whose pipes are known, and print the table."""
    rows = [row for name in CASES for row in run(name, [*TENSOR])]
    sys.stdout.write(text_of(table(rows)))


if __name__ == "__main__":
    main()
