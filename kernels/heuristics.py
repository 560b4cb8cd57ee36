"""How many splits, and which tile sizes: plain Python on plain numbers, no GPU and no triton.

**Number of splits.** The one that costs least by the model in `kernels.split_rules`. Under what is
assumed about GPUs, it has lower regret than the rules of FlashAttention-2 and 3 given there too.

**Tile sizes.** A table, not a search: compiled for sm_80 and sm_90, every row keeps its state
in registers (no spills). It has not been tuned on a GPU.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from kernels.split_rules import MAX_SPLITS, SplitShape, cost_model


def choose_num_splits(
    *,
    batch: int,
    kv_heads: int,
    m_tiles: int,
    max_len: int,
    block_n: int,
    num_sms: int,
    max_splits: int = MAX_SPLITS,
    token_bytes: int = SplitShape.token_bytes,
    partial_bytes: int = SplitShape.partial_bytes,
) -> int:
    """Return the number of splits that costs least, by `kernels.split_rules.cost_model`.

    Args:
        batch, kv_heads, m_tiles: one split launches their product in programs.
        max_len: keys that a row can have (the capacity of the cache).
        block_n: keys per block; a split is made of whole blocks, so never more splits than blocks
            are chosen.
        num_sms: streaming multiprocessors of the GPU.
        max_splits: upper bound.
        token_bytes: bytes of K and V per token of one KV head. partial_bytes: bytes that a program
            of one split writes: o and lse of its query rows, fp32.

    Returns:
        From 1 to min(max_splits, blocks).

    Raises:
        ValueError: a number below 1 (max_len and batch may be 0).

    >>> choose_num_splits(
    ...     batch=1, kv_heads=8, m_tiles=1, max_len=65536, block_n=64, num_sms=132)
    32

    Unsplit, 8 programs leave 124 of 132 SMs idle; with 32 splits, 256 programs, 97 % of the slots
    are busy.
    """
    shape = split_shape(
        batch=batch,
        kv_heads=kv_heads,
        m_tiles=m_tiles,
        max_len=max_len,
        block_n=block_n,
        num_sms=num_sms,
        max_splits=max_splits,
        token_bytes=token_bytes,
        partial_bytes=partial_bytes,
    )
    return cost_model(shape)


def split_shape(
    *, batch: int, kv_heads: int, m_tiles: int, max_len: int, block_n: int, **rest: int
) -> SplitShape:
    """Return what a split rule sees of a call; arguments and errors as in `choose_num_splits`."""
    for name, number in {"kv_heads": kv_heads, "m_tiles": m_tiles, "block_n": block_n}.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1; got {number}")
    if max_len < 0 or batch < 0:
        raise ValueError(f"max_len and batch must not be negative; got {max_len} and {batch}")
    blocks = math.ceil(max_len / block_n)
    programs = batch * kv_heads * m_tiles
    return SplitShape(programs, blocks, m_tiles=m_tiles, block_n=block_n, **rest)


@dataclass(frozen=True)
class Launch:
    """Tile sizes and launch parameters of an attention kernel.

    block_m: query rows per tile (1: sums instead of a dot). block_n: keys per tile.
    block_d: columns of q and k, rounded up to a power of two. num_warps, num_stages: as in
    Triton. block_dv: columns of v and o, likewise. block_rest: columns of q and k after
    block_d, where D is too far above a power of two to be rounded up. pairs: whether eight-bit
    numbers may be unpacked two at a time, which takes PTX (or the interpreter). edge_stages: those
    of a loop over few blocks, where there is little to pipeline.
    """

    block_m: int
    block_n: int
    block_d: int
    num_warps: int
    num_stages: int
    block_dv: int | None = None
    block_rest: int | None = None
    pairs: bool = False
    edge_stages: int = 2

    def constexprs(self) -> dict[str, int | None]:
        """Return the parameters that a decode kernel is compiled for, in order."""
        names = ("block_m", "block_n", "block_d", "block_rest")
        blocks = {name.upper(): getattr(self, name) for name in names}
        blocks["BLOCK_DV"] = self.block_dv or self.block_d
        return blocks | {"NUM_STAGES": self.num_stages, "EDGE_STAGES": self.edge_stages}


def choose_decode_launch(
    *,
    rows: int,
    head_dim: int,
    element_size: int,
    tensor_cores: bool,
    value_dim: int | None = None,
    small: bool = False,
    paged: bool = False,
    interpreted: bool = False,
    max_len: int = 0,
) -> Launch:
    """Return tile sizes and launch parameters of the split kernel.

    Args:
        rows: query rows that share a KV head, G·Lq. They are padded to 16 (the least a tensor core
            takes), 32 or 64; more than 64 take several tiles (with many columns or little shared
            memory, a tile holds at most 32 or 16). Without tensor cores, a single row is a tile on
            its own.
        head_dim: D of q and k, from 1 to 576. Above 512 it is cut into 512 columns and the rest.
        element_size: bytes per element of K: 1 (quantised), 2 or 4.
        tensor_cores: as in `choose_prefill_launch`.
        value_dim: Dv, up to 512; head_dim if None.
        small: a program has at most 64 KiB of shared memory (AMD, sm_75).
        paged: keys lie in pages, each looked up before it is read.
        interpreted: use tiles of 64 keys, whatever the dtype, or of 1,024 if max_len, the keys that
            a row can have, is above 8,192: there are no registers to run out of, and a tile costs
            the interpreter about the same at any size.

    >>> launch = choose_decode_launch(rows=8, head_dim=80, element_size=2, tensor_cores=True)
    >>> launch.block_m, launch.block_n, launch.block_d
    (16, 64, 128)
    """
    rest = next_power_of_2(max(16, head_dim - 512)) if head_dim > 512 else None
    block_d = 512 if rest else max(16, next_power_of_2(head_dim))
    block_dv = max(16, next_power_of_2(value_dim or head_dim))
    wide = max(block_d, block_dv)
    most = 64 if wide <= 256 else 32  # rows whose acc fits in registers
    least = 16 if tensor_cores or rows > 1 else 1
    block_m = min(most // 2 if small else most, max(least, next_power_of_2(rows)))
    # 16 KiB of K per block and as much of V: two such pairs in flight fit twice into an A100's SM.
    block_n = max(16, min(128 // max(element_size, 2), 16384 // (wide * element_size)))
    pairs = element_size == 1 and block_m > 1 and (interpreted or (tensor_cores and not small))
    blocks = {"block_d": block_d, "block_dv": block_dv, "block_rest": rest, "pairs": pairs}
    blocks["edge_stages"] = 1 if small else 2  # AMD pipelines through registers
    if interpreted:
        block_n = 64 if max_len <= 8192 else 1024
        return Launch(block_m, block_n, num_warps=4, num_stages=3, **blocks)
    if wide > 256:
        block_n, warps, stages = (32, 8, 2) if tensor_cores else (16, 8, 1)
    elif block_m == 1:
        warps, stages = 4, 3
    elif not tensor_cores:
        block_m, block_n = 16, 16
        warps, stages = 4 if wide < 64 else 8, 2 if wide < 256 else 1
    else:
        warps, stages = (8, 2) if block_m == 64 else (4, 2 if small else 3)
    stages += element_size == 1 and stages > 1  # half the bytes per block: one more in flight
    if paged and block_m > 1 and not small:  # Triton spends half the stages on the look-up
        stages = 2 * stages - 1
    return Launch(block_m, block_n, num_warps=warps, num_stages=stages, **blocks)


class DecodeChoice(NamedTuple):
    """How a decode call runs: tile sizes and the number of splits.

    columns: those of K and V that are read per key. shape: what a split rule sees.
    """

    launch: Launch
    columns: int
    shape: SplitShape
    num_splits: int


@lru_cache  # a model asks the same at every layer and step, and a step takes microseconds
def choose_decode(
    *,
    batch: int,
    queries: int,
    heads: tuple[int, int],
    head_dim: int,
    value_dim: int,
    element_size: int,
    tensor_cores: bool,
    max_len: int,
    num_sms: int,
    num_splits: int | None = None,
    latent: bool = False,
    small: bool = False,
    paged: bool = False,
    interpreted: bool = False,
    capacity: int = 0,
) -> DecodeChoice:
    """Return what `kernels.flash_decoding` launches, and `kernels.explain` explains.

    Args:
        batch, queries: B and Lq. heads: (Hq, Hkv). head_dim, value_dim: D and Dv.
        element_size: bytes per element of K.
        max_len: keys that a row can see; num_sms: SMs to fill, as in `choose_num_splits`, which
            chooses the number of splits if num_splits is None.
        latent: the values are the first columns of the keys (MLA), and are not read again if they
            fill as many columns of a block.
        tensor_cores, small, paged, interpreted: as in `choose_decode_launch`. capacity: its
            max_len.
    """
    rows = queries * heads[0] // heads[1]
    launch = choose_decode_launch(
        rows=rows,
        head_dim=head_dim,
        value_dim=value_dim,
        element_size=element_size,
        tensor_cores=tensor_cores,
        small=small,
        paged=paged,
        interpreted=interpreted,
        max_len=capacity,
    )
    shared = latent and launch.block_dv == launch.block_d
    columns = head_dim if shared else head_dim + value_dim
    m_tiles, filled = max(1, math.ceil(rows / launch.block_m)), min(rows, launch.block_m)
    asked = {"batch": batch, "kv_heads": heads[1], "max_len": max_len, "num_sms": num_sms}
    tile = {"m_tiles": m_tiles, "block_n": launch.block_n, "token_bytes": columns * element_size}
    asked = {**asked, **tile, "partial_bytes": 4 * filled * (value_dim + 1)}
    shape = split_shape(**asked)
    return DecodeChoice(launch, columns, shape, num_splits or cost_model(shape))


_PREFILL = {  # the larger of D and Dv up to → block_m, block_n, num_warps, num_stages
    64: (128, 64, 8, 3),
    128: (128, 64, 8, 3),
    256: (64, 32, 8, 2),
}
_PREFILL_NARROW_VALUES = (128, 32, 8, 2)  # D above 128, Dv not: acc has the registers of D = 128
_PREFILL_NO_TENSOR_CORES = {64: (64, 32, 8, 2), 128: (32, 16, 8, 2), 256: (16, 16, 8, 2)}


def choose_prefill_launch(
    *,
    num_queries: int,
    head_dim: int,
    tensor_cores: bool,
    value_dim: int | None = None,
    small: bool = False,
    interpreted: bool = False,
) -> Launch:
    """Return tile sizes and launch parameters of the FlashAttention-2 kernel.

    Args:
        num_queries: Lq. Up to 16 take a tile of 16 rows, the fewest that a dot multiplies.
        head_dim: D, from 1 to 256. value_dim: Dv, likewise; head_dim if None.
        tensor_cores: False for fp32 (which is not cut to TF32) and for GPUs older than sm_80, whose
            tensor cores Triton does not use: every thread then holds operands in registers, and
            the tiles are smaller.
        small: as in `choose_decode_launch`.
        interpreted: use tiles of 64 x 64, as in `choose_decode_launch`.

    With tensor cores a program stays below the 99 KiB of shared memory that consumer GPUs (sm_86,
    sm_89) give it; without them, below the 64 KiB of a T4 (sm_75).

    >>> launch = choose_prefill_launch(num_queries=4096, head_dim=80, tensor_cores=True)
    >>> launch.block_m, launch.block_n, launch.block_d
    (128, 64, 128)
    """
    table = _PREFILL if tensor_cores else _PREFILL_NO_TENSOR_CORES
    columns = value_dim or head_dim
    wide = max(head_dim, columns)
    row = next(row for largest, row in table.items() if wide <= largest)
    if tensor_cores and head_dim > 128 >= columns:
        row = _PREFILL_NARROW_VALUES
    block_m, block_n, num_warps, num_stages = (64, 64, 4, 3) if interpreted else row
    if small and tensor_cores and wide > 64:
        num_stages = 1  # no second tile of K and V beside the current one
    if num_queries <= 16:
        block_m, num_warps = 16, 4 if tensor_cores else num_warps
    block_d = max(16, next_power_of_2(head_dim))
    block_dv = value_dim and max(16, next_power_of_2(value_dim))
    return Launch(block_m, block_n, block_d, num_warps, num_stages, block_dv)


def next_power_of_2(n: int) -> int:
    """Return the smallest power of two that is at least n (n ≥ 1)."""
    return 1 << (n - 1).bit_length()
