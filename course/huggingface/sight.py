"""What each query sees, read from the mask that transformers hands to an attention function.

A mask has a row of bools for each query: True where it may see a key. In every language model that
decodes, the True ones of a row lie side by side, so two numbers say the same as the row:

    left-padded prompt, 3 new tokens       start  stop       a static cache, with room for 6 keys
    ░ ░ ■ ■ ■ ·  ·                             2     5       ■ ■ ■ · · ·     0     3
    ░ ░ ■ ■ ■ ■  ·                             2     6       ■ ■ ■ ■ · ·     0     4
    ░ ░ ■ ■ ■ ■  ■                             2     7

And these numbers are mostly what `flash_decode` calls `cache_leftpad`, `window` and
`cache_seqlens`. `read_mask` finds them, and rebuilds the mask from them to be sure. Nothing is
assumed about how the mask was made, by which cache, or for which model: what the mask shows is
what is computed. If its numbers follow no rule of `flash_decode` (right padding, chunked
attention), each query becomes a row of the batch of its own, which may be any interval. If a row is
no interval at all, the mask is refused.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Sight(NamedTuple):
    """What the queries of a call see, as arguments of `flash_decode`."""

    lengths: Tensor  # int32 (B,): keys of each row; (B · Lq,) with rows
    leftpad: Tensor | None = None  # int32, the same shape: how many of its first keys are hidden
    window: int | None = None  # how many keys a query sees before its own position
    causal: bool = False  # bottom-right aligned to the lengths
    rows: Tensor | None = None  # int32 (B · Lq,): the cache row of each query, if queries are rows
    plain: int | None = None  # every row sees its first `plain` keys, whatever else is None


def without_mask(q: Tensor, k: Tensor, causal: bool) -> Sight:
    """What transformers means by no mask at all: all keys, or causal from the first key on.

    q: (B, Lq, Hq, D); k: (B, Lk, Hkv, D). causal: only counts for more than one query, which then
    see the first Lq keys at most. In an empty static cache, the others are not filled yet.

    Source: `sdpa_attention_forward` in transformers/integrations/sdpa_attention.py, version 5.24.
    """
    B, Lq = q.shape[:2]
    triangle = causal and Lq > 1
    visible = Lq if triangle else k.shape[1]
    if visible > k.shape[1]:
        raise ValueError(
            f"without a mask, causal attention must have at least as many keys as queries; got "
            f"{Lq} queries and {k.shape[1]} keys"
        )
    lengths = torch.full((B,), visible, dtype=torch.int32, device=q.device)
    return Sight(lengths, causal=triangle, plain=visible)


def read_mask(mask: Tensor, B: int, Lq: int, Lk: int) -> Sight:
    """What a mask shows. Remembered with the mask: all layers of a step share one.

    mask: (B or 1, heads, Lq, Lk), bool, True may be seen; or floating point, 0 may be seen, -inf or
    the lowest number of its dtype may not. A query that sees no key gets 0 as its answer.

    Raises ValueError for another shape, for heads that see different keys, for other numbers, and
    for a query whose keys do not lie side by side; TypeError for other dtypes. On a GPU the host
    waits for the mask, once per step.
    """
    known = getattr(mask, "_sight", None)
    if known is not None and known[:2] == (mask._version, (B, Lq, Lk)):
        return known[2]
    start, stop = intervals(visible_keys(mask, B, Lq, Lk))
    found = from_intervals(start, stop, Lk)
    if not mask.is_inference():  # such a tensor does not count its changes
        mask._sight = (mask._version, (B, Lq, Lk), found)
    return found


def visible_keys(mask: Tensor, B: int, Lq: int, Lk: int) -> Tensor:
    """The mask as bools (B, Lq, Lk), one for all heads. Raises as `read_mask`."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"attention_mask must be a tensor; got {type(mask).__name__}")
    fits = mask.ndim == 4 and mask.shape[0] in (1, B) and tuple(mask.shape[2:]) == (Lq, Lk)
    if not fits:
        raise ValueError(
            f"attention_mask must be (B, heads, Lq, Lk) = ({B}, 1, {Lq}, {Lk}); got "
            f"{tuple(mask.shape)}"
        )
    if mask.shape[1] > 1 and not torch.equal(mask, mask[:, :1].expand_as(mask)):
        raise ValueError("attention_mask must be the same for all heads; got one that is not")
    mask = mask[:, 0].expand(B, Lq, Lk)
    if mask.dtype == torch.bool:
        return mask
    if not mask.is_floating_point():
        raise TypeError(f"attention_mask must be bool or floating point; got {mask.dtype}")
    visible, hidden = mask == 0, mask <= torch.finfo(mask.dtype).min
    if not bool((visible | hidden).all()):
        raise ValueError(
            "attention_mask must hide keys, by False or -inf, not change their scores; got numbers "
            "that are neither 0 nor -inf (a position bias?)"
        )
    return visible


def intervals(visible: Tensor) -> tuple[Tensor, Tensor]:
    """First key and end of what each query sees: two int64 (B, Lq), both 0 if it sees none.

    visible: bool (B, Lq, Lk). Raises ValueError if a query's keys do not lie side by side.

    >>> start, stop = intervals(torch.tensor([[[0, 1, 1, 0], [0, 0, 0, 0]]]).bool())
    >>> start.tolist(), stop.tolist()
    ([[1, 0]], [[3, 0]])
    """
    Lk, marks = visible.shape[2], visible.to(torch.uint8)
    if Lk == 0:
        return (torch.zeros(visible.shape[:2], dtype=torch.int64, device=visible.device),) * 2
    seen = visible.any(2)
    start = torch.where(seen, marks.argmax(2), 0)
    stop = torch.where(seen, Lk - marks.flip(2).argmax(2), 0)
    gaps = visible.sum(2) != stop - start
    if bool(gaps.any()):
        b, i = gaps.nonzero()[0].tolist()
        raise ValueError(
            "attention_mask must show each query keys that lie side by side; got gaps between "
            f"those of query {i} in row {b} (padding in the middle of a row, packed sequences or "
            "sparse attention)"
        )
    return start, stop


def from_intervals(start: Tensor, stop: Tensor, Lk: int) -> Sight:
    """The fewest arguments of `flash_decode` that show each query [start, stop): int64 (B, Lq)."""
    if bool((start == start[:, :1]).all() & (stop == stop[:, :1]).all()):
        return _plainest(Sight(stop[:, 0].int(), start[:, 0].int()))
    found = _causal(start, stop, Lk)
    if found is not None:
        return _plainest(found)
    B, Lq = start.shape
    rows = torch.arange(B, dtype=torch.int32, device=start.device).repeat_interleave(Lq)
    return Sight(stop.flatten().int(), start.flatten().int(), rows=rows)


def _causal(start: Tensor, stop: Tensor, Lk: int) -> Sight | None:
    """Lengths, padding and a window that show exactly this, if there are any."""
    Lq = start.shape[1]
    seen, i = stop > start, torch.arange(Lq, device=start.device)
    some = seen.any(1)
    # Query i is at position n - Lq + i of a row of n keys, and sees it as its last.
    n = torch.where(seen, stop - i, -Lk - Lq).amax(1) + Lq - 1
    n = torch.where(some, n, 0)
    position = n[:, None] - Lq + i  # (B, Lq)
    leftpad = torch.where(some, torch.where(seen, start, Lk).amin(1), 0)
    left = int(torch.where(seen, position - start, 0).max())
    first, end = torch.maximum(leftpad[:, None], position - left), position + 1
    same = torch.where(seen, (start == first) & (stop == end), first >= end)
    if not bool(same.all() & (n <= Lk).all()):
        return None
    narrow = bool((seen & (start > leftpad[:, None])).any())
    return Sight(n.int(), leftpad.int(), window=left if narrow else None, causal=True)


def _plainest(sight: Sight) -> Sight:
    """The same without padding, if no row has any; `plain` if the rows are equal, too."""
    if bool(sight.leftpad.any()):
        return sight
    shortest, longest = (int(n) for n in sight.lengths.aminmax())
    equal = shortest == longest and sight.window is None
    return sight._replace(leftpad=None, plain=longest if equal else None)
