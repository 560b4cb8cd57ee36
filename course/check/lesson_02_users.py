"""Exercise 2.3: bytes of a token in the KV cache, and the users that fit."""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen

BY_HAND = "Bytes of a token"
FIT = "How many users fit"


def _plan(
    *,
    numbers: Callable[[int, int, int, int], int] = lambda L, Hq, Hkv, D: 2 * L * Hkv * D,
    users: Callable[[int, int, int], int] = lambda free, user, memory: max(0, free // user),
    weights: int = 1,
    each: Callable[[int], float] = lambda bytes_each: bytes_each,
    tokens: Callable[[int], int] = lambda context: context,
) -> Callable:
    """A right answer, or one with some piece of it replaced."""

    def kv_plan(
        layers: int, Hq: int, Hkv: int, D: int, bytes_each: int, context: int, weights_: int,
        memory: int,
    ) -> tuple[int, int]:  # fmt: skip
        token = numbers(layers, Hq, Hkv, D) * each(bytes_each)
        return token, users(memory - weights * weights_, token * tokens(context), memory)

    return kv_plan


def user_by_user(
    layers: int, Hq: int, Hkv: int, D: int, bytes_each: int, context: int, weights: int, memory: int
) -> tuple[int, int]:
    """Another right answer: let users come in until one finds no room."""
    token = 0
    for _ in ("k", "v"):
        token += layers * Hkv * D * bytes_each
    users, taken = 0, weights + token * context
    while taken <= memory:
        users, taken = users + 1, taken + token * context
    return token, users


def _seen(answer: Callable, *sizes: int) -> Seen:
    return Seen.of(answer, sizes, wanted=user_by_user(*sizes), names=("bytes a token", "users"))


def _sizes(rng: Generator, Hkv: int, group: int) -> tuple[int, ...]:
    """Layers, Hq, Hkv, D, bytes of an element, context."""
    layers, D = integer(rng, 3, 12), 16 * integer(rng, 2, 6)
    return layers, group * Hkv, Hkv, D, 2, 100 * integer(rng, 3, 9)


def _filled(
    answer: Callable, sizes: tuple[int, ...], users: int, rest: float, weights: int
) -> Seen:
    """Ask about a memory that has room for so many users, and the rest of another one."""
    user = user_by_user(*sizes, 0, 0)[0] * sizes[5]
    return _seen(answer, *sizes, weights, weights + users * user + int(rest * user))


def _own_heads(answer: Callable, rng: Generator) -> Seen:
    sizes = _sizes(rng, 4, 1)
    return _filled(answer, sizes, integer(rng, 5, 30), 0.5, integer(rng, 3, 9) * 10**6)


def _shared_heads(answer: Callable, rng: Generator) -> Seen:
    sizes = _sizes(rng, 2, 4)
    return _filled(answer, sizes, integer(rng, 15, 30), 0.9, integer(rng, 3, 9) * 10**6)


def _formats(answer: Callable, rng: Generator) -> list[Seen]:
    sizes = _sizes(rng, 2, 4)
    return [_filled(answer, (*sizes[:4], each, sizes[5]), 20, 0.2, 5 * 10**6) for each in (1, 4)]


def _exactly_full(answer: Callable, rng: Generator) -> Seen:
    return _filled(answer, _sizes(rng, 2, 4), integer(rng, 3, 20), 0.0, 10**6)


def _none_fits(answer: Callable, rng: Generator) -> list[Seen]:
    sizes, weights = _sizes(rng, 2, 4), 10**10
    return [
        _filled(answer, sizes, 0, 0.7, weights),
        _seen(answer, *sizes, weights, weights // 2),
    ]


USERS = Exercise(
    id="2.3",
    name="kv plan",
    title="How many users fit",
    section="7 · What the cache takes",
    solution_name="kv_plan",
    properties=(
        Property("own heads", "Hkv = Hq: every query head has its keys", _own_heads, BY_HAND),
        Property("shared heads", "four query heads share a KV head", _shared_heads, BY_HAND),
        Property("formats", "1 and 4 bytes an element", _formats, BY_HAND),
        Property("exactly full", "the last user takes the last byte", _exactly_full, FIT),
        Property("none fits", "no room for a user, or not even for the weights", _none_fits, FIT),
    ),
    mistakes=(
        Mistake(
            "K alone",
            "The bytes of a token are **half** of what they should be: it leaves a key *and* a "
            "value.",
            _plan(numbers=lambda L, Hq, Hkv, D: L * Hkv * D),
            see=BY_HAND,
        ),
        Mistake(
            "query heads",
            "The bytes are counted with **Hq** heads. Query heads of a group share one KV head, "
            "and only its k and v are kept: there are Hkv of them.",
            _plan(numbers=lambda L, Hq, Hkv, D: 2 * L * Hq * D),
            see=BY_HAND,
        ),
        Mistake(
            "one layer",
            "`layers` does not appear: **every layer** keeps keys and values of its own.",
            _plan(numbers=lambda L, Hq, Hkv, D: 2 * Hkv * D),
            see=BY_HAND,
        ),
        Mistake(
            "head dimension forgotten",
            "`D` does not appear: a key is **D numbers**, not one.",
            _plan(numbers=lambda L, Hq, Hkv, D: 2 * L * Hkv),
            see=BY_HAND,
        ),
        Mistake(
            "numbers, not bytes",
            "These are **numbers instead of bytes**: each takes `bytes_each`.",
            _plan(each=lambda bytes_each: 1),
            see=BY_HAND,
        ),
        Mistake(
            "weights forgotten",
            "The bytes of a token are right, but the users get **the whole memory**: the weights "
            "lie in it as well.",
            _plan(weights=0),
            see=FIT,
        ),
        Mistake(
            "tokens, not users",
            "The second number is how many **tokens** fit. Each user takes `context` of them.",
            _plan(tokens=lambda context: 1),
            see=FIT,
        ),
        Mistake(
            "rounded up",
            "The number of users is **rounded up**: the last one has no room for all tokens.",
            _plan(users=lambda free, user, memory: max(0, -(-free // user))),
            see=FIT,
        ),
        Mistake(
            "rounded to the nearest",
            "The number of users is rounded to the **nearest**: where more than half a user has "
            "room, one too many is let in.",
            _plan(users=lambda free, user, memory: max(0, round(free / user))),
            see=FIT,
        ),
        Mistake(
            "fewer than none",
            "Where not even the weights fit, the number of users is **negative**. It should be 0.",
            _plan(users=lambda free, user, memory: free // user),
            see=FIT,
        ),
        Mistake(
            "not whole",
            "The number of users is a **fraction**. Part of a user doesn't fit: divide with //.",
            _plan(users=lambda free, user, memory: max(0.0, free / user)),
            see=FIT,
        ),
        Mistake(
            "the full memory refused",
            "A user who takes the **last byte** is sent away: what fits exactly, fits.",
            _plan(users=lambda free, user, memory: max(0, (free - 1) // user)),
            see=FIT,
        ),
    ),
    alternative=user_by_user,
)
