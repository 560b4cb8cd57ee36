"""Exercise 16.2: the bytes that one rank sends to merge its partial results."""

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from reference.distributed.schedules import (
    halving_reduce_scatter,
    ring_all_gather,
    ring_reduce_scatter,
    sent_chunks,
    shifted_all_to_all,
)

HEADS_FIRST = "7 · Heads first"


@right
def bytes_sent(merge, R, rows, D, size):
    partial = rows * (D * size + 4)  # (o, lse) of one rank
    if merge == "gather":
        return (R - 1) * partial
    if merge == "heads":
        return (R - 1) / R * partial
    sums = rows * 4 * (1 + D + 1)  # the largest lse; the weighted o, and the weights
    return 2 * (R - 1) / R * sums


@also_right
def by_schedule(merge, R, rows, D, size):
    """Adds up chunks over the rounds; whole numbers where they come out whole."""
    row = D * size + 4
    if merge == "gather":
        return sent_chunks(ring_all_gather(0, R)) * rows * row
    if merge == "heads":
        return sent_chunks(shifted_all_to_all(0, R)) * rows * row / R
    scatter = halving_reduce_scatter if R & (R - 1) == 0 else ring_reduce_scatter
    chunks = sent_chunks(scatter(0, R)) + sent_chunks(ring_all_gather(0, R))
    return chunks * (4 * rows + 4 * rows * (D + 1)) / R


def seen(answer, merge, R, rows, D, size):
    call = merge, R, rows, D, size
    wanted = float(by_schedule(*call))

    def as_float(*args):
        found = answer(*args)
        return found if isinstance(found, bool) or not isinstance(found, int) else float(found)

    names = ("merge", "R", "rows", "D", "size")
    given = ", ".join(f"{name} = {x!r}" for name, x in zip(names, call, strict=True))
    return Seen(as_float(*call), wanted, given, atol=1e-6, rtol=1e-9)


@holds("the table's examples")
def by_hand(answer, rng):
    return [
        seen(answer, "gather", 2, 1, 4, 4),
        seen(answer, "gather", 4, 2, 4, 2),
        seen(answer, "reduce", 2, 1, 4, 4),
        seen(answer, "heads", 2, 2, 4, 4),
    ]


def shape(rng, size):
    return 16 * integer(rng, 1, 64), 8 * integer(rng, 2, 32), size


@holds("gather on 2 to 64 ranks")
def gather(answer, rng):
    return [seen(answer, "gather", R, *shape(rng, 2)) for R in (2, integer(rng, 3, 64))]


@holds("reduce on 2 to 64 ranks")
def reduce(answer, rng):
    return [seen(answer, "reduce", R, *shape(rng, 4)) for R in (2, integer(rng, 3, 64))]


@holds("heads on 2 to 64 ranks")
def heads(answer, rng):
    return [seen(answer, "heads", R, *shape(rng, 2)) for R in (2, integer(rng, 3, 64))]


@holds("o in 16 and in 32 bits")
def sizes(answer, rng):
    rows, D, _ = shape(rng, 2)
    return [seen(answer, merge, 8, rows, D, size)
            for merge in ("gather", "reduce", "heads") for size in (2, 4)]  # fmt: skip


@holds("a single rank sends nothing", see=HEADS_FIRST)
def alone(answer, rng):
    return [seen(answer, merge, 1, 64, 128, 2) for merge in ("gather", "reduce", "heads")]


slip(
    "sent to itself",
    "A rank sends its partial to **R** ranks. One of them is itself: R - 1.",
    ("return (R - 1) * partial", "return R * partial"),
)
slip(
    "o alone",
    "The **lse** is missing: 4 bytes for every row.",
    ("(D * size + 4)", "(D * size)"),
)
slip(
    "lse in the dtype of o",
    "The lse is counted **in the dtype of o**. It is fp32 always: 4 bytes.",
    ("(D * size + 4)", "(D + 1) * size"),
)
slip(
    "sums in the dtype of o",
    "In a reduction you let the sums travel **in the dtype of o**. Sums would be rounded at every "
    "stop; they are fp32, 4 bytes a number.",
    ("rows * 4 * (1 + D + 1)", "rows * size * (1 + D + 1)"),
)
slip(
    "one number too few",
    "A reduction carries **two numbers more** than the D of o per row: first the largest lse, then "
    "the total of the weights.",
    ("(1 + D + 1)", "(D + 1)"),
)
slip(
    "the sums of o alone",
    "A reduction carries more than the **D numbers of o**: the largest lse, and the total of the "
    "weights.",
    ("(1 + D + 1)", "D"),
)
slip(
    "half an all-reduce",
    "The **factor 2** of the all-reduce is missing: the chunks are added up in one round trip, and "
    "handed round in a second.",
    ("return 2 * (R - 1) / R * sums", "return (R - 1) / R * sums"),
)
slip(
    "an all-reduce as everyone to everyone",
    "In an all-reduce you let every rank send all of its numbers **to everyone**. Each adds up an "
    "R-th part instead: 2 · (R - 1) / R.",
    ("return 2 * (R - 1) / R * sums", "return (R - 1) * sums"),
)
slip(
    "an all-reduce of R parts",
    "In an all-reduce, the part that a rank adds up **itself** is sent as well: twice everything, "
    "instead of 2 · (R - 1) / R.",
    ("return 2 * (R - 1) / R * sums", "return 2 * sums if R > 1 else 0"),
)
slip(
    "gather as a reduction",
    "gather is counted **like an all-reduce**. Nothing is added up on the way: every partial "
    "reaches every rank as it is.",
    ("return (R - 1) * partial", "return 2 * (R - 1) / R * partial"),
)
slip(
    "heads as a gather",
    "With heads you let everyone get **everything**. A rank is sent only its own heads, an R-th "
    "part.",
    ("return (R - 1) / R * partial", "return (R - 1) * partial"),
)
slip(
    "own heads sent",
    "With heads, the part that a rank **keeps** is counted as well: R - 1 of R parts are sent.",
    ("return (R - 1) / R * partial", "return partial if R > 1 else 0"),
)
slip(
    "one part of the heads",
    "With heads, only **one part** of R is counted. There are R - 1 others to send to.",
    ("return (R - 1) / R * partial", "return partial / R if R > 1 else 0"),
)
slip(
    "all ranks together",
    "These are the bytes of **all ranks together**. Asked for is what one of them sends.",
    ("return (R - 1) * partial", "return R * (R - 1) * partial"),
    ("return (R - 1) / R * partial", "return (R - 1) * partial"),
    ("return 2 * (R - 1) / R * sums", "return 2 * (R - 1) * sums"),
)
slip(
    "sent and received",
    "Every byte is counted **twice**, where it is sent and where it is received.",
    ("return (R - 1) * partial", "return 2 * (R - 1) * partial"),
    ("return (R - 1) / R * partial", "return 2 * (R - 1) / R * partial"),
    ("return 2 * (R - 1) / R * sums", "return 4 * (R - 1) / R * sums"),
)
slip(
    "rounds for bytes",
    "The gather is counted as if each of its **log₂ R rounds** sent one partial. In each round the "
    "message doubles: R - 1 in all.",
    ("return (R - 1) * partial", "return (R - 1).bit_length() * partial"),
)
slip(
    "divided without a rest",
    "`(R - 1) // R` is **always 0** in whole numbers. Multiply first, or divide with /.",
    ("return (R - 1) / R * partial", "return (R - 1) // R * partial"),
    ("return 2 * (R - 1) / R * sums", "return 2 * ((R - 1) // R) * sums"),
)
slip(
    "bits",
    "These are **bits**. Asked for are bytes.",
    ("partial = rows * (D * size + 4)", "partial = 8 * rows * (D * size + 4)"),
    ("sums = rows * 4 * (1 + D + 1)", "sums = 8 * rows * 4 * (1 + D + 1)"),
)
slip(
    "heads and reduce swapped",
    "**heads and reduce** have changed places: it is heads that sends each rank its part once.",
    ('merge == "heads"', 'merge == "reduce"'),
)
slip(
    "keys and values",
    "2 · D numbers a row are counted, as if **keys and values** travelled. It is one o row, and an "
    "lse.",
    ("(D * size + 4)", "(2 * D * size + 4)"),
)

BYTES_SENT = Exercise.of(
    __name__,
    "16.2 bytes sent",
    title="Bytes on the wire",
    section="5 · Three ways to merge, and their bytes",
)
