"""What the compiler made of a kernel, as a value and as a line of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from kernels.compile_report.counts import LINE

STAGES = (
    "stages: what a loop asks of Triton. That keeps one tile fewer in flight where the cache is "
    "contiguous; of keys found through a page table, 2, 3, 4, 5 stages keep 1, 1, 1, 2."
)


@dataclass(frozen=True)
class Report:
    """What the compiler made of one kernel. Counts are of instructions in the machine code.

    arch: 80 for sm_80, "gfx942". num_stages: what the kernel's loop asks of Triton, by a NUM_STAGES
    of its own or the launch's option; not the tiles in flight, see `STAGES`. registers: 32-bit, per
    thread (at most 255; AMD 512). spill_bytes: written to and read from local memory, per thread,
    because registers ran out. stack_bytes: per thread. shared_bytes: per program. resident_blocks:
    programs that an SM holds at once, see `targets`. load_bits: the widest load from global memory.
    stream_bits: the narrowest load of each stream of a `LaunchCase`. async_copies: global → shared,
    without waiting. tensor_core: matrix instructions. ptx: the text, of `ptx_lines` lines (AMD:
    AMDGCN).

    For kernels that stream tiles of K and V, on NVIDIA's GPUs, as `kernels.compile_report.counts`
    explains; 0 for others. tile_bytes: of K and V. tile_instructions: that a warp issues per tile.
    issue_share: how much of the time in which memory delivers a tile goes into issuing them.
    pipe_share: the same for the busiest pipe, which `pipe` names. Above 1 memory is not the limit.
    bytes_in_flight: of K and V, per SM.

    failure: why it does not compile; every number is 0 then. unsupported: why that was expected.
    violations: the broken promises, see `kernels.compile_report.promises`.
    """

    name: str
    arch: int | str
    num_warps: int = 0
    num_stages: int = 0
    registers: int = 0
    spill_bytes: int = 0
    stack_bytes: int = 0
    shared_bytes: int = 0
    resident_blocks: int = 0
    load_bits: int = 0
    stream_bits: Mapping[str, int] = field(default_factory=dict)
    async_copies: int = 0
    tensor_core: int = 0
    tile_bytes: int = 0
    tile_instructions: int = 0
    issue_share: float = 0.0
    pipe: str = ""
    pipe_share: float = 0.0
    bytes_in_flight: int = 0
    ptx_lines: int = 0
    ptx: str = field(default="", repr=False)
    failure: str = ""
    unsupported: str = ""
    violations: Sequence[str] = ()

    @property
    def target(self) -> str:
        """Name of the target: "sm_80", "gfx942"."""
        return f"sm_{self.arch}" if isinstance(self.arch, int) else self.arch

    @property
    def instructions_per_line(self) -> float:
        """Warp instructions of a program per 128 bytes of K and V; 0.0 without a tile."""
        if not self.tile_bytes:
            return 0.0
        return self.tile_instructions * self.num_warps / (self.tile_bytes / LINE)

    def as_dict(self, leave_out: Sequence[str] = ()) -> dict[str, Any]:
        """Return the fields, for JSON, without those in `leave_out`."""
        return {name: x for name, x in asdict(self).items() if name not in leave_out}

    def __str__(self) -> str:
        """One line of the short table."""
        return _line(self, _SHORT)


class Reports(tuple[Report, ...]):
    """Several reports; prints as a table."""

    def __str__(self) -> str:
        """A header and one line per report: the lessons' table."""
        return "\n".join([_line(None, _SHORT), *map(str, self)])

    __repr__ = __str__

    def counts(self) -> str:
        """Return the table of what is spent per tile, of the kernels that stream tiles."""
        return "\n".join(_table([row for row in self if row.tile_instructions], _COUNTS))

    def table(self) -> str:
        """Return the full table, followed by unsupported cases and broken promises."""
        done = [row for row in self if not row.failure]
        lines = _table(done, _FULL)
        lines += [
            f"not supported: {row.name} on {row.target}: {row.unsupported}"
            for row in self
            if row.unsupported
        ]
        broken = [f"BROKEN: {row.name} on {row.target} {x}" for row in self for x in row.violations]
        kept = "" if broken else ", and every promise is kept"
        return "\n".join([*lines, *broken, f"{len(done)} compiled{kept}"])


def _bits(row: Report) -> str:
    return f"{row.load_bits} bit"


def _streams(row: Report) -> str:
    """The narrowest load over all streams, and their names: "128 k,v"."""
    names = ",".join(row.stream_bits)
    return f"{min(row.stream_bits.values())} {names}" if names else "-"


def _field(name: str) -> Any:
    return lambda row: getattr(row, name)


_NAME = _field("name")
# Column heading → its width (negative: left-aligned), and what the column holds.
_SHORT = {
    "kernel": (-38, _NAME),
    "sm": (4, _field("arch")),
    "regs": (6, _field("registers")),
    "spills": (8, _field("spill_bytes")),
    "shared": (8, _field("shared_bytes")),
    "load": (9, _bits),
    "async": (7, _field("async_copies")),
    "tensor": (8, _field("tensor_core")),
    "PTX": (7, _field("ptx_lines")),
}
_FULL = {
    "target": (-7, _field("target")),
    "warps": (6, _field("num_warps")),
    "stages": (7, _field("num_stages")),
    "regs": (5, _field("registers")),
    "spills": (7, _field("spill_bytes")),
    "stack": (6, _field("stack_bytes")),
    "shared": (8, _field("shared_bytes")),
    "per SM": (7, _field("resident_blocks")),
    "load": (8, _bits),
    "streams": (9, _streams),
    "tensor": (7, _field("tensor_core")),
}


def _percent(share: str) -> Any:
    return lambda row: f"{100 * getattr(row, share):.0f} %"


def _pipe(row: Report) -> str:
    return f"{_percent('pipe_share')(row)} {row.pipe:6}" if row.pipe else "-"


_COUNTS = {
    "target": (-7, _field("target")),
    "warps": (6, _field("num_warps")),
    "per SM": (7, _field("resident_blocks")),
    "tile": (8, _field("tile_bytes")),
    "instr": (7, _field("tile_instructions")),
    "a line": (8, lambda row: f"{row.instructions_per_line:.1f}"),
    "issue": (8, _percent("issue_share")),
    "pipe": (14, _pipe),
    "KV in flight": (14, lambda row: f"{row.bytes_in_flight // 1024} KiB"),
}


def _table(rows: Sequence[Report], columns: Mapping[str, tuple[int, Any]]) -> list[str]:
    """A header and one line per row, with names as wide as the longest."""
    wide = max((len(row.name) for row in rows), default=0) + 2
    columns = {"kernel": (-max(wide, 12), _NAME), **columns}
    return [_line(row, columns) for row in (None, *rows)]


def _line(row: Report | None, columns: Mapping[str, tuple[int, Any]]) -> str:
    """One line of a table; without a row, its header."""
    cells = []
    for head, (width, of) in columns.items():
        text = str(of(row)) if row else head
        cells.append(text.ljust(-width) if width < 0 else text.rjust(width))
    return "".join(cells)
