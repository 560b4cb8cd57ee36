"""Exercise 16.4: the shortest shared prefix for which cascade attention moves fewer bytes."""

import math

from course.check.draw import integer
from course.check.kinds import kinds_seen
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from course.hardware.shared_prefix import prefix_bytes

SECTION = "9 · A prefix that many share"


@right
def prefix_that_pays(B, Hq, Hkv, Lq, D, size):
    rows = Hq // Hkv * Lq  # query rows of one user and one KV head
    token = 2 * Hkv * D * size
    saved = (B * math.ceil(rows / 64) - math.ceil(B * rows / 64)) * token
    price = 4 * B * Lq * Hq * (D * size + 4)
    return price // saved + 1 if saved > 0 else math.inf


@also_right
def by_trying(B, Hq, Hkv, Lq, D, size):
    """Tries one length after the other, as long as another token can help."""
    dtype = {1: "fp8", 2: "bf16", 4: "fp32"}[size]
    shape = {"batch": B, "heads": (Hq, Hkv), "head_dim": D, "queries": Lq}
    one, two = (prefix_bytes(prefix=n, dtype=dtype, **shape) for n in (1, 2))
    if two[0] - one[0] <= two[1] - one[1]:
        return math.inf
    low, high = 0, 1
    while True:  # double, then halve
        apart, together = prefix_bytes(prefix=high, dtype=dtype, **shape)
        if together < apart:
            break
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        apart, together = prefix_bytes(prefix=middle, dtype=dtype, **shape)
        low, high = (low, middle) if together < apart else (middle, high)
    return high


def seen(answer, *call):
    return Seen.of(answer, call, wanted=by_trying(*call))


@holds("the table's examples")
def by_hand(answer, rng):
    return [seen(answer, *call) for call in ((2, 1, 1, 1, 4, 4), (32, 32, 8, 1, 128, 2))]


@holds("a single user: never", see=SECTION)
def one_user(answer, rng):
    return seen(answer, 1, 32, 8, integer(rng, 1, 4), 128, 2)


@holds("a few users, whose rows fit into one tile")
def one_tile(answer, rng):
    return seen(answer, integer(rng, 2, 15), 32, 8, 1, 128, 2)


@holds("many users: several tiles read the prefix")
def many_tiles(answer, rng):
    small = seen(answer, integer(rng, 900, 1200), 16, 1, 1, 4, 1)
    return [*(seen(answer, B, 64, 8, 1, 128, 2) for B in (9, integer(rng, 65, 400))), small]


@holds("G from 1 to 16")
def groups(answer, rng):
    return [seen(answer, integer(rng, 6, 20), 16, Hkv, 1, 64, 2) for Hkv in (16, 4, 1)]


@holds("several new tokens per user")
def new_tokens(answer, rng):
    return seen(answer, integer(rng, 4, 12), 32, 8, integer(rng, 2, 8), 128, 2)


@holds("a tile full of one user's rows: nothing to share")
def full_tiles(answer, rng):
    return seen(answer, integer(rng, 2, 9), 64, 8, 8 * integer(rng, 1, 3), 128, 2)


@holds("one user's rows take more than one tile")
def wide_rows(answer, rng):
    return seen(answer, integer(rng, 5, 20), 72, 8, integer(rng, 8, 12), 128, 2)


@holds("1, 2 and 4 bytes per number, other D")
def sizes(answer, rng):
    D = 16 * integer(rng, 2, 12)
    return [seen(answer, 6, 8, 2, 1, D, size) for size in (1, 2, 4)]


@holds("as many bytes is not fewer")
def a_tie(answer, rng):
    """B = 3, G = 1, D = 4, size = 1: 96 bytes for the partials, 16 saved by each token."""
    return seen(answer, 3, 1, 1, 1, 4, 1)


@holds("a whole number, or infinity")
def whole(answer, rng):
    return [kinds_seen(answer, (7, 32, 8, 1, 128, 2), "int"),
            kinds_seen(answer, (1, 8, 8, 1, 128, 2), "float")]  # fmt: skip


SAVED = "saved = (B * math.ceil(rows / 64) - math.ceil(B * rows / 64)) * token"
RETURN = "return price // saved + 1 if saved > 0 else math.inf"

slip(
    "no tiles",
    "B reads become **one**, whatever the batch. A tile holds 64 query rows; with more of them the "
    "prefix is read once per tile.",
    (SAVED, "saved = (B - 1) * token"),
)
slip(
    "half a tile",
    "The number of tiles is **not rounded up**: a tile that is not full reads all keys as well.",
    (SAVED, "saved = (B * rows / 64 - B * rows / 64 + B - B * rows / 64) * token"),
)
slip(
    "rounded down",
    "The number of tiles is **rounded down**: 65 rows need two.",
    (SAVED, "saved = (B * math.ceil(rows / 64) - max(1, B * rows // 64)) * token"),
)
slip(
    "a tile for each user, whatever its rows",
    "Apart, each user reads the prefix **once**, whatever the rows. More than 64 rows of one KV "
    "head are several tiles.",
    (SAVED, "saved = (B - math.ceil(B * rows / 64)) * token"),
)
slip(
    "a row for each user",
    "A user brings **one query row** per KV head. It is G · Lq: the heads of a group, and all new "
    "tokens.",
    ("rows = Hq // Hkv * Lq", "rows = 1"),
)
slip(
    "new tokens not in the tile",
    "The new tokens are left out of the **tile**: each brings G rows.",
    ("rows = Hq // Hkv * Lq", "rows = Hq // Hkv"),
)
slip(
    "all heads in a tile",
    "The rows of **all** query heads share a tile. A tile works on one KV head: G heads of a user.",
    ("rows = Hq // Hkv * Lq", "rows = Hq * Lq"),
)
slip(
    "K alone",
    "A token of the prefix is a key **and** a value.",
    ("token = 2 * Hkv * D * size", "token = Hkv * D * size"),
)
slip(
    "query heads and KV heads",
    "Query heads and KV heads are **mixed up**: keys and values exist once per KV head, o and lse "
    "once per query head.",
    ("token = 2 * Hkv * D * size", "token = 2 * Hq * D * size"),
)
slip(
    "one KV head",
    "The keys of **one KV head** are counted, but the partials of all heads.",
    ("token = 2 * Hkv * D * size", "token = 2 * D * size"),
)
slip(
    "for free",
    "The partials cost **nothing** here. Each is written and read again.",
    ("price = 4 * B", "price = 0 * B"),
)
slip(
    "one partial",
    "**One** partial per row is counted, written and read. There are two: of the prefix, and of "
    "the user's own keys.",
    ("price = 4 * B", "price = 2 * B"),
)
slip(
    "partials without lse",
    "The **lse** of the partials is missing: 4 bytes a row.",
    ("(D * size + 4)", "(D * size)"),
)
slip(
    "lse in the dtype of o",
    "The lse is counted in the dtype of o. It is fp32: **4 bytes**.",
    ("(D * size + 4)", "(D + 1) * size"),
)
slip(
    "partials of one token",
    "The partials are counted for **one new token** per user. There are Lq.",
    ("B * Lq * Hq", "B * Hq"),
)
slip(
    "partials of one user",
    "The partials of **one user** are counted. There are B.",
    ("price = 4 * B * Lq", "price = 4 * Lq"),
)
slip(
    "as many is enough",
    "With **as many bytes** nothing is gained yet. Asked for is the first length that takes fewer.",
    (RETURN, "return -(-price // saved) if saved > 0 else math.inf"),
)
slip(
    "one too short",
    "The length is **one token too short**: rounded down, it takes as many bytes, or more.",
    (RETURN, "return price // saved if saved > 0 else math.inf"),
)
slip(
    "0 for never",
    "Where sharing **never** pays, the answer must be infinite; 0 would mean that it always does.",
    ("else math.inf", "else 0"),
)
slip(
    "-1 for never",
    "Where sharing **never** pays, the answer must be `math.inf`, not a special number.",
    ("else math.inf", "else -1"),
)
slip(
    "not a whole number",
    "The answer is **not a whole number**. Tokens are whole.",
    ("price // saved + 1 if", "price / saved if"),
)

PREFIX_THAT_PAYS = Exercise.of(
    __name__,
    "16.4 prefix that pays",
    title="When a shared prefix pays",
    section=SECTION,
)
