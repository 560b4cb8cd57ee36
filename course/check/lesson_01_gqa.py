"""Exercise 1.3: grouped-query attention that repeats neither K nor V."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from course.check import lesson_01_gqa_answers as answers
from course.check.compare import complain
from course.check.spec import Exercise, Mistake, Property, Seen

D = 16
# fp32, values up to about 4: a score is a sum of D products, an output one of at most 12 weights,
# and either may be off by eps times its number of terms. Twice that, for softmax and scale.
TOLERANCE = 2 * 4 * (D + 12) * torch.finfo(torch.float32).eps


def _one_by_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What is wanted, head by head in fp64 and rounded at the end."""
    G, heads = q.shape[2] // k.shape[2], []
    for h in range(q.shape[2]):
        one_q, one_k, one_v = q[:, :, h].double(), k[:, :, h // G].double(), v[:, :, h // G]
        p = torch.softmax(one_q @ one_k.transpose(1, 2) / math.sqrt(q.shape[3]), -1)
        heads.append(p @ one_v.double())
    return torch.stack(heads, 2).float()


def _qkv(rng: Generator, Lq: int, Hq: int, Hkv: int, Lk: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.randn(2, Lq, Hq, D, generator=rng)
    k = torch.randn(2, Lk, Hkv, D, generator=rng)
    return q, k, torch.randn(2, Lk, Hkv, D, generator=rng)


def _seen(answer: Callable, q: Tensor, k: Tensor, v: Tensor, where: str = "") -> Seen:
    given = f"q {tuple(q.shape)}, k and v {tuple(k.shape)}{where}"
    wanted = _one_by_one(q, k, v)
    return Seen.of(answer, (q, k, v), wanted=wanted, given=given, atol=TOLERANCE, rtol=0)


def _no_sharing(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, *_qkv(rng, Lq=1, Hq=4, Hkv=4))


def _one_for_all(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, *_qkv(rng, Lq=1, Hq=4, Hkv=1))


def _groups(answer: Callable, rng: Generator) -> list[Seen]:
    return [_seen(answer, *_qkv(rng, 1, Hq, Hkv)) for Hq, Hkv in ((8, 2), (6, 2), (12, 4))]


def _several_queries(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, *_qkv(rng, Lq=3, Hq=8, Hkv=2))


def _part_of_a_cache(answer: Callable, rng: Generator) -> Seen:
    q, k, v = _qkv(rng, Lq=2, Hq=8, Hkv=2, Lk=12)
    k[:, 7:], v[:, 7:] = math.nan, math.nan
    return _seen(answer, q, k[:, :7], v[:, :7], ", the first 7 of 12 rows; the others are NaN")


class _Largest(TorchDispatchMode):
    """Record the size of the largest tensor that any operation creates."""

    def __init__(self, seen: SimpleNamespace) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for t in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(t, Tensor):
                size = t.untyped_storage().nbytes() // t.element_size()
                self.seen.size = max(self.seen.size, size)
        return made


@contextmanager
def _largest_made() -> Iterator[SimpleNamespace]:
    seen = SimpleNamespace(size=0)
    with _Largest(seen):
        yield seen


def _nothing_repeated(answer: Callable, rng: Generator) -> Seen:
    q = torch.randn(1, 1, 16, 32, generator=rng)
    k, v = torch.randn(2, 1, 24, 2, 32, generator=rng).unbind(0)
    k, v = k.clone(), v.clone()  # each with its own storage
    with _largest_made() as largest:
        o = answer(q, k, v)
    right = Seen(o, _one_by_one(q, k, v), "G = 8", atol=TOLERANCE, rtol=0)
    if complain(right):  # how it was computed matters only once it is right
        return right
    given = f"k and v of {k.numel()} numbers each, G = 8; the largest tensor on the way has "
    # k may be copied to a new layout once, never G times; scores and q are smaller than k here
    came = "copies" if largest.size > 2 * k.numel() else "no copies"
    return Seen(came, "no copies", f"{given}{largest.size}")


GROUPED_ATTENTION = Exercise(
    id="1.3",
    name="grouped attention",
    title="Grouped-query attention without a copy",
    section="5 · Heads, and how they share",
    solution_name="grouped_attention",
    properties=(
        Property("no sharing", "Hkv = Hq, every head has its own keys", _no_sharing),
        Property("one for all", "Hkv = 1, all heads share", _one_for_all),
        Property("groups", "G = 4 and G = 3: head h reads KV head h // G", _groups),
        Property("several queries", "Lq = 3", _several_queries),
        Property("part of a cache", "k and v are slices of something longer", _part_of_a_cache),
        Property("nothing repeated", "no tensor G times the size of k is made", _nothing_repeated),
    ),
    mistakes=(
        Mistake(
            "dealt like cards",
            "Query head h is paired with KV head **h % Hkv**. Heads that share are neighbours: "
            "the first G query heads read KV head 0, the next G read KV head 1.",
            answers.dealt_like_cards,
        ),
        Mistake(
            "split in another order",
            "The heads of q are split as **(G, Hkv)**, but neighbours share a KV head: the index "
            "within the group varies fastest, so the split is (Hkv, G).",
            answers.split_otherwise,
        ),
        Mistake(
            "joined in another order",
            "Each head is computed correctly, but at the end **G and Hkv are joined in the other "
            "order**, so the heads come out shuffled: join (Hkv, G), as they were split.",
            answers.joined_otherwise,
        ),
        Mistake(
            "k and v repeated",
            "The numbers are right, but k or v was **copied for every query head** on the way. "
            "That throws away the saving of GQA: give q the extra dimension instead.",
            answers.repeated,
        ),
        Mistake(
            "not scaled",
            "This is what you get **without the scale**: multiply the scores by 1/√D "
            "before the softmax.",
            answers.grouped_with(scale=0.0),
            see="1 · One query, four keys",
        ),
        Mistake(
            "scaled by 1/D",
            "The scores are divided by **D instead of √D**: the spread of a dot product grows "
            "with the square root of its length.",
            answers.grouped_with(scale=-1.0),
            see="1 · One query, four keys",
        ),
        Mistake(
            "scaled by the heads",
            "The scores are divided by **√Hq instead of √D**: each score is a sum of D products, "
            "however many heads there are.",
            answers.scaled_by_heads,
            see="1 · One query, four keys",
        ),
        Mistake(
            "scaled after the softmax",
            "The scale comes **after the softmax** and only makes the output smaller. Scale the "
            "scores, before it.",
            answers.scaled_after,
            see="1 · One query, four keys",
        ),
        Mistake(
            "masked",
            "This is attention with a **causal mask**. The task asks for none: every query sees "
            "every key.",
            answers.causal,
        ),
        Mistake(
            "softmax over the queries",
            "The softmax runs over the **queries** instead of the keys. For each query the "
            "weights of all keys must add up to 1.",
            answers.grouped_with(dim=-2),
            see="4 · Many queries, and what each may see",
        ),
        Mistake(
            "not moved back",
            "Each head is right on its own, but with several queries the result is **reshaped "
            "without moving dimensions first**, which mixes up heads and queries.",
            answers.not_moved_back,
        ),
    ),
    alternative=answers.by_matmul,
)
