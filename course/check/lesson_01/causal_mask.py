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
    return [seen(answer, n, 0), seen(answer, 0, n), seen(answer, 0, 0)]


@holds("hundreds of keys")
def a_long_cache(answer, rng):
    """Wider than what fits into an integer of 8 bits, or into a mask made beforehand."""
    return seen(answer, integer(rng, 20, 40), integer(rng, 270, 320))


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
    "distance always positive",
    "The distance between queries and keys is **made positive**. With more queries than keys it is "
    "negative: the first queries came before any key and see nothing.",
    ("(Lk - Lq)", "abs(Lk - Lq)"),
)
slip(
    "at least key 0",
    "Queries that came before any key still see **key 0**: their position is negative, and must "
    "stay so.",
    ("torch.arange(Lq)[:, None] + (Lk - Lq)", "(torch.arange(Lq)[:, None] + (Lk - Lq)).clamp(0)"),
)
slip(
    "nothing hidden",
    "**Nothing is hidden**: every query sees every key, the future as well. The queries are the "
    "last Lq tokens, not Lq more behind the Lk keys.",
    ("(Lk - Lq)", "Lk"),
)
slip(
    "only itself",
    "Each query sees **its own token alone**. It sees all before it, too.",
    ("<=", "=="),
)
slip(
    "two off",
    "Each query sees **two tokens of the future**: the triangle starts too far to the right. "
    "The last query is at key Lk - 1.",
    ("Lk - Lq", "Lk - Lq + 2"),
)
slip(
    "a window",
    "Keys far back are **hidden**: the code knows only so many. Each query sees all before it, "
    "however many there are.",
    ("<= position", "<= position) & (torch.arange(Lk) > position - 64"),
    ("return torch", "return (torch"),
    ("64\n", "64)\n"),
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
for dtype in ("int", "byte"):
    slip(
        f"in integers, {dtype}",
        "The zeros and ones are in the right places, but they are **integers**, as if made by "
        f"`.{dtype}()`. `~mask` would turn 1 into something else than 0: make it bool.",
        ("return ", "return ("),
        (" position\n", f" position).{dtype}()\n"),
    )
slip(
    "to be added, finite",
    "This is a mask **to be added to the scores**, with a huge negative number for -inf. The task "
    "asks for a bool mask, True where a query may see.",
    ("return ", "return torch.where("),
    (" position\n", " position, 0.0, -1e9)\n"),
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
