"""Answers to exercise 2.1, right and wrong: what the check compares against."""

from collections.abc import Callable

import torch
from torch import Tensor


def by_index(k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """All cells at once, each by its index: correct, but written differently from the solution."""
    B, Ln = k.shape[:2]
    places = lengths[:, None] + torch.arange(Ln)  # (B, Ln)
    if places.numel() and int(places.max()) >= k_cache.shape[1]:
        raise ValueError("no room")
    rows = torch.arange(B)[:, None].expand(B, Ln)
    k_cache[rows, places] = k
    v_cache[rows, places] = v
    return lengths + Ln


def joined(k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """Wrong: the given caches stay as they are, and there is always room."""
    k_cache, v_cache = torch.cat([k_cache, k], 1), torch.cat([v_cache, v], 1)
    return lengths + k.shape[1]


STARTS = {
    "one place too far": lambda lengths: lengths + 1,
    "one length for all": lambda lengths: lengths[:1].expand(len(lengths)),
}


def wrong(name: str) -> Callable:
    """Return an append with one fault in it."""
    if name == "new tensors, no question of room":
        return joined

    def append(k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
        came = Ln = k.shape[1]
        capacity = k_cache.shape[1]
        asked = name not in ("a full row is not noticed", "half is written")
        strict = name == "the last cell refused"
        if asked and int(lengths.max()) + (1 if name == "room for one" else Ln) > capacity - strict:
            raise ValueError("no room")
        if name == "new tensors":
            k_cache, v_cache = k_cache.clone(), v_cache.clone()
        if name == "only the first token":
            k, v, Ln = k[:, :1], v[:, :1], 1
        starts = STARTS.get(name, torch.clone)(lengths)
        for b, start in enumerate(starts.tolist()):
            if name == "half is written" and start + Ln > capacity:
                raise ValueError("no room")
            k_cache[b, start : start + Ln] = k[b]
            v_cache[b, start : start + Ln] = v[b]
        if name == "lengths changed":
            lengths += Ln
            return lengths
        return lengths + came

    return append
