"""The cells of the decode benchmark, and what a row says about our peers."""

from collections.abc import Mapping
from typing import Any

HEADS = [(32, 8), (64, 8), (8, 1), (32, 32)]  # Hq, Hkv
BATCHES = [1, 8, 64]
LENGTHS = [512 << i for i in range(9)]  # 512 … 131,072
POST_HEADS = (16, 2)  # of the post that introduced Flash-Decoding; batch 1
D = 128
KV_BYTES_AT_MOST = 100 * 10**9  # no GPU today holds more, next to all else that is needed
OURS = ("flash_decoding", "fa2")

Shape = tuple[int, int, int, int]  # B, Hq, Hkv, Lk


def kv_bytes_of(B: int, Hkv: int, Lk: int) -> int:
    """Bytes of K and V in bf16.

    >>> kv_bytes_of(1, 8, 16384) == 64 * 2**20
    True
    """
    return 2 * B * Lk * Hkv * D * 2


def name_of(shape: Shape) -> str:
    """The name of a cell: batch, query heads and KV heads, length.

    >>> name_of((1, 64, 8, 4096))
    'B1 64/8 4096'
    """
    B, Hq, Hkv, Lk = shape
    return f"B{B} {Hq}/{Hkv} {Lk}"


def full_grid() -> list[Shape]:
    """All cells: first those that a target names individually, then the rest, smallest first."""
    post = [(1, *POST_HEADS, n) for n in reversed(LENGTHS)]
    named = [post[0], *((1, 64, 8, n) for n in (4096, 16384, 65536))]
    rest = [(b, *h, n) for b in BATCHES for h in HEADS for n in LENGTHS] + post
    rest = [s for s in rest if s not in named and kv_bytes_of(s[0], *s[2:]) <= KV_BYTES_AT_MOST]
    return named + sorted(rest, key=lambda s: kv_bytes_of(s[0], *s[2:]))


def best_peer(row: Mapping[str, Any]) -> tuple[str, float] | None:
    """The fastest contestant in a row that is not ours, and its milliseconds in a CUDA graph.

    >>> best_peer({"flash_decoding_ms": 1.0, "sdpa_ms": 3.0, "flex_ms": 2.0, "flex_eager_ms": 0.5})
    ('flex', 2.0)
    """
    times = {key.removesuffix("_ms"): ms for key, ms in row.items() if key.endswith("_ms")}
    theirs = {n: ms for n, ms in times.items() if n not in OURS and not n.endswith("_eager")}
    return min(theirs.items(), key=lambda item: item[1]) if theirs else None
