"""Tile sizes of the backward kernels: plain Python on plain numbers, no GPU and no triton.

A table, not a search: compiled for every target of `kernels.compile_report`, each row keeps its
state in registers. The backward needs more than the forward, since a program of dk and dv sums up
two tiles, and both kernels hold two operands all the time. It has not been tuned on a GPU.
"""

from typing import Literal, NamedTuple

from kernels.heuristics import next_power_of_2

Cores = Literal["hopper", "ampere", "amd", "turing"]
"""What multiplies 16-bit tiles, as far as tile sizes depend on it: sm_90; any other from sm_80 on;
AMD's matrix cores; on an sm_75, whose tensor cores Triton does not use, the threads themselves."""


class Tiles(NamedTuple):
    """Tile sizes and launch parameters of one kernel, as in `kernels.heuristics.Launch`."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


class BackwardTiles(NamedTuple):
    """The two kernels that walk: dk and dv (block_n keys stay), dq (block_m queries stay)."""

    dkdv: Tiles
    dq: Tiles


Table = dict[int, BackwardTiles]  # head dim up to → tiles

_HOPPER: Table = {  # most of the 227 KiB of an SM, and all of its registers
    64: BackwardTiles(dkdv=Tiles(64, 128, 8, 3), dq=Tiles(128, 64, 8, 3)),
    128: BackwardTiles(dkdv=Tiles(64, 128, 8, 2), dq=Tiles(128, 64, 8, 3)),
    256: BackwardTiles(dkdv=Tiles(64, 32, 8, 2), dq=Tiles(128, 32, 8, 2)),
}
_AMPERE: Table = {  # within the 99 KiB of sm_86 and sm_89
    64: BackwardTiles(dkdv=Tiles(64, 128, 8, 3), dq=Tiles(128, 64, 8, 3)),
    128: BackwardTiles(dkdv=Tiles(64, 64, 8, 2), dq=Tiles(128, 32, 8, 3)),
    256: BackwardTiles(dkdv=Tiles(32, 32, 8, 2), dq=Tiles(32, 32, 8, 2)),
}
# D and Dv in blocks of different widths: the compiler keeps the narrower operand in registers all
# the time, and with the tiles above sm_80 (Dv = 64) and sm_100 (D = 192, packed) would spill.
_AMPERE_UNEVEN: Table = {
    64: _AMPERE[64],
    128: BackwardTiles(dkdv=Tiles(64, 32, 8, 2), dq=Tiles(64, 64, 8, 2)),
    256: BackwardTiles(dkdv=Tiles(32, 32, 8, 2), dq=Tiles(32, 32, 4, 2)),
}
_AMD: Table = {  # within 64 KiB
    64: BackwardTiles(dkdv=Tiles(32, 128, 8, 2), dq=Tiles(128, 64, 8, 3)),
    128: BackwardTiles(dkdv=Tiles(32, 64, 8, 1), dq=Tiles(128, 32, 8, 3)),
    256: BackwardTiles(dkdv=Tiles(16, 32, 8, 2), dq=Tiles(64, 16, 8, 2)),
}
_TURING: Table = {  # within 64 KiB; a thread widens its operands in registers
    64: BackwardTiles(dkdv=Tiles(32, 16, 8, 2), dq=Tiles(32, 32, 8, 2)),
    128: BackwardTiles(dkdv=Tiles(16, 16, 8, 2), dq=Tiles(16, 16, 8, 2)),
}
_FP32: Table = {  # never TF32, so no tensor cores either
    64: BackwardTiles(dkdv=Tiles(32, 32, 8, 2), dq=Tiles(32, 32, 8, 2)),
    128: BackwardTiles(dkdv=Tiles(16, 16, 8, 2), dq=Tiles(16, 32, 8, 2)),
    256: BackwardTiles(dkdv=Tiles(16, 16, 4, 1), dq=Tiles(16, 16, 4, 2)),
}
_TURING_FP32: Table = {
    64: BackwardTiles(dkdv=Tiles(32, 32, 8, 2), dq=Tiles(32, 32, 8, 2)),
    128: BackwardTiles(dkdv=Tiles(32, 16, 8, 2), dq=Tiles(16, 16, 8, 2)),
}
_TABLES = {"hopper": _HOPPER, "ampere": _AMPERE, "amd": _AMD, "turing": _TURING}


def choose_backward_tiles(
    *,
    head_dim: int,
    value_dim: int | None = None,
    element_size: int,
    cores: Cores,
    interpreted: bool = False,
) -> BackwardTiles:
    """Return tile sizes and launch parameters of the backward kernels.

    Args:
        head_dim: D of q and k, from 1 to 256. value_dim: Dv; head_dim if None.
        element_size: bytes per element of q, 2 or 4.
        cores: what multiplies 16-bit tiles there.
        interpreted: use tiles of 64 x 64; there are no registers to run out of.

    Raises ValueError for head dims above 128 on an sm_75, whose registers cannot hold such a tile.

    >>> choose_backward_tiles(head_dim=80, element_size=2, cores="hopper").dkdv
    Tiles(block_m=64, block_n=64, num_warps=8, num_stages=2)

    Not Hopper's own tiles: those leave no register for the masks that 80 of 128 columns need.
    """
    if interpreted:
        return BackwardTiles(dkdv=Tiles(64, 64, 4, 2), dq=Tiles(64, 64, 4, 2))
    dims = (head_dim, value_dim or head_dim)
    if cores == "hopper" and any(dim & (dim - 1) for dim in dims):
        cores = "ampere"
    table = _TABLES[cores]
    if cores == "ampere" and next_power_of_2(dims[0]) != next_power_of_2(dims[1]):
        table = _AMPERE_UNEVEN
    if element_size == 4:
        table = _TURING_FP32 if cores == "turing" else _FP32
    fits = [tiles for largest, tiles in table.items() if max(dims) <= largest]
    if not fits:
        raise ValueError(f"backward: head dims above {max(table)} need an sm_80 or AMD; got {dims}")
    return fits[0]
