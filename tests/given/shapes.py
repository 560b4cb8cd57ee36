"""Named shapes, each with the reason it is in the grid."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DecodeShape:
    """One call of flash_decode; `lengths` None means a full cache and no cache_seqlens."""

    name: str
    reason: str
    B: int = 1
    Lq: int = 1
    Hq: int = 4
    Hkv: int = 2
    Lk: int = 100
    D: int = 64
    lengths: tuple[int, ...] | None = None
    num_splits: int | None = 3

    def __str__(self) -> str:
        return self.name


DECODE_SHAPES = (
    DecodeShape("Lk=1", "the softmax of one score is 1", Lk=1, num_splits=1),
    DecodeShape("Lk<S", "most splits are empty", Lk=3, num_splits=8),
    DecodeShape("Lk=0", "a cache without room: nothing may be loaded", Lk=0, num_splits=2),
    DecodeShape("Lk=64", "exactly one block: no tail", Lk=64),
    DecodeShape("Lk=65", "one key in the tail block", Lk=65, num_splits=2),
    DecodeShape("odd-tail", "a prime length", Lk=149),
    DecodeShape("one-split", "stage 1 writes the answer, in the dtype of q", Lk=149, num_splits=1),
    DecodeShape("chosen-splits", "the heuristic decides", Lk=300, num_splits=None),
    DecodeShape(
        "ragged", "empty, one key, block edge, full", B=5, Lk=130, lengths=(0, 1, 64, 65, 130)
    ),
    DecodeShape("all-empty", "no key anywhere", B=2, lengths=(0, 0)),
    DecodeShape("MHA", "one row per tile: sums, no dot", Hq=2, Hkv=2, Lk=149),
    DecodeShape("MQA", "one KV head for all", Hq=5, Hkv=1),
    DecodeShape("G=3", "a group that is not a power of two", Hq=6, Hkv=2),
    DecodeShape("G=17", "a group larger than the smallest tile", Hq=17, Hkv=1),
    DecodeShape("Lq=2,MHA", "packed rows of one head", Lq=2, Hq=2, Hkv=2),
    DecodeShape("Lq=5", "the diagonal cuts the last block", B=2, Lq=5, Lk=130, lengths=(130, 67)),
    DecodeShape("Lq=7,G=5", "35 rows in a tile of 64", Lq=7, Hq=5, Hkv=1, Lk=70),
    DecodeShape("Lq=9,G=8", "72 rows: two tiles", Lq=9, Hq=8, Hkv=1, Lk=70, num_splits=2),
    DecodeShape("Lq=70", "the diagonal runs through two blocks", Lq=70, Hq=1, Hkv=1, Lk=149),
    DecodeShape("Lq>length", "some queries see nothing", B=3, Lq=6, lengths=(2, 0, 6)),
)
HEAD_DIMS = (1, 16, 33, 40, 64, 80, 96, 128, 192, 256)  # powers of two, padded ones, odd ones
SPLITS = (1, 2, 3, 4, 5, 7, 8, 16, 17, 32, 33)  # around powers of two, and more than the blocks
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def decode_inputs(
    shape: DecodeShape, dtype: torch.dtype, device: str, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """q, k_cache, v_cache, cache_seqlens; everything past a row's length is NaN."""
    rng = torch.Generator().manual_seed(seed)
    q = torch.randn(shape.B, shape.Lq, shape.Hq, shape.D, generator=rng)
    k, v = torch.randn(2, shape.B, shape.Lk, shape.Hkv, shape.D, generator=rng)
    lengths = None
    if shape.lengths is not None:
        for b, length in enumerate(shape.lengths):
            k[b, length:] = v[b, length:] = math.nan
        lengths = torch.tensor(shape.lengths, dtype=torch.int32, device=device)
    return q.to(device, dtype), k.to(device, dtype), v.to(device, dtype), lengths
