"""Exercise 16.3: how many keys of a shard each new token sees."""

import math

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip

PLACES = "2 · Who holds which key?"


@right
def seen_of_shard(rank, R, b, L, Lq):
    counts = []
    for i in range(Lq):
        visible = max(0, L - Lq + i + 1)  # places up to the query's own
        cycles, rest = divmod(visible, b * R)
        counts.append(cycles * b + min(max(rest - rank * b, 0), b))
    return counts


@also_right
def one_by_one(rank, R, b, L, Lq):
    """Looks at every place."""
    mine = [j for j in range(L) if j // b % R == rank]
    return [sum(j <= L - Lq + i for j in mine) for i in range(Lq)]


@also_right
def by_blocks(rank, R, b, L, Lq):
    """Adds up the blocks of the rank, cut off at the query's place."""
    firsts = [range(rank * b, max(p + 1, 0), b * R) for p in range(L - Lq, L)]
    return [sum(min(b, p + 1 - j) for j in some)
            for p, some in zip(range(L - Lq, L), firsts, strict=True)]  # fmt: skip


def seen(answer, *call):
    return Seen.of(answer, call, wanted=one_by_one(*call))


@holds("the table's examples")
def by_hand(answer, rng):
    return [seen(answer, *call) for call in ((0, 2, 1, 5, 3), (1, 2, 1, 5, 3), (1, 3, 2, 9, 2))]


@holds("one new token: all keys of the shard")
def one_token(answer, rng):
    L = integer(rng, 20, 90)
    return [seen(answer, rank, 4, 1, L, 1) for rank in range(4)]


@holds("b = 1, several new tokens")
def token_by_token(answer, rng):
    R, L = integer(rng, 2, 5), integer(rng, 30, 90)
    return [seen(answer, rank, R, 1, L, integer(rng, 2, 7)) for rank in range(R)]


@holds("blocks of several places")
def blocks(answer, rng):
    R, b, L = integer(rng, 2, 4), integer(rng, 2, 6), integer(rng, 30, 90)
    return [seen(answer, rank, R, b, L, 2 * b * R) for rank in range(R)]


@holds("fewer keys than ranks: some shards are empty")
def empty_shards(answer, rng):
    return [seen(answer, rank, 6, 1, integer(rng, 1, 4), 1) for rank in range(6)]


@holds("fewer keys than new tokens: the first queries see nothing")
def short_rows(answer, rng):
    return [seen(answer, rank, 2, 2, integer(rng, 0, 3), 6) for rank in range(2)]


@holds("a single rank: ordinary causality")
def one_rank(answer, rng):
    return seen(answer, 0, 1, integer(rng, 1, 5), integer(rng, 20, 60), 4)


LAST = "counts.append(cycles * b + min(max(rest - rank * b, 0), b))"

slip(
    "its own place left out",
    "A query does not see **its own place** here. It does: the places up to there, and that one.",
    ("L - Lq + i + 1", "L - Lq + i"),
)
slip(
    "one place too many",
    "A query sees **the place after its own**, the next token.",
    ("L - Lq + i + 1", "L - Lq + i + 2"),
)
slip(
    "after the row",
    "The new tokens are placed **after** the L keys. They are the last Lq of them: query i is at "
    "place L - Lq + i.",
    ("L - Lq + i + 1", "L + i + 1"),
)
slip(
    "from the beginning",
    "Query i is taken to be **at place i**, as if there were no older keys.",
    ("L - Lq + i + 1", "i + 1"),
)
slip(
    "below nothing",
    "Where there are **fewer keys than new tokens**, L - Lq + i is below 0, and the count is "
    "negative, or wraps around. Such a query sees nothing.",
    ("max(0, L - Lq + i + 1)", "L - Lq + i + 1"),
)
slip(
    "the rest below nothing",
    "Where the last cycle does **not reach this rank**, rest - rank · b is below 0, and keys are "
    "taken away. It counts as 0.",
    ("min(max(rest - rank * b, 0), b)", "min(rest - rank * b, b)"),
)
slip(
    "more than a block",
    "From the last, unfinished cycle this rank has **one block at most**.",
    ("min(max(rest - rank * b, 0), b)", "max(rest - rank * b, 0)"),
)
slip(
    "the last cycle left out",
    "The **unfinished cycle** at the end is left out: part of it may lie on this rank.",
    (LAST, "counts.append(cycles * b)"),
)
slip(
    "an even share",
    "The keys are divided **evenly**, rounded down. Some ranks have more than others.",
    (LAST, "counts.append(visible // R)"),
)
slip(
    "an even share, rounded up",
    "The keys are divided evenly, **rounded up** on every rank. Only the first ranks have more.",
    (LAST, "counts.append(-(-visible // R))"),
)
slip(
    "token by token",
    "**b is left out**: keys are dealt out in blocks of b places.",
    ("divmod(visible, b * R)", "divmod(visible, R)"),
    (LAST, "counts.append(cycles + (rest > rank))"),
)
slip(
    "blocks counted, not keys",
    "The number of **blocks** is counted. Each has b keys.",
    (LAST, "counts.append(cycles + (rest > rank * b))"),
)
slip(
    "ranks from 1",
    "The ranks are counted **from 1**. Rank 0 has the first block.",
    ("rest - rank * b", "rest - (rank - 1) * b"),
)
slip(
    "unfinished blocks are full",
    "If the last cycle reaches this rank, it is given a **full block**. It may have part of one.",
    (LAST, "counts.append(cycles * b + (b if rest > rank * b else 0))"),
)
slip(
    "a number instead of a list",
    "The answer is **one number**, for the last query. Asked for is one per query, as a list.",
    ("return counts", "return counts[-1]"),
)
slip(
    "queries backwards",
    "The queries come **backwards**: the first one sees least.",
    ("return counts", "return counts[::-1]"),
)


@mistake(
    "This is **bottom-right causality within the shard**: each query sees one key more than the "
    "one before. But only some of the new tokens lie on this rank.",
    see="4 · Several new tokens",
)
def bottom_right_in_the_shard(rank, R, b, L, Lq):
    held = len([j for j in range(L) if j // b % R == rank])
    return [max(0, held - Lq + 1 + i) for i in range(Lq)]


@mistake("The causal mask is missing: **every query sees the whole shard**.")
def all_of_it(rank, R, b, L, Lq):
    return [seen_of_shard(rank, R, b, L, 1)[0]] * Lq


@mistake(
    "The cache is cut into **contiguous pieces**, one per rank. Keys are dealt out in turn, in "
    "blocks of b."
)
def contiguous(rank, R, b, L, Lq):
    size = math.ceil(L / R)
    mine = range(rank * size, min(L, (rank + 1) * size))
    return [sum(j <= L - Lq + i for j in mine) for i in range(Lq)]


SEEN_OF_SHARD = Exercise.of(
    __name__,
    "16.3 seen of shard",
    title="What a query sees of a shard",
    section=PLACES,
)
