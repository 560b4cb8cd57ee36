"""Exercise 1.4: what one call of attention costs, in FLOPs and in bytes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen

Sizes = tuple[int, int, int, int, int, int, int]  # B, Lq, Lk, Hq, Hkv, D, bytes_each
Cost = tuple[int, int]


def _seen(answer: Callable, *sizes: int) -> Seen:
    return Seen.of(answer, sizes, wanted=_one_by_one(*sizes), names=("flops", "moved"))


def _one_head(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, 1, 1, integer(rng, 5, 99), 1, 1, 8 * integer(rng, 2, 9), 1)


def _more_queries(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, 1, integer(rng, 2, 9), integer(rng, 10, 99), 1, 1, 8, 1)


def _shared_heads(answer: Callable, rng: Generator) -> Seen:
    Hkv = integer(rng, 2, 5)
    return _seen(answer, 1, 1, integer(rng, 5, 99), 4 * Hkv, Hkv, 16, 1)


def _batch(answer: Callable, rng: Generator) -> Seen:
    return _seen(answer, integer(rng, 2, 5), 1, integer(rng, 5, 99), 1, 1, 16, 1)


def _bytes_each(answer: Callable, rng: Generator) -> list[Seen]:
    return [_seen(answer, 1, 2, integer(rng, 5, 99), 4, 2, 16, each) for each in (2, 4)]


def _one_by_one(B: int, Lq: int, Lk: int, Hq: int, Hkv: int, D: int, each: int) -> Cost:
    """Another correct answer: from the shapes."""
    q = o = B * Lq * Hq * D
    k = v = B * Lk * Hkv * D
    score = 2 * D  # a product and a sum for each of D numbers
    return B * Hq * Lq * Lk * (score + 2 * D), each * (q + k + v + o)


def _cost(
    flops: int = 4, q_and_o: int = 2, k_and_v: int = 2, shared: str = "Hkv", scores: int = 0
) -> Callable:
    """The cost with one factor wrong; shared: the heads counted for k and v."""

    def wrong(B: int, Lq: int, Lk: int, Hq: int, Hkv: int, D: int, bytes_each: int) -> Cost:
        heads = {"Hkv": Hkv, "Hq": Hq}[shared]
        numbers = q_and_o * Lq * Hq * D + k_and_v * Lk * heads * D + scores * Hq * Lq * Lk
        return flops * B * Hq * Lq * Lk * D, B * numbers * bytes_each

    return wrong


def _flops_by_kv_heads(
    B: int, Lq: int, Lk: int, Hq: int, Hkv: int, D: int, bytes_each: int
) -> Cost:
    return 4 * B * Hkv * Lq * Lk * D, _one_by_one(B, Lq, Lk, Hq, Hkv, D, bytes_each)[1]


def _numbers(B: int, Lq: int, Lk: int, Hq: int, Hkv: int, D: int, bytes_each: int) -> Cost:
    return _one_by_one(B, Lq, Lk, Hq, Hkv, D, 1)


ATTENTION_COST = Exercise(
    id="1.4",
    name="attention cost",
    title="FLOPs and bytes",
    section="6 · What it costs",
    solution_name="attention_cost",
    properties=(
        Property("one head", "one query, one head, one byte per number", _one_head),
        Property("several queries", "Lq > 1", _more_queries),
        Property("shared heads", "G = 4: k and v have fewer heads than q", _shared_heads),
        Property("batch", "B > 1", _batch),
        Property("bytes each", "2 and 4 bytes per number", _bytes_each),
    ),
    mistakes=(
        Mistake(
            "not shared",
            "The bytes of k and v are counted **once for every query head**. Heads of a group "
            "share one KV head, which need be read only once: there are Hkv of them.",
            _cost(shared="Hq"),
            see="5 · Heads, and how they share",
        ),
        Mistake(
            "FLOPs by KV heads",
            "The FLOPs are counted with **Hkv** heads. Sharing saves reading, not arithmetic: "
            "each of the Hq query heads computes scores of its own.",
            _flops_by_kv_heads,
        ),
        Mistake(
            "half the FLOPs",
            "The FLOPs are **half** of what they should be. Either only one of the two products "
            "(scores, weighted sum) is counted, or a multiplication and an addition count as one.",
            _cost(flops=2),
        ),
        Mistake(
            "output forgotten",
            "The bytes lack **the output**: o is as large as q and has to be written.",
            _cost(q_and_o=1),
        ),
        Mistake(
            "values forgotten",
            "The bytes lack **the values** (or the keys): both have to be read.",
            _cost(k_and_v=1),
        ),
        Mistake(
            "only k and v",
            "The bytes are those of **k and v only**. q has to be read and o written, too.",
            _cost(q_and_o=0),
        ),
        Mistake(
            "scores counted",
            "The bytes include a **matrix of scores**. Here only what must be moved counts: "
            "q, k and v in, o out.",
            _cost(scores=1),
        ),
        Mistake(
            "numbers, not bytes",
            "This counts **numbers, not bytes**: each takes `bytes_each`.",
            _numbers,
        ),
    ),
    alternative=_one_by_one,
)
