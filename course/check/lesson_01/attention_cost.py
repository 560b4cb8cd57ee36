"""Exercise 1.4: what one call of attention costs, in FLOPs and in bytes."""

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip


@right
def attention_cost(B, Lq, Lk, Hq, Hkv, D, bytes_each):
    flops = 4 * B * Hq * Lq * Lk * D
    numbers = 2 * B * D * (Lq * Hq + Lk * Hkv)  # q and o, k and v
    return flops, numbers * bytes_each


@also_right
def one_by_one(B, Lq, Lk, Hq, Hkv, D, each):
    """From the shapes."""
    q = o = B * Lq * Hq * D
    k = v = B * Lk * Hkv * D
    score = 2 * D  # a product and a sum for each of D numbers
    return B * Hq * Lq * Lk * (score + 2 * D), each * (q + k + v + o)


def seen(answer, *sizes):
    """Ask about B, Lq, Lk, Hq, Hkv, D, bytes_each."""
    return Seen.of(answer, sizes, wanted=one_by_one(*sizes), names=("flops", "moved"))


@holds("one query, one head, one byte per number")
def one_head(answer, rng):
    return seen(answer, 1, 1, integer(rng, 5, 99), 1, 1, 8 * integer(rng, 2, 9), 1)


@holds("Lq > 1")
def several_queries(answer, rng):
    return seen(answer, 1, integer(rng, 2, 9), integer(rng, 10, 99), 1, 1, 8, 1)


@holds("G = 4: k and v have fewer heads than q")
def shared_heads(answer, rng):
    Hkv = integer(rng, 2, 5)
    return seen(answer, 1, 1, integer(rng, 5, 99), 4 * Hkv, Hkv, 16, 1)


@holds("B > 1")
def batch(answer, rng):
    return seen(answer, integer(rng, 2, 5), 1, integer(rng, 5, 99), 1, 1, 16, 1)


@holds("2 and 4 bytes per number")
def bytes_each(answer, rng):
    return [seen(answer, 1, 2, integer(rng, 5, 99), 4, 2, 16, each) for each in (2, 4)]


slip(
    "not shared",
    "The bytes of k and v are counted **once for every query head**. Heads of a group "
    "share one KV head, which need be read only once: there are Hkv of them.",
    ("Lk * Hkv", "Lk * Hq"),
    see="5 · Heads, and how they share",
)
slip(
    "FLOPs by KV heads",
    "The FLOPs are counted with **Hkv** heads. Sharing saves reading, not arithmetic: "
    "each of the Hq query heads computes scores of its own.",
    ("B * Hq", "B * Hkv"),
)
slip(
    "half the FLOPs",
    "The FLOPs are **half** of what they should be. Either only one of the two products "
    "(scores, weighted sum) is counted, or a multiplication and an addition count as one.",
    ("flops = 4", "flops = 2"),
)
slip(
    "output forgotten",
    "The bytes lack **the output**: o is as large as q and has to be written.",
    ("= 2 * B * D", "= B * D"),
    ("+ Lk", "+ 2 * Lk"),
)
slip(
    "values forgotten",
    "The bytes lack **the values** (or the keys): both have to be read.",
    ("= 2 * B * D", "= B * D"),
    ("(Lq *", "(2 * Lq *"),
)
slip(
    "only k and v",
    "The bytes are those of **k and v only**. q has to be read and o written, too.",
    ("Lq * Hq + ", ""),
)
slip(
    "scores counted",
    "The bytes include a **matrix of scores**. Here only what must be moved counts: "
    "q, k and v in, o out.",
    ("numbers * bytes_each", "(numbers + B * Hq * Lq * Lk) * bytes_each"),
)
slip(
    "numbers, not bytes",
    "This counts **numbers, not bytes**: each takes `bytes_each`.",
    (" * bytes_each", ""),
)

ATTENTION_COST = Exercise.of(
    __name__, "1.4 attention cost", title="FLOPs and bytes", section="6 · What it costs"
)
