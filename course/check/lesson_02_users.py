"""Exercise 2.3: bytes per token in the KV cache, and how many users fit."""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen

BY_HAND = "Bytes of a token"
FIT = "How many users fit"


def _plan(
    *,
    heads: Callable[[int, int], int] = lambda Hq, Hkv: Hkv,
    both: int = 2,
    each: Callable[[int], int] = lambda bytes_each: bytes_each,
    free: Callable[[int, int], float] = lambda memory, weights: memory - weights,
    tokens: Callable[[int], int] = lambda context: context,
    users: Callable[[float, int], float] = lambda free, user: max(0, int(free // user)),
    says_user: bool = False,
) -> Callable:
    """A correct answer, or one with some piece replaced."""

    def kv_plan(
        layers: int, Hq: int, Hkv: int, D: int, bytes_each: int, context: int, weights: int,
        memory: int,
    ) -> tuple[int, float]:  # fmt: skip
        token = both * layers * heads(Hq, Hkv) * D * each(bytes_each)
        user = token * tokens(context)
        return user if says_user else token, users(free(memory, weights), user)

    return kv_plan


def user_by_user(
    layers: int, Hq: int, Hkv: int, D: int, bytes_each: int, context: int, weights: int, memory: int
) -> tuple[int, int]:
    """Another correct answer: let users in until one finds no room."""
    token = 0
    for _ in ("k", "v"):
        token += layers * Hkv * D * bytes_each
    users, taken = 0, weights + token * context
    while taken <= memory:
        users, taken = users + 1, taken + token * context
    return token, users


def _seen(answer: Callable, *sizes: int) -> Seen:
    return Seen.of(answer, sizes, wanted=user_by_user(*sizes), names=("bytes per token", "users"))


def _sizes(rng: Generator, Hkv: int, group: int) -> tuple[int, ...]:
    """Layers, Hq, Hkv, D, bytes per element, context."""
    layers, D = integer(rng, 3, 12), 16 * integer(rng, 2, 6)
    return layers, group * Hkv, Hkv, D, 2, 100 * integer(rng, 3, 9)


def _filled(
    answer: Callable, sizes: tuple[int, ...], users: int, rest: float, weights: int
) -> Seen:
    """Ask about a memory with room for this many users, and a fraction `rest` of another."""
    user = user_by_user(*sizes, 0, 0)[0] * sizes[5]
    return _seen(answer, *sizes, weights, weights + users * user + int(rest * user))


# The first three ask about the bytes per token: the weights are light, and no user only just fits,
# so that a mistake in the users alone fails later, with a pointer to the section about users.
FEW, ROOM, LIGHT = 3, 0.45, 1000


def _own_heads(answer: Callable, rng: Generator) -> Seen:
    return _filled(answer, _sizes(rng, 4, 1), FEW, ROOM, LIGHT)


def _shared_heads(answer: Callable, rng: Generator) -> Seen:
    return _filled(answer, _sizes(rng, 2, 8), FEW, ROOM, LIGHT)


def _formats(answer: Callable, rng: Generator) -> list[Seen]:
    sizes = _sizes(rng, 2, 8)
    return [_filled(answer, (*sizes[:4], n, sizes[5]), FEW, ROOM, LIGHT) for n in (1, 4)]


def _beside_weights(answer: Callable, rng: Generator) -> Seen:
    sizes = _sizes(rng, 2, 8)
    user = user_by_user(*sizes, 0, 0)[0] * sizes[5]
    return _filled(answer, sizes, integer(rng, 15, 30), 0.9, integer(rng, 3, 9) * user)


def _exactly_full(answer: Callable, rng: Generator) -> Seen:
    return _filled(answer, _sizes(rng, 2, 8), integer(rng, 3, 20), 0.0, 10**6)


def _none_fits(answer: Callable, rng: Generator) -> list[Seen]:
    sizes, weights = _sizes(rng, 2, 8), 10**10
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
        Property("own heads", "Hkv = Hq: every query head has its own keys", _own_heads, BY_HAND),
        Property("shared heads", "eight query heads share a KV head", _shared_heads, BY_HAND),
        Property("formats", "1 and 4 bytes per element", _formats, BY_HAND),
        Property("beside weights", "many users, and weights that matter", _beside_weights, FIT),
        Property("exactly full", "the last user takes the last byte", _exactly_full, FIT),
        Property("none fits", "no room for a user, or not even for the weights", _none_fits, FIT),
    ),
    mistakes=(
        Mistake(
            "K alone",
            "The bytes of a token are **half** of what they should be: it leaves a key *and* a "
            "value.",
            _plan(both=1),
            see=BY_HAND,
        ),
        Mistake(
            "query heads",
            "The bytes are counted with **Hq** heads. Query heads of a group share one KV head, "
            "and only its k and v are kept: there are Hkv of them.",
            _plan(heads=lambda Hq, Hkv: Hq),
            see=BY_HAND,
        ),
        Mistake(
            "the group for the heads",
            "The bytes are counted with **Hq / Hkv** heads. That is how many query heads share a "
            "KV head; what is kept is the k and v of each KV head.",
            _plan(heads=lambda Hq, Hkv: Hq // Hkv),
            see=BY_HAND,
        ),
        Mistake(
            "heads left out",
            "`Hkv` does not appear: **every KV head** keeps keys and values of its own.",
            _plan(heads=lambda Hq, Hkv: 1),
            see=BY_HAND,
        ),
        Mistake(
            "always two bytes",
            "Every number is taken to have **2 bytes**, as in the lesson. Here it has "
            "`bytes_each`.",
            _plan(each=lambda bytes_each: 2),
            see=BY_HAND,
        ),
        Mistake(
            "a user's bytes",
            "The first number is what a **user** takes. The task asks what one token takes.",
            _plan(says_user=True),
            see=BY_HAND,
        ),
        Mistake(
            "weights forgotten",
            "The bytes of a token are right, but the users get **the whole memory**: the weights "
            "are in it as well.",
            _plan(free=lambda memory, weights: memory),
            see=FIT,
        ),
        Mistake(
            "nine tenths",
            "The users get **90 % of the memory**, as in the lesson's example. Here all of it may "
            "be used.",
            _plan(free=lambda memory, weights: 0.9 * memory - weights),
            see=FIT,
        ),
        Mistake(
            "rounded up",
            "The number of users is **rounded up**: the last one has no room for all tokens.",
            _plan(users=lambda free, user: max(0, int(-(-free // user)))),
            see=FIT,
        ),
        Mistake(
            "tokens, not users",
            "The second number is how many **tokens** fit. Each user takes `context` of them.",
            _plan(tokens=lambda context: 1),
            see=FIT,
        ),
        Mistake(
            "fewer than none",
            "Where not even the weights fit, the number of users is **negative**. It should be 0.",
            _plan(users=lambda free, user: int(free // user)),
            see=FIT,
        ),
        Mistake(
            "not whole",
            "The number of users is a **fraction**. Part of a user doesn't fit: divide with //.",
            _plan(users=lambda free, user: max(0.0, free / user)),
            see=FIT,
        ),
    ),
    alternative=user_by_user,
)
