"""Exercise 0.2: the bytes of keys and values that a decode step reads."""

from course.check.draw import integer
from course.check.kinds import kinds_seen
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip


@right
def cache_bytes(Lk, Hq, Hkv, D, bytes_per_number):
    return 2 * Lk * Hkv * D * bytes_per_number


@also_right
def added_up(Lk, Hq, Hkv, D, size):
    return sum([Lk * Hkv * D * size] * 2)


def numbers(rng):
    """A random model: Hq is a true multiple of Hkv, and no two factors are alike."""
    Lk = integer(rng, 1000, 99_999)
    Hkv = integer(rng, 2, 8)
    G = integer(rng, 2, 8)
    D = 2 * integer(rng, 10, 150) + 1
    return Lk, G * Hkv, Hkv, D, 2 ** integer(rng, 0, 2)


def seen(answer, args):
    return Seen.of(answer, args, wanted=cache_bytes(*args))


@holds("one token, one head, D = 1, two bytes per number")
def by_hand(answer, rng):
    return seen(answer, (1, 1, 1, 1, 2))


@holds("300 tokens, 8/2 heads, D = 64, fp32")
def as_in_the_lesson(answer, rng):
    return seen(answer, (300, 8, 2, 64, 4))


@holds("the result is an int")
def a_whole_number(answer, rng):
    return kinds_seen(answer, numbers(rng), "int")


@holds("random lengths, heads and sizes")
def any_model(answer, rng):
    return seen(answer, numbers(rng))


slip(
    "keys only",
    "Only **one of the two** caches is counted: a step reads keys and values.",
    ("2 * ", ""),
)
slip(
    "query heads counted",
    "The **query heads** are counted, but the cache has only KV heads: the query heads of "
    "a group read the same one.",
    ("* Hkv", "* Hq"),
)
slip(
    "numbers, not bytes",
    "This counts **numbers**, not bytes: each takes `bytes_per_number`.",
    (" * bytes_per_number", ""),
)
slip(
    "size fixed at 4",
    "Every number is taken to have 4 bytes: **`bytes_per_number` is not used**.",
    ("* bytes_per_number", "* 4"),
)
slip(
    "query heads, and keys only",
    "Two slips at once: the **query heads** are counted instead of the KV heads, and "
    "only **one of the two** caches is counted.",
    ("2 * Lk * Hkv", "Lk * Hq"),
)
slip(
    "a float",
    "The number is right, but it is a **float**: bytes are counted in whole numbers.",
    ("2 *", "2.0 *"),
)
slip(
    "bits",
    "This counts **bits**: the size of a number is already in bytes.",
    ("2 *", "16 *"),
)
slip(
    "size fixed at 2",
    "Every number is taken to have 2 bytes: **`bytes_per_number` does not appear**.",
    ("* bytes_per_number", "* 2"),
)
slip(
    "heads left out",
    "`Hkv` does not appear: **every KV head** has keys and values of its own.",
    (" * Hkv", ""),
)
slip(
    "the group for the heads",
    "This counts **Hq / Hkv** heads: that is how many query heads share a KV head, not how many "
    "KV heads there are.",
    ("* Hkv", "* (Hq // Hkv)"),
)
slip(
    "one token",
    "These are the bytes of **one token**. A step reads the keys and values of all Lk of them.",
    (" * Lk", ""),
)
slip(
    "D left out",
    "`D` does not appear: a key is not one number but **D of them**.",
    (" * D", ""),
)
slip(
    "D fixed at 64",
    "Every key is taken to have **64 numbers**, as in the lesson. Here it has D.",
    ("* D", "* 64"),
)
slip(
    "query and output counted",
    "**q and o** are counted as well. The task asks for the bytes of keys and values alone.",
    ("2 * Lk * Hkv", "2 * (Lk * Hkv + Hq)"),
)
slip(
    "the query counted",
    "**The query** is counted as well. The task asks for the bytes of keys and values alone.",
    ("2 * Lk * Hkv", "(2 * Lk * Hkv + Hq)"),
)
slip(
    "KV heads and query heads",
    "The heads of **keys and queries** are added. The cache has Hkv heads of keys, and as many of "
    "values.",
    ("2 * Lk * Hkv", "Lk * (Hkv + Hq)"),
)
slip(
    "one token more",
    "There is **one token too many**: the new one is among the Lk already.",
    ("* Lk", "* (Lk + 1)"),
)
slip(
    "one token less",
    "There is **one token too few**: all Lk of them are read.",
    ("* Lk", "* (Lk - 1)"),
)
slip(
    "a tensor",
    "The number is right, but it is a **tensor**: a plain whole number is asked.",
    ("return 2 * Lk", "import torch\n    return torch.tensor(2) * Lk"),
)

CACHE_BYTES = Exercise.of(
    __name__, "0.2 cache_bytes", title="Bytes of a decode step", section="4 · Names you will meet"
)
