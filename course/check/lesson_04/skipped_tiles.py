"""Exercise 4.2: count the tiles that a causal mask makes unnecessary."""

import math

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip
from reference.attention import causal_mask


@right
def skipped_tiles(Lq, Lk, block_m, block_n):
    key_tiles, skipped = math.ceil(Lk / block_n), 0
    for i in range(math.ceil(Lq / block_m)):
        last = min((i + 1) * block_m, Lq) - 1 + Lk - Lq
        visited = max(math.ceil((last + 1) / block_n), 0)
        skipped += key_tiles - visited
    return skipped


@also_right
def tile_by_tile(Lq, Lk, block_m, block_n):
    """Asks every tile whether its last query reaches its first key."""
    return sum(
        j > min(i + block_m, Lq) - 1 + Lk - Lq
        for i in range(0, Lq, block_m)
        for j in range(0, Lk, block_n)
    )


def by_the_mask(Lq, Lk, bm, bn):
    """The definition: tiles of the whole mask in which nothing is visible."""
    tiles = [part for rows in causal_mask(Lq, Lk).split(bm) for part in rows.split(bn, dim=1)]
    return sum(not part.any() for part in tiles)


def seen(answer, *sizes):
    return Seen.of(answer, sizes, wanted=by_the_mask(*sizes))


@holds("the three examples in the table")
def by_hand(answer, rng):
    return [seen(answer, Lq, Lk, 2, 2) for Lq, Lk in ((6, 6), (4, 6), (6, 4))]


@holds("Lq = Lk, whole square tiles")
def square(answer, rng):
    b = integer(rng, 2, 5)
    L = b * integer(rng, 4, 8)
    return seen(answer, L, L, b, b)


@holds("block_m and block_n differ")
def unequal_tiles(answer, rng):
    bm = integer(rng, 2, 3)
    bn = bm * integer(rng, 2, 3)
    L = bm * bn * 2
    return [seen(answer, L, L, bm, bn), seen(answer, L, L, bn, bm)]


@holds("Lk > Lq: the queries are the newest tokens")
def more_keys(answer, rng):
    bm, bn = integer(rng, 2, 4), integer(rng, 2, 4)
    Lq = bm * integer(rng, 3, 5) + 1
    return seen(answer, Lq, Lq + bn * integer(rng, 1, 4) + 1, bm, bn)


@holds("Lq > Lk: the first queries see no key at all")
def more_queries(answer, rng):
    bm, bn = integer(rng, 2, 4), integer(rng, 2, 4)
    Lk = bn * integer(rng, 2, 4) + 1
    return seen(answer, Lk + 3 * max(bm, bn) + 1, Lk, bm, bn)


@holds("it sees every key, so nothing is skipped")
def one_query(answer, rng):
    return seen(answer, 1, integer(rng, 20, 60), integer(rng, 1, 64), 8)


@holds("lengths from 1 to 40, tiles from 1 to 9")
def any_sizes(answer, rng):
    sizes = [[integer(rng, 1, 40), integer(rng, 1, 40)] for _ in range(8)]
    return [seen(answer, *pair, integer(rng, 1, 9), integer(rng, 1, 9)) for pair in sizes]


@holds("the count is an int")
def an_int(answer, rng):
    sizes = (6, 6, 2, 2), (5, 3, 2, 2)
    given = "Lq, Lk, block_m, block_n = 6, 6, 2, 2 and 5, 3, 2, 2; the type of the answer"
    return Seen([type(answer(*four)).__name__ for four in sizes], ["int", "int"], given)


slip(
    "top-left",
    "The mask is aligned **top-left**: query i is taken to be at position i. It is at i + Lk - Lq, "
    "since the last query sees the last key.",
    (" + Lk - Lq", ""),
    (
        "max(math.ceil((last + 1) / block_n), 0)",
        "min(math.ceil((last + 1) / block_n), key_tiles)",
    ),
)
slip(
    "top-left, past the end",
    "The mask is aligned **top-left**: the offset Lk - Lq is missing. Query i is at position i + "
    "Lk - Lq. (Where Lq > Lk, some queries then even see more keys than there are.)",
    (" + Lk - Lq", ""),
)
slip(
    "distance",
    "The offset is taken as **|Lk - Lq|**. It is Lk - Lq, with its sign: with more queries than "
    "keys, the first queries are at negative positions.",
    ("Lk - Lq", "abs(Lk - Lq)"),
)
slip(
    "short tile as a whole one",
    "The **short last query tile** is treated as a full one, but its last query is Lq - 1. Queries "
    "that don't exist then see keys that don't exist.",
    ("min((i + 1) * block_m, Lq)", "(i + 1) * block_m"),
)
slip(
    "visited tiles",
    "These are the tiles that are **visited**. The exercise asks for the others, the skipped ones.",
    ("key_tiles - visited", "visited"),
)


@mistake(
    "This counts the **single entries** of the mask that are hidden, not the tiles in which every "
    "entry is hidden."
)
def cells_counted(Lq, Lk, block_m, block_n):
    return sum(k > q + Lk - Lq for q in range(Lq) for k in range(Lk))


slip(
    "the first query decides",
    "A tile counts as skipped when its **first** query sees none of its keys. But the last query "
    "of the tile sees furthest, so it decides.",
    ("min((i + 1) * block_m, Lq) - 1", "i * block_m"),
)
slip(
    "masked tiles counted",
    "Tiles on the mask's edge are counted too: those of which **some** query sees a part. They are "
    "masked, not skipped; count only tiles in which no query sees any key.",
    ("min((i + 1) * block_m, Lq) - 1", "i * block_m"),
    ("math.ceil((last + 1) / block_n)", "(last + 1) // block_n"),
)
slip(
    "not itself",
    "Off by one at the diagonal: a query sees the key **at its own position** too, so a query at "
    "position t sees t + 1 keys.",
    ("last + 1", "last"),
)
slip(
    "rounded down",
    "The number of tiles that a query tile visits is **rounded down**: a tile that it sees only in "
    "part must be visited as well.",
    ("math.ceil((last + 1) / block_n)", "(last + 1) // block_n"),
)
slip(
    "tails dropped",
    "The short tiles at the **ends** are left out: there are Lq / block_m by Lk / block_n tiles, "
    "both rounded up.",
    ("math.ceil(Lk / block_n)", "Lk // block_n"),
    ("math.ceil(Lq / block_m)", "Lq // block_m"),
    ("key_tiles - visited", "max(key_tiles - visited, 0)"),
)
slip(
    "not clamped",
    "A query tile before the first key gets a **negative** number of tiles to visit. It visits "
    "none, so it skips all the tiles there are, and no more.",
    ("max(math.ceil((last + 1) / block_n), 0)", "math.ceil((last + 1) / block_n)"),
)
slip(
    "tile sizes swapped",
    "block_m and block_n are **swapped**: block_m counts queries (rows), block_n counts keys "
    "(columns).",
    ("block_m, block_n):", "block_n, block_m):"),
)
slip(
    "a float",
    "The numbers are right, but the count is a **float**. Counts are ints, as the signature says.",
    ("return skipped", "return float(skipped)"),
)
slip(
    "a tensor",
    "The numbers are right, but the count is a **tensor**. Return an int, as the signature says.",
    ("return skipped", "import torch\n    return torch.tensor(skipped)"),
)
slip(
    "one tile too many",
    "A key tile too many is visited where they come out even: 4 keys in tiles of 2 are 2 tiles. "
    "Dividing with // and adding 1 is not rounding up, and a query sees no key after its own.",
    ("math.ceil((last + 1) / block_n)", "(last + 1) // block_n + 1"),
)
slip(
    "rounded to the nearest",
    "The number of tiles that a query tile visits is rounded **to the nearest**: a tile that it "
    "sees only a little of must be visited as well.",
    ("math.ceil((last + 1) / block_n)", "int((last + 1) / block_n + 0.5)"),
)
slip(
    "one tile at least",
    "Every query tile visits **one key tile at least** here. With more queries than keys, the "
    "first ones see no key at all, and visit none.",
    ("block_n), 0)", "block_n), 1)"),
)
slip(
    "offset upside down",
    "The offset has the **wrong sign**: query i is at position i + Lk - Lq, since the last query "
    "sees the last key.",
    ("Lk - Lq", "Lq - Lk"),
)
slip(
    "offset not below 0",
    "The offset is **kept at 0 or above**. With more queries than keys it is negative: the first "
    "queries see no key at all.",
    ("+ Lk - Lq", "+ max(Lk - Lq, 0)"),
)
slip(
    "last keys dropped",
    "The **short last key tile** is not counted: there are Lk / block_n key tiles, rounded up.",
    ("math.ceil(Lk / block_n)", "Lk // block_n"),
)
slip(
    "entries counted",
    "These are the **entries** of the skipped tiles, not the tiles.",
    ("return skipped", "return skipped * block_m * block_n"),
)


@mistake(
    "The mask is applied to **tile numbers**, as if tile i saw tiles up to i. That is right only "
    "for square tiles that come out even: think in positions of queries and keys."
)
def tile_numbers(Lq, Lk, block_m, block_n):
    rows, columns = math.ceil(Lq / block_m), math.ceil(Lk / block_n)
    return sum(j > i + columns - rows for i in range(rows) for j in range(columns))


@mistake(
    "This is the formula for a **square** mask of square tiles, n (n - 1) / 2. It ignores Lk, or "
    "block_n: go through the query tiles one by one."
)
def triangle(Lq, Lk, block_m, block_n):
    n = math.ceil(Lq / block_m)
    return n * (n - 1) // 2


SKIPPED = Exercise.of(
    __name__,
    "4.2 skipped tiles",
    title="Count the tiles that need no work",
    section="5 · Tiles that need no work",
)
