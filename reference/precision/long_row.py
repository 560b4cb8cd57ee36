"""A row too long to hold: its keys come a chunk at a time, and none of them are kept.

One million keys of D = 64 in fp32 take 256 MiB, and their values as much again. A chunk of 16,384
takes 8 MiB. Each chunk is a split: a worker's share, of which o and lse stay.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from reference.attention import safe_softmax
from reference.online_softmax import finalize, init, merge_states, update


class LongRow(NamedTuple):
    """What `decode_long` found. Each o is (rows, D), each lse (rows,), natural log.

    o, lse: the merged fp32 partials. one_pass, one_pass_lse: one fp32 state carried through all
    chunks. truth, truth_lse: fp64. splits: how many partials were merged; keys: how many were seen.
    """

    o: Tensor
    lse: Tensor
    one_pass: Tensor
    one_pass_lse: Tensor
    truth: Tensor
    truth_lse: Tensor
    splits: int
    keys: int


def chunks(keys: int, chunk: int, D: int, *, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Random k and v of a row of `keys`, fp32 (n, D) each, n = chunk but for the last.

    The same seed gives the same row, however often it is read; chunks are made when asked for.
    Raises ValueError for a number below 1.
    """
    if min(keys, chunk, D) < 1:
        raise ValueError(f"keys, chunk and D must be at least 1; got {keys}, {chunk} and {D}")
    rng = torch.Generator().manual_seed(seed)
    for start in range(0, keys, chunk):
        n = min(chunk, keys - start)
        yield torch.randn(n, D, generator=rng), torch.randn(n, D, generator=rng)


def decode_long(q: Tensor, row: Iterable[tuple[Tensor, Tensor]]) -> LongRow:
    """Attention of q over a row that is read once, in three ways at the same time.

    q: (rows, D), fp32: the query heads that share a KV head. row: pairs k (n, D), v (n, D), fp32,
    for example `chunks(...)`. Scores are scaled by 1/√D.
    Raises ValueError for a row without chunks. Memory: that of a chunk, and of o and lse per chunk.
    """
    partials, keys = [], 0
    narrow, wide = (init(*q.shape, dtype=dtype) for dtype in (torch.float32, torch.float64))
    for k, v in row:
        scores = q @ k.T * q.shape[1] ** -0.5
        p, lse = safe_softmax(scores)
        partials.append((p @ v, lse))
        narrow = update(narrow, scores, v)
        scores = q.double() @ k.double().T * q.shape[1] ** -0.5
        wide = update(wide, scores, v.double())
        keys += len(k)
    if not partials:
        raise ValueError("the row must have at least one chunk; got none")
    o, lse = (torch.stack(x) for x in zip(*partials, strict=True))
    return LongRow(
        *merge_states(o, lse), *finalize(narrow), *finalize(wide), splits=len(o), keys=keys
    )
