"""The engine's attention on the threads of a CPU: pages gathered into equal pieces, one call each.

PyTorch's CPU FlashAttention wants its keys at regular distances, and pages lie anywhere. A decode
step therefore copies the pages of all rows into pieces of equal size, and each piece poses as a
batch row of its own:

    rows of 5, 2 and 4 pages      0 0 0 0 0      1 1      2 2 2 2
    pieces of 2 pages             00  00  0·     11       22  22         · a page that is masked

    gather   (pieces, chunk, Hkv, D)     one copy of K and V each, no padding to the longest row
    attend   one call: pieces × Hkv equal tasks, however ragged the batch
    merge    a softmax over the lse of each row's pieces

Which pages go where is the same in all layers: that is the plan, made once per step. A prompt's
chunk attends in two calls without any mask: to what was there before (all queries see all of it),
and to itself (square and causal). Their results are merged by lse.

Source: the Flash-Decoding post (Dao et al. 2023); PyTorch's
`aten::_scaled_dot_product_flash_attention_for_cpu`, which returns lse beside o.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reference.serving.packed import Attention

CHUNK = 256
"""Keys per piece, at most: a task of a microsecond or more, and little padding."""


@dataclass(frozen=True, eq=False)
class PiecePlan:
    """Which pages make up which piece, for one decode step.

    pages: int64 (pieces · pages per piece,), in order; 0 where there is none. dead: int64, the
    gathered cells that hold no key of the row. mask: (pieces, 1, 1, chunk), 0 or −inf. row, piece:
    int64 (pieces,), whose it is, and which of that row's. B, most: rows, and pieces of the longest.
    """

    pages: Tensor
    dead: Tensor
    mask: Tensor
    row: Tensor
    piece: Tensor
    B: int
    most: int

    @property
    def chunk(self) -> int:
        """Keys per piece."""
        return self.mask.shape[3]


def plan_pieces(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    cache_seqlens: Tensor,
    *,
    block_table: Tensor,
    chunk: int = CHUNK,
) -> PiecePlan:
    """Cut every row into pieces of equal size, whole pages, at most `chunk` keys or one page.

    Arguments as in `decode_pieces`; of q, only dtype and device are read. Raises ValueError for a
    chunk below 1 or a row without keys.
    """
    lengths, size = cache_seqlens.tolist(), k_pages.shape[1]
    if chunk < 1 or min(lengths) < 1:
        raise ValueError(f"chunk and lengths must be at least 1; got {chunk} and {lengths}")
    per = max(1, min(chunk, max(lengths)) // size)
    pieces = [-(-length // (per * size)) for length in lengths]
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(pieces))
    piece = torch.cat([torch.arange(n) for n in pieces])
    table = torch.nn.functional.pad(block_table, (0, max(pieces) * per - block_table.shape[1]))
    pages = table.view(len(lengths), -1, per)[row, piece]  # (pieces, per)
    place = piece[:, None] * per * size + torch.arange(per * size)
    dead = place >= cache_seqlens[row, None]
    mask = torch.zeros(dead.shape, dtype=q.dtype).masked_fill_(dead, -math.inf)
    beyond = dead[:, ::size]  # pages that begin after the row's end: the table names none there
    return PiecePlan(
        pages=pages.masked_fill(beyond, 0).flatten().long(),
        dead=dead.flatten().nonzero().squeeze(1),
        mask=mask[:, None, None],
        row=row,
        piece=piece,
        B=len(lengths),
        most=max(pieces),
    )


def decode_pieces(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    cache_seqlens: Tensor,
    *,
    block_table: Tensor,
    plan: PiecePlan | None = None,
    causal: bool = True,
) -> Tensor:
    """`flash_decode` of one query per row over pages, by all of PyTorch's CPU threads.

    q: (B, 1, Hq, D). k_pages, v_pages: (num_pages, page_size, Hkv, D), all of q's dtype.
    cache_seqlens: int (B,), at least 1. block_table: int (B, max_pages). plan: by `plan_pieces`
    from the same arguments. causal: one query sees all keys either way. Returns o, shaped like q.
    Raises ValueError for several queries per row.
    """
    B, Lq, Hq, D = q.shape
    if Lq != 1:
        raise ValueError(f"q must have one query per row; got {tuple(q.shape)}")
    if plan is None:
        plan = plan_pieces(q, k_pages, v_pages, cache_seqlens, block_table=block_table)
    Hkv = k_pages.shape[2]
    k, v = (_gather(x, plan) for x in (k_pages, v_pages))
    rows = q.view(B, Hkv, Hq // Hkv, D) if q.is_contiguous() else q.reshape(B, Hkv, -1, D)
    o, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        rows[plan.row], k, v, 0.0, False, attn_mask=plan.mask.expand(-1, 1, rows.shape[2], -1)
    )
    return _merge(o, lse, plan).reshape(B, 1, Hq, D)


def _gather(pages: Tensor, plan: PiecePlan) -> Tensor:
    """The pieces, (pieces, Hkv, chunk, D): a copy, in which what is no key of the row is 0.

    The mask alone is not enough: 0 · NaN is NaN.
    """
    Hkv, D = pages.shape[2:]
    found = pages.index_select(0, plan.pages).view(-1, Hkv, D)
    if len(plan.dead):
        found.index_fill_(0, plan.dead, 0.0)
    return found.view(-1, plan.chunk, Hkv, D).transpose(1, 2)


def _merge(o: Tensor, lse: Tensor, plan: PiecePlan) -> Tensor:
    """o (pieces, Hkv, G, D) and lse (pieces, Hkv, G) → o (B, Hkv, G, D), as `merge_states`."""
    if plan.most == 1:
        return o
    shape = plan.B, plan.most
    of_row = lse.new_full((*shape, *lse.shape[1:]), -math.inf)
    of_row[plan.row, plan.piece] = lse
    weights = torch.softmax(of_row, 1)[plan.row, plan.piece]
    merged = o.new_zeros(plan.B, *o.shape[1:])
    return merged.index_add_(0, plan.row, o * weights[..., None].to(o.dtype))


def prefill_threads(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True) -> Tensor:
    """`flash_attention` of a prompt's newest tokens, by all of PyTorch's CPU threads.

    q: (B, Lq, Hq, D); k, v: (B, Lk, Hkv, D), Lk ≥ Lq; causal, bottom-right aligned. Returns o,
    shaped like q. Raises ValueError if causal is False or there are fewer keys than queries.
    """
    Lq, Lk = q.shape[1], k.shape[1]
    if not causal or Lk < Lq:
        raise ValueError(f"prefill must be causal with Lk ≥ Lq; got {causal}, {Lk} and {Lq}")
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, L, D)
    attend, before = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, Lk - Lq
    o, lse = attend(q, k[:, :, before:], v[:, :, before:], 0.0, True)
    if before:
        o_before, lse_before = attend(q, k[:, :, :before], v[:, :, :before], 0.0, False)
        share = torch.sigmoid(lse_before - lse)[..., None].to(o.dtype)  # both saw some key
        o = torch.lerp(o, o_before, share)
    return o.transpose(1, 2)


THREADS = Attention(prefill_threads, decode_pieces, plan_pieces)
"""For `Engine(attention=…)` on a CPU."""
