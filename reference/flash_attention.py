"""FlashAttention-1 and -2 forward as tile loops: attention without the Lq × Lk matrix.

Both walk over tiles of `block_m` queries × `block_n` keys and keep only the online-softmax
state. They differ in which loop is the outer one:

    FA-1   for each key tile:   for each query tile: load o, m, l; update; store o, m, l
    FA-2   for each query tile: for each key tile:   update (o, m, l stay in fast memory)

FA-2 writes each output once, normalises once at the end and saves only lse. The steps of its outer
loop are independent: one query tile, one worker.

Source: Dao et al. 2022, "FlashAttention", algorithm 1; Dao 2023, "FlashAttention-2", algorithm 1.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reference.arguments import check_qkv
from reference.online_softmax import State, finalize, init, rescale, update
from reference.traffic import Traffic


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that sums are kept in: fp32, or fp64 for fp64 inputs (which gradcheck needs)."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_tiles(block_m: int, block_n: int) -> None:
    """Raise ValueError unless both tile sizes are at least 1."""
    if block_m < 1 or block_n < 1:
        raise ValueError(f"block_m and block_n must be at least 1; got {block_m} and {block_n}")


def tile_range(
    i: int, block_m: int, block_n: int, Lq: int, Lk: int, causal: bool
) -> tuple[int, int]:
    """Key tiles that query tile i must visit: `(full, stop)`.

    Tiles 0…full−1 are fully visible to every query of the tile and need no mask; tiles
    full…stop−1 need one; tiles from stop on are invisible or don't exist. The mask is bottom-right
    aligned; i < ⌈Lq / block_m⌉. With stop = 0, no query of the tile sees any key.

    >>> tile_range(0, 2, 2, 6, 6, True), tile_range(2, 2, 2, 6, 6, True)
    ((0, 1), (2, 3))

    With 6 tokens in tiles of 2, the first query tile sees one (masked) tile of keys; the last
    sees all three, two of them in full.
    """
    tiles = math.ceil(Lk / block_n)
    if not causal:
        return tiles, tiles
    first = i * block_m + Lk - Lq  # position of the tile's first query among the keys
    last = min((i + 1) * block_m, Lq) - 1 + Lk - Lq
    stop = max(math.ceil((last + 1) / block_n), 0)
    if first + 1 >= Lk:  # even the first query sees every key: a short last tile needs no mask
        return stop, stop
    return max(first + 1, 0) // block_n, stop


def tile_mask(
    i: int, j: int, block: tuple[int, int], Lq: int, Lk: int, device: torch.device | None = None
) -> Tensor:
    """Tile (i, j) of `causal_mask(Lq, Lk)`, made without the rest of it; True: may see.

    block: (block_m, block_n). Returns bool (m, n), smaller than a block at the edges.

    >>> tile_mask(0, 1, (2, 2), 4, 6).int()
    tensor([[1, 0],
            [1, 1]], dtype=torch.int32)

    Queries 0 and 1 are at positions 2 and 3; of keys 2 and 3, the first sees only key 2.
    """
    rows = torch.arange(i * block[0], min((i + 1) * block[0], Lq), device=device)
    cols = torch.arange(j * block[1], min((j + 1) * block[1], Lk), device=device)
    return cols[None, :] <= rows[:, None] + (Lk - Lq)


def tile_scores(
    q: Tensor, k: Tensor, i: int, j: int, Lq: int, Lk: int, block: tuple[int, int], causal: bool
) -> Tensor:
    """Scores of query tile i `(m, D)`, already scaled, against key tile j `(n, D)`; −inf masked."""
    scores = q @ k.T  # (m, n)
    if not causal:
        return scores
    return scores.masked_fill(~tile_mask(i, j, block, Lq, Lk, q.device), -math.inf)


def fa2_head(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, bm: int, bn: int, traffic: Traffic
) -> tuple[Tensor, Tensor]:
    """One head of FlashAttention-2. q: (Lq, D); k: (Lk, D); v: (Lk, Dv). Returns o, lse."""
    Lq, Lk, wide = q.shape[0], k.shape[0], compute_dtype(q)
    o = torch.empty(Lq, v.shape[1], dtype=q.dtype, device=q.device)
    lse = torch.empty(Lq, dtype=wide, device=q.device)
    for i in range(math.ceil(Lq / bm)):  # independent: one tile of queries, one worker
        rows = slice(i * bm, (i + 1) * bm)
        q_i = scale * traffic.load("q", q[rows]).to(wide)  # (bm, D)
        state = init(q_i.shape[0], v.shape[1], dtype=wide, device=q.device)
        full, stop = tile_range(i, bm, bn, Lq, Lk, causal)
        for j in range(stop):
            cols = slice(j * bn, (j + 1) * bn)
            k_j, v_j = traffic.load("k", k[cols]).to(wide), traffic.load("v", v[cols]).to(wide)
            scores = tile_scores(q_i, k_j, i, j, Lq, Lk, (bm, bn), causal and j >= full)
            state = update(state, scores, v_j)
        o_i, lse[rows] = finalize(state)  # the only division
        o[rows] = o_i.to(q.dtype)
        traffic.store("o", o[rows]), traffic.store("lse", lse[rows])
    return o, lse


def fa1_head(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, bm: int, bn: int, traffic: Traffic
) -> tuple[Tensor, Tensor]:
    """One head of FlashAttention-1: keys outermost, so o, m, l move for every tile. As fa2_head."""
    Lq, Lk, wide = q.shape[0], k.shape[0], compute_dtype(q)
    m = torch.full((Lq,), -math.inf, dtype=wide, device=q.device)
    l = torch.zeros(Lq, dtype=wide, device=q.device)
    o = torch.zeros(Lq, v.shape[1], dtype=wide, device=q.device)
    for j in range(math.ceil(Lk / bn)):
        cols = slice(j * bn, (j + 1) * bn)
        k_j, v_j = traffic.load("k", k[cols]).to(wide), traffic.load("v", v[cols]).to(wide)
        for i in range(math.ceil(Lq / bm)):
            full, stop = tile_range(i, bm, bn, Lq, Lk, causal)
            if j >= stop:
                continue  # no query of this tile sees any key of that one
            rows = slice(i * bm, (i + 1) * bm)
            q_i = scale * traffic.load("q", q[rows]).to(wide)
            m_i, l_i = traffic.load("m", m[rows]), traffic.load("l", l[rows])
            o_i = traffic.load("o", o[rows])
            scores = tile_scores(q_i, k_j, i, j, Lq, Lk, (bm, bn), causal and j >= full)
            m_new = torch.maximum(m_i, scores.amax(-1))
            correction, p = rescale(m_i, m_new), rescale(scores, m_new[:, None])
            l_new = correction * l_i + p.sum(-1)
            safe_l = torch.where(l_new == 0, 1.0, l_new)[:, None]
            # FA-1 keeps o normalised: undo the old division, add, divide again
            o[rows] = ((correction * l_i)[:, None] * o_i + p @ v_j) / safe_l
            m[rows], l[rows] = m_new, l_new
            for name, x in (("o", o), ("m", m), ("l", l)):
                traffic.store(name, x[rows])
    return o.to(q.dtype), finalize(State(m, l, o))[1]


def over_heads(
    head: Callable[..., tuple[Tensor, Tensor]], q: Tensor, k: Tensor, v: Tensor, *args: object
) -> tuple[Tensor, Tensor]:
    """Run a one-head function for every batch row and query head h, which reads KV head h // G."""
    B, Lq, Hq, _ = q.shape
    G = Hq // k.shape[2]
    o = torch.empty(B, Lq, Hq, v.shape[3], dtype=q.dtype, device=q.device)
    lse = torch.empty(B, Lq, Hq, dtype=compute_dtype(q), device=q.device)
    for b in range(B):
        for h in range(Hq):
            kv = k[b, :, h // G], v[b, :, h // G]
            o[b, :, h], lse[b, :, h] = head(q[b, :, h], *kv, *args)
    return o, lse


def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
    block_m: int = 64,
    block_n: int = 64,
    traffic: Traffic | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """FlashAttention-2 forward, tile by tile. Equal to `attention` up to rounding.

    q: (B, Lq, Hq, D); k: (B, Lk, Hkv, D); v: (B, Lk, Hkv, Dv). causal: bottom-right. scale: default
    1/√D. block_m, block_n: tile sizes, ≥ 1. traffic: a `Traffic` that counts the tiles moved.
    Returns `o (B, Lq, Hq, Dv)` in the dtype of q and, with return_lse, `lse (B, Lq, Hq)` (natural
    log, fp32, fp64 for fp64 inputs). Raises ValueError or TypeError for shapes and dtypes that
    don't fit.

    Source: Dao 2023, "FlashAttention-2", algorithm 1.
    """
    return _forward(fa2_head, q, k, v, causal, scale, return_lse, block_m, block_n, traffic)


def flash_attention_1(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
    block_m: int = 64,
    block_n: int = 64,
    traffic: Traffic | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """FlashAttention-1 forward: the same arguments and result as `flash_attention`.

    Source: Dao et al. 2022, "FlashAttention", algorithm 1.
    """
    return _forward(fa1_head, q, k, v, causal, scale, return_lse, block_m, block_n, traffic)


def _forward(
    head: Callable[..., tuple[Tensor, Tensor]],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    scale: float | None,
    return_lse: bool,
    block_m: int,
    block_n: int,
    traffic: Traffic | None,
) -> Tensor | tuple[Tensor, Tensor]:
    check_qkv(q, k, v)
    check_tiles(block_m, block_n)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    traffic = Traffic() if traffic is None else traffic
    o, lse = over_heads(head, q, k, v, scale, causal, block_m, block_n, traffic)
    return (o, lse) if return_lse else o
