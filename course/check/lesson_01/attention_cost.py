"""Exercise 1.4: what one call of attention costs, in FLOPs and in bytes."""

from course.check.draw import integer
from course.check.kinds import kinds_seen
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


def any_numbers(rng):
    """B, Lq, Lk, Hq, Hkv, D, bytes_each: no two alike, G and D no powers of two."""
    B, Hkv, G = integer(rng, 2, 4), integer(rng, 5, 6), (3, 7)[integer(rng, 0, 1)]
    D = 2 * integer(rng, 20, 60) + 1
    return B, integer(rng, 8, 13), integer(rng, 200, 999), G * Hkv, Hkv, D, 2 * integer(rng, 1, 2)


@holds("everything at once")
def any_sizes(answer, rng):
    return seen(answer, *any_numbers(rng))


@holds("both results are ints")
def whole_numbers(answer, rng):
    return kinds_seen(answer, any_numbers(rng), "int and int")


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
slip(
    "batch left out of the FLOPs",
    "`B` does not appear in the FLOPs: **every sequence** has scores of its own.",
    ("4 * B", "4"),
)
slip(
    "batch left out of the bytes",
    "`B` does not appear in the bytes: **every sequence** has q, k, v and o of its own.",
    ("2 * B", "2"),
)
slip(
    "FLOPs of one query",
    "`Lq` does not appear in the FLOPs: **each of the Lq queries** has Lk scores.",
    ("Hq * Lq * Lk", "Hq * Lk"),
)
slip(
    "FLOPs of one head",
    "`Hq` does not appear in the FLOPs: **each query head** has scores of its own.",
    ("B * Hq * Lq", "B * Lq"),
)
slip(
    "FLOPs without D",
    "`D` does not appear in the FLOPs: a score is a sum of **D products**.",
    ("Lk * D", "Lk"),
)
slip(
    "FLOPs of queries with queries",
    "The FLOPs have Lq twice: each query meets the **Lk keys**.",
    ("Lq * Lk", "Lq * Lq"),
)
slip(
    "FLOPs of keys with keys",
    "The FLOPs have Lk twice: only the **Lq queries** are compared with keys.",
    ("Lq * Lk", "Lk * Lk"),
)
slip(
    "twice the FLOPs",
    "The FLOPs are **twice** what they should be: 2 for each of the D products of a score, and "
    "as many for the weighted sum.",
    ("flops = 4", "flops = 8"),
)
slip(
    "FLOPs times bytes",
    "The FLOPs are multiplied by **`bytes_each`**: an operation is counted once, however wide "
    "its numbers are.",
    ("Lk * D\n", "Lk * D * bytes_each\n"),
)
slip(
    "bytes of one query",
    "q and o are counted for **one query**. There are Lq.",
    ("(Lq * Hq", "(Hq"),
)
slip(
    "bytes without D",
    "`D` does not appear in the bytes: each head of each token has **D numbers**.",
    ("2 * B * D", "2 * B"),
)
slip(
    "bytes without heads",
    "The heads don't appear in the bytes: q and o have **Hq**, k and v **Hkv**.",
    ("Lq * Hq + Lk * Hkv", "Lq + Lk"),
)
slip(
    "only q and o",
    "The bytes are those of **q and o only**. k and v have to be read, too.",
    (" + Lk * Hkv", ""),
)
slip(
    "only q and k",
    "The bytes are **half** of what they should be: four tensors are moved, q, k, v and o.",
    ("= 2 * B", "= B"),
)
slip(
    "read for every query",
    "k and v are counted **once for every query**. What must be moved is each of them once.",
    ("Lk * Hkv", "Lq * Lk * Hkv"),
)
slip(
    "k and v as long as q",
    "k and v are counted with **Lq** tokens. They have Lk.",
    ("Lk * Hkv", "Lq * Hkv"),
)
slip(
    "q as long as k",
    "q and o are counted with **Lk** tokens. They have Lq.",
    ("Lq * Hq", "Lk * Hq"),
)
slip(
    "q with KV heads",
    "q and o are counted with **Hkv** heads. They have Hq; only k and v have fewer.",
    ("Lq * Hq +", "Lq * Hkv +"),
)
slip(
    "the group for the heads",
    "k and v are counted with **Hq / Hkv** heads: that is how many query heads share one.",
    ("Lk * Hkv", "Lk * (Hq // Hkv)"),
)
slip(
    "scores counted twice",
    "The bytes include a **matrix of scores**, written and read. Here only what must be moved "
    "counts: q, k and v in, o out.",
    ("numbers * bytes_each", "(numbers + 2 * B * Hq * Lq * Lk) * bytes_each"),
)
slip(
    "always two bytes",
    "Every number is taken to have **2 bytes**. Here it has `bytes_each`.",
    ("* bytes_each", "* 2"),
)
slip(
    "bits",
    "These are **bits**: the size of a number is given in bytes.",
    ("numbers * bytes_each", "8 * numbers * bytes_each"),
)
slip(
    "FLOPs a float",
    "The FLOPs are right, but a **float**: they are counted in whole numbers.",
    ("return flops", "return float(flops)"),
)
slip(
    "bytes a float",
    "The bytes are right, but a **float**: they are counted in whole numbers.",
    ("numbers * bytes_each", "float(numbers * bytes_each)"),
)
slip(
    "tensors",
    "The numbers are right, but they are **tensors**: two plain whole numbers are asked.",
    (
        "return flops, numbers * bytes_each",
        "import torch\n    return torch.tensor(flops), torch.tensor(numbers * bytes_each)",
    ),
)

ATTENTION_COST = Exercise.of(
    __name__, "1.4 attention cost", title="FLOPs and bytes", section="6 · What it costs"
)
