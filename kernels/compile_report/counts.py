"""What a kernel spends on every tile of K and V: counted in its machine code, without a GPU.

A decode kernel reads every key once, and how long that takes is given: bytes / bandwidth. In that
time an SM has only so many clocks. If a tile needs more of them, memory waits for the SM:

    a tile of 64 keys, D = 128, bf16      32,768 bytes
    an H200 feeds each SM                 18.3 bytes per clock
    so the next tile arrives after        1,787 clocks

    issue slots    ████████································   364 of 1,787: 20 %
    shared memory  ██████████████████······················   828 of 1,787: 46 %
                   └───────── one tile arrives ───────────┘

- *Instructions* are those that one warp issues per tile, in the loop that moves the tiles: of the
  innermost loops (`loops`) with loads of 64 bits or more per thread from global memory, the one
  that leaves the most copies in flight; of several such, the one with the fewest instructions per
  byte. That is the loop without masks, through which all keys go but the last few. Where threads
  wait for a barrier in a loop of their own within it, a single look at the barrier is counted.
- *Per line*: warp instructions of the whole program per 128 bytes of K and V, to compare
  kernels with tiles of different sizes.
- *Issue*: each of the four partitions of an SM issues one instruction per clock, and a program's
  warps are spread over them, so a tile takes instructions · warps / 4 clocks. The share is of
  the clocks until the next tile arrives on `Target.device`, at its boost clock and the bandwidth
  of its datasheet.
- *Pipe*: the same for the busiest part of the SM by `pipes`.
- *In flight*: bytes of K and V that an SM has asked for and not yet received, at most: tiles that
  the loop keeps in flight, times the bytes of a tile, times the programs that an SM holds.

Above 100 % the kernel cannot be bound by memory. Below, it may be; from about 60 % on that is
doubtful, since instructions also wait for one another. FlashAttention-2 is another matter: many
programs read the same K and V, mostly from L2, and arithmetic is meant to be its limit.

**How many tiles are in flight** is read from the copies to shared memory. They are committed in
groups (LDGDEPBAR), and the loop waits until at most n groups are left (DEPBAR.LE SB0, n):

    wait ≤ 2   compute   commit K   commit V  ┐         2 + 2 groups at most, 2 of them a tile:
       ▲                                      │         two tiles in flight
       └──────────────────────────────────────┘

A loop that loads to registers has the tile that it loads in flight. Copies by the TMA unit, which
other barriers guard, are not followed: 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kernels.compile_report.loops import Instruction, Loop, loops, parse
from kernels.compile_report.pipes import TENSOR, busy
from kernels.compile_report.sass import width
from kernels.compile_report.targets import PARTITIONS, Target

LINE = 128
"""Bytes of a line of the caches."""

WIDE = 64
"""Bits per thread from which a load belongs to a tile; page numbers and scales are narrower."""

_TO_SHARED = ("LDGSTS", "UTMALDG", "UBLKCP")


class Counts(NamedTuple):
    """What a warp does per tile. clocks: pipe → clocks of a partition (none for unknown targets).

    tile_bytes: of K and V. tiles_in_flight: per program, 0 if not known.
    """

    instructions: int
    clocks: dict[str, float]
    tile_bytes: int
    tiles_in_flight: int

    def fields(self, warps: int, programs: int, on: Target) -> dict[str, object]:
        """Return the fields of a `kernels.compile_report.Report`; programs: that an SM holds."""
        lasts = self.tile_bytes / on.device.bytes_per_clock  # clocks
        pipe = max(self.clocks, key=lambda name: self.clocks[name], default="")
        shared = warps / PARTITIONS / lasts
        return {
            "tile_bytes": self.tile_bytes,
            "tile_instructions": self.instructions,
            "issue_share": round(self.instructions * shared, 4),
            "pipe": pipe,
            "pipe_share": round(self.clocks.get(pipe, 0) * shared, 4),
            "bytes_in_flight": programs * self.tiles_in_flight * self.tile_bytes,
        }


def count(
    disassembly: str, on: Target, warps: int, tile_bytes: int = 0, function: str = ""
) -> Counts | None:
    """Count what a warp does per tile in the loop that moves the tiles; None without such a loop.

    warps: per program. tile_bytes: of K and V that a program needs per tile; 0: what the loop
    loads. A loop that loads several tiles in a round is divided by their number. function: as in
    `loops.parse`.
    """
    loop = hot_loop(loops(parse(disassembly, function)))
    if loop is None:
        return None
    loaded = loaded_bytes(loop.body) * warps
    if not (tile_bytes or loaded):
        return None
    tile_bytes = tile_bytes or loaded
    rounds = max(1, loaded // tile_bytes)
    clocks = busy(loop.body, on.name) if on.name in TENSOR else {}
    return Counts(
        round(len(loop.body) / rounds),
        {name: taken / rounds for name, taken in clocks.items()},
        tile_bytes,
        tiles_in_flight(loop.body, rounds),
    )


def hot_loop(found: Sequence[Loop]) -> Loop | None:
    """Return the loop that moves the tiles: see above."""
    tiles = [loop for loop in found if any(map(_moves_tile, loop.body))]
    # Not the loops around these; but one around a wait, which is a loop of its own, stays.
    tiles = [loop for loop in tiles if not any(_within(other, loop) for other in tiles)]
    return max(tiles, key=lambda loop: (_left(loop.body), -_per_byte(loop.body)), default=None)


def _within(inner: Loop, outer: Loop) -> bool:
    return inner.header != outer.header and any(x.address == inner.header for x in outer.body)


def loaded_bytes(body: Sequence[Instruction]) -> int:
    """Return how many bytes of tiles a warp loads in one round; 0 for what the TMA unit copies."""
    return sum(width(x.name) // 8 * 32 for x in body if _loads(x) and width(x.name) >= WIDE)


def tiles_in_flight(body: Sequence[Instruction], tiles: int = 1) -> int:
    """Return how many tiles are in flight at most; 1 for loads to registers, 0 if unknown.

    tiles: that a round of the loop takes.
    """
    groups = sum(x.base == "LDGDEPBAR" for x in body)
    if not groups:
        return 0 if any(x.base in _TO_SHARED for x in body) else 1
    most, pending = 0, 10**6  # whatever the loop begins with, the first wait ends it
    for instruction in [*body, *body]:
        if instruction.base == "LDGDEPBAR":
            pending += 1
        elif (left := _waits(instruction)) is not None:
            pending = min(pending, left)
        most = max(most, pending) if pending < 10**6 else most
    return most * tiles // groups


def _per_byte(body: Sequence[Instruction]) -> float:
    """Return the instructions per byte loaded (a loop may take several tiles in a round)."""
    return len(body) / (loaded_bytes(body) or 1)


def _left(body: Sequence[Instruction]) -> int:
    """Return the most groups of copies that a wait of the loop leaves in flight."""
    return max((left for x in body if (left := _waits(x)) is not None), default=0)


def _waits(x: Instruction) -> int | None:
    """Return how many groups of copies may be left after this wait; None for anything else."""
    if x.base != "DEPBAR" or not x.operands.startswith("SB0,"):
        return None
    return int(x.operands.split(",")[1].strip(), 0)


def _loads(x: Instruction) -> bool:
    return x.base in ("LDG", "LDGSTS")


def _moves_tile(x: Instruction) -> bool:
    return x.base in _TO_SHARED[1:] or (_loads(x) and width(x.name) >= WIDE)
