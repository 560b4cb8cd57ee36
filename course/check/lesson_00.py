"""Exercises of lesson 00: two warm-ups."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from course.check.spec import Exercise, Mistake, Property, Seen
from reference.attention import attention

LESSON_EXAMPLE = (300, 8, 2, 64, 4)


def _draw(rng: Generator, Lk: int, D: int) -> tuple[Tensor, Tensor, Tensor]:
    """A query (D,), keys and values (Lk, D); scores spread wide enough to tell scales apart."""
    q = 2 * torch.randn(D, generator=rng)
    return q, *(torch.randn(Lk, D, generator=rng) for _ in "kv")


def _wanted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(q[None, None, None], k[None, :, None], v[None, :, None])[0, 0, 0]


def _one_key(answer: Callable, rng: Generator) -> Seen:
    q, k, v = _draw(rng, 1, 4)
    return Seen.of(answer, (q, k, v), wanted=v[0])


def _few_keys(answer: Callable, rng: Generator) -> Seen:
    args = _draw(rng, 3, 4)
    return Seen.of(answer, args, wanted=_wanted(*args))


def _square(answer: Callable, rng: Generator) -> Seen:
    args = _draw(rng, 8, 8)
    return Seen.of(answer, args, wanted=_wanted(*args))


def _many_keys(answer: Callable, rng: Generator) -> Seen:
    args = _draw(rng, 200, 16)
    return Seen.of(answer, args, wanted=_wanted(*args))


def _sum_over_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Another right answer: broadcasting instead of matrix products, softmax written out."""
    scores = (q * k).sum(-1) * q.numel() ** -0.5
    weights = torch.exp(scores - scores.max())
    return (weights.unsqueeze(-1) * v).sum(0) / weights.sum()


DECODE_STEP = Exercise(
    id="0.1",
    name="decode_step",
    title="One decode step",
    section="3 · One decode step, two ways",
    solution_name="decode_step",
    properties=(
        Property("one key", "a single key gets all the weight", _one_key),
        Property("a few keys", "three keys, D = 4", _few_keys),
        Property("as many keys as dims", "eight of each", _square),
        Property("many keys", "200 keys, D = 16", _many_keys),
    ),
    mistakes=(
        Mistake(
            "no scale",
            "The scores are **not divided by √D**: the weights come out too uneven.",
            lambda q, k, v: torch.softmax(k @ q, -1) @ v,
        ),
        Mistake(
            "divided by D",
            "The scores are divided by **D instead of √D**: the weights come out too even.",
            lambda q, k, v: torch.softmax(k @ q / q.shape[0], -1) @ v,
        ),
        Mistake(
            "no softmax",
            "The scores are used as weights **without softmax**: they are not all positive and "
            "do not sum to 1.",
            lambda q, k, v: (k @ q / q.shape[0] ** 0.5) @ v,
        ),
        Mistake(
            "exponentials not divided by their sum",
            "The weights are exponentials **not divided by their sum**: they don't add up to 1.",
            lambda q, k, v: torch.exp(k @ q / q.shape[0] ** 0.5) @ v,
        ),
        Mistake(
            "keys summed instead of values",
            "The weighted sum runs over the **keys**. Keys are what the query is compared with; "
            "what it reads are the values.",
            lambda q, k, v: torch.softmax(k @ q / q.shape[0] ** 0.5, -1) @ k,
        ),
        Mistake(
            "scaled after softmax",
            "√D divides the **weights**, after the softmax, so they no longer sum to 1. Divide the "
            "scores instead, before it.",
            lambda q, k, v: (torch.softmax(k @ q, -1) / q.shape[0] ** 0.5) @ v,
        ),
        Mistake(
            "keys and values swapped",
            "**k and v are swapped**: the query is compared with the keys, the values are summed.",
            lambda q, k, v: torch.softmax(v @ q / q.shape[0] ** 0.5, -1) @ k,
        ),
        Mistake(
            "√Lk instead of √D",
            "The scores are divided by the root of the **number of keys**; D is the length of a "
            "query.",
            lambda q, k, v: torch.softmax(k @ q / k.shape[0] ** 0.5, -1) @ v,
        ),
        Mistake(
            "best key only",
            "The value of the **best key alone** is returned. Softmax gives every key a share.",
            lambda q, k, v: v[(k @ q).argmax()],
        ),
        Mistake(
            "plain mean",
            "Every value gets **the same weight**: the query is never used.",
            lambda q, k, v: v.mean(0),
        ),
    ),
    alternative=_sum_over_keys,
)


def _numbers(rng: Generator) -> tuple[int, int, int, int, int]:
    """A random model: Hq is a true multiple of Hkv, and no two factors are alike."""
    Lk = int(torch.randint(1000, 100_000, (), generator=rng))
    Hkv = int(torch.randint(2, 9, (), generator=rng))
    G = int(torch.randint(2, 9, (), generator=rng))
    D = 32 * int(torch.randint(1, 9, (), generator=rng))
    return Lk, G * Hkv, Hkv, D, 2 ** int(torch.randint(0, 3, (), generator=rng))


def _bytes(Lk: int, Hq: int, Hkv: int, D: int, size: int) -> int:
    return 2 * Lk * Hkv * D * size


def _bytes_seen(answer: Callable, args: tuple[int, ...]) -> Seen:
    return Seen.of(answer, args, wanted=_bytes(*args))


def _whole_number(answer: Callable, rng: Generator) -> Seen:
    kind = type(answer(*_numbers(rng))).__name__
    return Seen(kind, "int", "the type of the result")


CACHE_BYTES = Exercise(
    id="0.2",
    name="cache_bytes",
    title="Bytes of a decode step",
    section="4 · Names you will meet",
    solution_name="cache_bytes",
    properties=(
        Property(
            "by hand",
            "one token, one head, D = 1, two bytes per number",
            lambda answer, rng: _bytes_seen(answer, (1, 1, 1, 1, 2)),
        ),
        Property(
            "as in the lesson",
            "300 tokens, 8/2 heads, D = 64, fp32",
            lambda answer, rng: _bytes_seen(answer, LESSON_EXAMPLE),
        ),
        Property("a whole number", "the result is an int", _whole_number),
        Property(
            "any model",
            "random lengths, heads and sizes",
            lambda answer, rng: _bytes_seen(answer, _numbers(rng)),
        ),
    ),
    mistakes=(
        Mistake(
            "keys only",
            "Only **one of the two** caches is counted: a step reads keys and values.",
            lambda Lk, Hq, Hkv, D, size: Lk * Hkv * D * size,
        ),
        Mistake(
            "query heads counted",
            "The **query heads** are counted, but the cache has only KV heads: the query heads of "
            "a group read the same one.",
            lambda Lk, Hq, Hkv, D, size: 2 * Lk * Hq * D * size,
        ),
        Mistake(
            "numbers, not bytes",
            "This counts **numbers**, not bytes: each takes `bytes_per_number`.",
            lambda Lk, Hq, Hkv, D, size: 2 * Lk * Hkv * D,
        ),
        Mistake(
            "size fixed at 4",
            "Every number is taken to have 4 bytes: **`bytes_per_number` is not used**.",
            lambda Lk, Hq, Hkv, D, size: 2 * Lk * Hkv * D * 4,
        ),
        Mistake(
            "query heads, and keys only",
            "Two slips at once: the **query heads** are counted instead of the KV heads, and "
            "only **one of the two** caches is counted.",
            lambda Lk, Hq, Hkv, D, size: Lk * Hq * D * size,
        ),
        Mistake(
            "a float",
            "The number is right, but it is a **float**: bytes are counted in whole numbers.",
            lambda Lk, Hq, Hkv, D, size: 2.0 * Lk * Hkv * D * size,
        ),
        Mistake(
            "bits",
            "This counts **bits**: the size of a number is already in bytes.",
            lambda Lk, Hq, Hkv, D, size: 16 * Lk * Hkv * D * size,
        ),
    ),
    alternative=lambda Lk, Hq, Hkv, D, size: sum([Lk * Hkv * D * size] * 2),
)

EXERCISES = (DECODE_STEP, CACHE_BYTES)
