"""What the features of decoding mean: which keys a row has, who may see them, how they score.

A language model in production asks for more than softmax(q kᵀ) v. Each feature answers one of
four questions; the last column names the code that does so:

    where do the keys of row b lie?    cache_batch_idx, block_table, k_scale, v_scale  row_keys
    which of them may query i see?     causal, window, cache_leftpad           row_range, in_sight
    what does a visible key score?     softcap, alibi_slopes, mask         row_score
    what else takes part?              sinks (a score without a value)     the softmax's caller

*Place* j is a key's index in its row, from 0, wherever it is stored. Query i of Lq is at
*position* `length − Lq + i`: the new tokens are the last ones in the row. So everything below is
arithmetic on places and positions, and holds for any part of a row as well as for the whole.

Sources: window: Beltagy et al. 2020, "Longformer"; soft capping: Gemma Team 2024, "Gemma 2";
ALiBi: Press et al. 2021, "Train short, test long"; pages: Kwon et al. 2023, "PagedAttention";
sinks: Xiao et al. 2023, "Efficient streaming language models with attention sinks", and OpenAI
2025, "gpt-oss-120b & gpt-oss-20b model card" (learned, one per head); mask of the new tokens:
Miao et al. 2023, "SpecInfer" (tree attention).
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from reference.quantization import LARGEST, dequantize

Window = int | tuple[int | None, int | None] | None


@dataclass(frozen=True)
class Features:
    """The optional keywords of decoding; with all None, it is plain attention over a cache.

    cache_batch_idx: int (B,): row b of q reads row cache_batch_idx[b] of the caches.
    cache_leftpad: int (B,): places before it are padding, never read.
    block_table: int (B, max_pages): the caches are pages (num_pages, page_size, Hkv, D), and
        place j of row b is in page block_table[b, j // page_size], slot j % page_size. A page
        may have any size, from 1 on.
    window: a pair (left, right): how many places before and after its position a query sees,
        in addition to its own; None: no bound. An int w means (w, None).
    softcap: float c > 0: scores s become c · tanh(s / c), so they stay inside (−c, c).
    sinks: float (Hq,): one more score per head in the softmax's denominator, with no value.
    alibi_slopes: fp32 (Hq,) or (B, Hq): slope · |position − place| is subtracted from the score.
    mask: (Lq, Lq) or (B, Lq, Lq), new token against new token. bool: True may be seen; float:
        added to the score, −inf hides. It does not affect older keys; causal still applies.
    k_scale, v_scale: fp32, for int8 or fp8 caches: the key is k_cache · k_scale. The number of
        dimensions says what one scale serves: () or (1,) everything; (Hkv,) a head; (B, Hkv) a
        head of a row of q, wherever that row is stored; the caches' first three dimensions (rows
        or pages, places, Hkv) one token and head.
    """

    cache_batch_idx: Tensor | None = None
    cache_leftpad: Tensor | None = None
    block_table: Tensor | None = None
    window: Window = None
    softcap: float | None = None
    sinks: Tensor | None = None
    alibi_slopes: Tensor | None = None
    mask: Tensor | None = None
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None

    @property
    def none(self) -> bool:
        """True when every feature is off."""
        return all(getattr(self, field.name) is None for field in fields(self))


def window_sides(window: Window) -> tuple[int | None, int | None]:
    """`window` as (left, right): how many places before and after a position are in sight."""
    return window if isinstance(window, tuple) else (window, None)


def positions(length: int, Lq: int, device: torch.device | None = None) -> Tensor:
    """The places of the Lq new tokens in a row of `length` keys: the last ones, `(Lq,)`.

    >>> positions(10, 3)
    tensor([7, 8, 9])
    """
    return torch.arange(length - Lq, length, device=device)


def row_range(features: Features, b: int, length: int, Lq: int) -> tuple[int, int]:
    """Places `[start, stop)` outside which no query of row b sees anything.

    They begin where the padding ends or the window of the *first* query begins, whichever is later.
    Nothing before that need be read: a window bounds the work, however long the row.
    """
    start = 0 if features.cache_leftpad is None else int(features.cache_leftpad[b])
    left, _ = window_sides(features.window)
    if left is not None:
        start = max(start, length - Lq - left)
    return min(start, length), length


def row_cells(features: Features, cache: Tensor, b: int, start: int, stop: int) -> Tensor:
    """Places `[start, stop)` of row b of `cache (rows or pages, ..., Hkv[, D])`: `(n, Hkv[, D])`.

    Touches only these cells, and the entries of the block table that lead to them.
    """
    if features.block_table is None:
        row = b if features.cache_batch_idx is None else int(features.cache_batch_idx[b])
        return cache[row, start:stop]
    place = torch.arange(start, stop, device=cache.device)
    page = features.block_table[b, place // cache.shape[1]].long()
    return cache[page, place % cache.shape[1]]


def row_keys(
    features: Features,
    k_cache: Tensor,
    v_cache: Tensor,
    b: int,
    start: int,
    stop: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Keys and values at places `[start, stop)` of row b, as true values in `dtype`.

    k_cache, v_cache: rows or pages, as the features say, in q's dtype or quantised. Returns
    k (n, Hkv, D) and v (n, Hkv, Dv), n = stop − start.
    """
    found = []
    for cache, scale in ((k_cache, features.k_scale), (v_cache, features.v_scale)):
        cells = row_cells(features, cache, b, start, stop)
        if cache.dtype in LARGEST:
            if scale is not None and scale.ndim > 1:  # per row, or per token
                per_token = scale.ndim == 3
                scale = row_cells(features, scale, b, start, stop) if per_token else scale[b]
            cells = dequantize(cells, scale, dtype)
        found.append(cells.to(dtype))
    return found[0], found[1]


def in_sight(position: Tensor, place: Tensor, *, causal: bool, window: Window = None) -> Tensor:
    """Which places are in sight of which positions: (Lq,) and (n,) → bool (Lq, n).

    >>> in_sight(torch.tensor([3, 4]), torch.arange(5), causal=True, window=2).int()
    tensor([[0, 1, 1, 1, 0],
            [0, 0, 1, 1, 1]], dtype=torch.int32)

    A window of 2: the query's own place and the two before it.
    """
    left, right = window_sides(window)
    ahead = place[None, :] - position[:, None]  # > 0: the key is newer than the query
    visible = torch.ones_like(ahead, dtype=torch.bool)
    if causal:
        visible &= ahead <= 0
    if left is not None:
        visible &= ahead >= -left
    if right is not None:
        visible &= ahead <= right
    return visible


def mask_bias(mask: Tensor, place: Tensor, length: int) -> Tensor:
    """The new tokens' mask (Lq, Lq), as numbers to add to the scores at `place (n,)`: (Lq, n).

    0 for older keys, which the mask does not cover; −inf hides.

    >>> mask_bias(torch.tensor([[True, False], [False, True]]), torch.arange(4), length=4)
    tensor([[0., 0., 0., -inf],
            [0., 0., -inf, 0.]])
    """
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -torch.inf)
    column = place - (length - mask.shape[0])  # new token c is at place length − Lq + c
    bias = mask.new_zeros(mask.shape[0], len(place))
    bias[:, column >= 0] = mask[:, column[column >= 0]]
    return bias


def score(
    scores: Tensor,
    position: Tensor,
    place: Tensor,
    *,
    causal: bool,
    window: Window = None,
    softcap: float | None = None,
    slopes: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """The scores that go into the softmax, from the scaled products `q · k`.

    scores: (Lq, Hq, n), already times scale; position: int (Lq,), where the queries are;
    place: int (n,), where the keys are; slopes: (Hq,) or (Lq, Hq), ALiBi; bias: (Lq, n), added.
    Returns (Lq, Hq, n) in the dtype of scores, −inf where a query must not see. Computed in fp32
    (fp64 for fp64) and rounded once. The order matters: softcap, ALiBi, bias.
    """
    s = scores if scores.dtype == torch.float64 else scores.float()
    if softcap is not None:
        s = softcap * torch.tanh(s / softcap)
    if slopes is not None:
        distance = (position[:, None] - place[None, :]).abs()  # (Lq, n)
        s = s - slopes.to(s.dtype)[..., None] * distance[:, None, :]
    if bias is not None:
        s = s + bias[:, None, :]
    visible = in_sight(position, place, causal=causal, window=window)
    return s.masked_fill(~visible[:, None, :], -torch.inf).to(scores.dtype)


def row_score(
    features: Features, scores: Tensor, b: int, place: Tensor, length: int, *, causal: bool
) -> Tensor:
    """`score` with the features of row b, whose last key is at place length − 1."""
    slopes, mask = features.alibi_slopes, features.mask
    if slopes is not None and slopes.ndim == 2:
        slopes = slopes[b]
    if mask is not None and mask.ndim == 3:
        mask = mask[b]
    return score(
        scores,
        positions(length, scores.shape[0], place.device),
        place,
        causal=causal,
        window=features.window,
        softcap=features.softcap,
        slopes=slopes,
        bias=None if mask is None else mask_bias(mask, place, length),
    )
