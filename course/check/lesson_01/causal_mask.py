"""Exercise 1.2: the causal mask, aligned bottom-right."""

import torch

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip


@right
def causal_mask(Lq, Lk):
    position = torch.arange(Lq)[:, None] + (Lk - Lq)  # where each query stands
    return torch.arange(Lk)[None, :] <= position


@also_right
def by_tril(Lq, Lk):
    """A triangle, moved to the correct corner."""
    return torch.ones(Lq, Lk, dtype=torch.bool).tril(diagonal=Lk - Lq)


def seen(answer, Lq, Lk):
    rows = [[j - (Lk - 1) <= i - (Lq - 1) for j in range(Lk)] for i in range(Lq)]
    wanted = torch.tensor(rows, dtype=torch.bool).reshape(Lq, Lk)
    return Seen.of(answer, (Lq, Lk), wanted=wanted)


@holds("as many queries as keys")
def square(answer, rng):
    n = integer(rng, 2, 8)
    return seen(answer, n, n)


@holds("Lq = 1: it sees the whole cache")
def one_new_token(answer, rng):
    return seen(answer, 1, integer(rng, 2, 8))


@holds("1 < Lq < Lk: they continue a cache")
def some_new_tokens(answer, rng):
    Lq = integer(rng, 2, 4)
    return seen(answer, Lq, Lq + integer(rng, 1, 4))


@holds("Lq > Lk: the first queries see nothing")
def more_queries(answer, rng):
    Lk = integer(rng, 1, 3)
    return seen(answer, Lk + integer(rng, 1, 3), Lk)


@holds("Lk = 0 or Lq = 0: an empty mask of the right shape")
def nothing(answer, rng):
    n = integer(rng, 1, 4)
    return [seen(answer, n, 0), seen(answer, 0, n)]


slip(
    "top-left",
    "This is the **top-left** mask: query i is treated as token i. With keys in a cache, "
    "query 0 is not the first token, and would see almost nothing of its past.",
    (" + (Lk - Lq)", ""),
)
slip(
    "upside down",
    "Every cell is **the opposite** of what it should be: here True means that a query "
    "may see a key, not that the key is hidden.",
    ("<=", ">"),
)
slip(
    "not itself",
    "Each query has **its own token hidden** from it. The last query should see every key, "
    "including the newest: look again at < and ≤.",
    ("<=", "<"),
)
slip(
    "one token of the future",
    "Each query sees **one token of the future**: the triangle starts one column too far "
    "to the right. The last query is at key Lk - 1, not at Lk.",
    ("Lk - Lq", "Lk - Lq + 1"),
)
slip(
    "upper triangle",
    "This is the **upper** triangle: each query sees its own token and all later ones. "
    "The past is the lower one, with the same diagonal.",
    ("<=", ">="),
)
slip(
    "wrong sign",
    "The distance between queries and keys has the **wrong sign**: with more keys than "
    "queries the triangle has to move to the right.",
    ("Lk - Lq", "Lq - Lk"),
)
slip(
    "never empty",
    "With more queries than keys the distance is negative, and it **must stay negative** "
    "(yours was clamped at 0): the first queries came before any key and see nothing.",
    ("(Lk - Lq)", "max(Lk - Lq, 0)"),
)
slip(
    "transposed",
    "**Rows and columns are swapped**: you need one row per query, one column per key.",
    ("torch.arange(Lq)[:, None]", "torch.arange(Lq)[None, :]"),
    ("torch.arange(Lk)[None, :]", "torch.arange(Lk)[:, None]"),
)
slip(
    "in floats",
    "The zeros and ones are in the right places, but they are **floats**. `~mask` and "
    "`masked_fill` need a mask of dtype bool.",
    ("return ", "return ("),
    (" position\n", " position).float()\n"),
)
slip(
    "in integers",
    "The zeros and ones are in the right places, but they are **integers**: `~1` is -2. "
    "Make it a mask of dtype bool.",
    ("return ", "return ("),
    (" position\n", " position).long()\n"),
)
slip(
    "to be added",
    "This is a mask **to be added to the scores**: 0 where a query may see, -inf where "
    "not. The task asks for a bool mask, True where it may see.",
    ("return ", "return torch.where("),
    (" position\n", " position, 0.0, -torch.inf)\n"),
)

CAUSAL_MASK = Exercise.of(
    __name__,
    "1.2 causal mask",
    title="The causal mask, bottom-right",
    section="4 · Many queries, and what each may see",
)
