"""What the decode kernel spends on a tile of K and V, looked up in `kernels.explain.counted`."""

from typing import NamedTuple

from kernels.explain.counted import COUNTED

PARTITIONS = 4  # of an SM: each issues one warp instruction per clock
PIPES = {
    "alu": "integer arithmetic",
    "fma": "fp32 arithmetic",
    "shared": "shared memory",
    "tensor": "tensor cores",
    "xu": "conversions and exp2",
}


class Spent(NamedTuple):
    """Per tile: instructions of a warp; warps of a program; the busiest pipe, and its clocks per
    warp. See `kernels.compile_report.counts`.
    """

    instructions: int
    warps: int
    pipe: str
    clocks: int

    @property
    def issue_clocks(self) -> float:
        """Clocks in which an SM does nothing but issue the instructions of a tile."""
        return self.instructions * self.warps / PARTITIONS

    @property
    def pipe_clocks(self) -> float:
        """Clocks for which a tile keeps the busiest pipe of an SM busy."""
        return self.clocks * self.warps / PARTITIONS

    @property
    def limit(self) -> str:
        """Which of the two takes longer, in words."""
        return "issue slots" if self.issue_clocks >= self.pipe_clocks else PIPES[self.pipe]


def spent_by(
    arch: str | None, cache: str, D: int, block_m: int, block_n: int, page_size: int | None
) -> Spent | None:
    """Return what was counted for such a call; None where nobody has counted.

    arch: as `Device.arch`. cache: dtype of the cache, as `explain` takes it. D: of K and of V.
    block_m, block_n: rows and keys of a tile. page_size: tokens per page, or None.

    >>> spent_by("sm_90", "bf16", 128, 16, 64, None).warps
    4
    """
    kinds = {"bf16": "16 bit", "fp16": "16 bit", "e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}
    lookup = "" if page_size is None else "key" if page_size % block_n else "block"
    found = COUNTED.get((arch, kinds.get(cache, cache), D, block_m, lookup))
    return Spent(*found) if found else None
