"""What rounding does to attention over a long cache, measured beside a bound that is derived.

rounding    a running sum in 16 bits and where it stalls; an lse in 16 bits and what a merge makes
            of it; the error of S splits, and its bound
long_row    a million keys, a chunk at a time
museum      bugs of public kernels, each with an input that it fails on and a mended version
"""

from reference.precision.long_row import LongRow, chunks, decode_long
from reference.precision.museum import MUSEUM, Piece
from reference.precision.rounding import (
    decode_key_by_key,
    half_ulp,
    lse_factor,
    merge_bound,
    merge_with_lse_in,
    running_sum,
    split_bound,
    stalls_at,
    unit_roundoff,
)

__all__ = [
    "MUSEUM",
    "LongRow",
    "Piece",
    "chunks",
    "decode_key_by_key",
    "decode_long",
    "half_ulp",
    "lse_factor",
    "merge_bound",
    "merge_with_lse_in",
    "running_sum",
    "split_bound",
    "stalls_at",
    "unit_roundoff",
]
