"""Exercise 2.3: bytes per token in the KV cache, and how many users fit."""

from course.check.draw import integer
from course.check.kinds import kinds_seen
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip

BY_HAND = "Bytes of a token"
FIT = "How many users fit"


@right
def kv_plan(layers, Hq, Hkv, D, bytes_each, context, weights, memory):
    token = 2 * layers * Hkv * D * bytes_each  # a key and a value; Hq doesn't matter
    users = (memory - weights) // (token * context)
    return token, max(0, users)


@also_right
def user_by_user(layers, Hq, Hkv, D, bytes_each, context, weights, memory):
    """Let users in until one finds no room."""
    token = 0
    for _ in ("k", "v"):
        token += layers * Hkv * D * bytes_each
    users, taken = 0, weights + token * context
    while taken <= memory:
        users, taken = users + 1, taken + token * context
    return token, users


def seen(answer, *sizes):
    return Seen.of(answer, sizes, wanted=user_by_user(*sizes), names=("bytes per token", "users"))


def draw(rng, Hkv, group):
    """Layers, Hq, Hkv, D, bytes per element, context."""
    layers, D = integer(rng, 3, 12), 16 * integer(rng, 2, 6)
    return layers, group * Hkv, Hkv, D, 2, 100 * integer(rng, 3, 9)


def bytes_of_a_user(sizes):
    return user_by_user(*sizes, 0, 0)[0] * sizes[5]


def filled(answer, sizes, users, rest, weights):
    """Ask about a memory with room for this many users, and a fraction `rest` of another."""
    user = bytes_of_a_user(sizes)
    return seen(answer, *sizes, weights, weights + users * user + int(rest * user))


# The first three ask about the bytes per token: the weights are light, and no user only just fits,
# so that a mistake in the users alone fails later, with a pointer to the section about users.
FEW, ROOM, LIGHT = 3, 0.45, 1000


@holds("Hkv = Hq: every query head has its own keys", see=BY_HAND)
def own_heads(answer, rng):
    return filled(answer, draw(rng, 4, 1), FEW, ROOM, LIGHT)


@holds("eight query heads share a KV head", see=BY_HAND)
def shared_heads(answer, rng):
    return filled(answer, draw(rng, 2, 8), FEW, ROOM, LIGHT)


@holds("1 and 4 bytes per element", see=BY_HAND)
def formats(answer, rng):
    sizes = draw(rng, 2, 8)
    return [filled(answer, (*sizes[:4], n, sizes[5]), FEW, ROOM, LIGHT) for n in (1, 4)]


@holds("many users, and weights that matter", see=FIT)
def beside_weights(answer, rng):
    sizes = draw(rng, 2, 8)
    users, weights = integer(rng, 15, 30), integer(rng, 3, 9) * bytes_of_a_user(sizes)
    return filled(answer, sizes, users, 0.9, weights)


@holds("the last user takes the last byte", see=FIT)
def exactly_full(answer, rng):
    sizes = draw(rng, 2, 8)
    few = (*sizes[:5], integer(rng, 2, 5))  # so few tokens that one more or less matters
    return [
        filled(answer, sizes, integer(rng, 3, 20), 0.0, 10**6),
        filled(answer, sizes, 1, 0.0, 10**6),
        filled(answer, few, integer(rng, 21, 30), 0.0, 10**6),
    ]


@holds("both results are ints", see=FIT)
def whole_numbers(answer, rng):
    sizes = draw(rng, 3, 3)
    return kinds_seen(answer, (*sizes, 10**6, 10**9), "int and int")


@holds("no room for a user, or not even for the weights", see=FIT)
def none_fits(answer, rng):
    sizes, weights = draw(rng, 2, 8), 10**10
    return [
        filled(answer, sizes, 0, 0.7, weights),
        seen(answer, *sizes, weights, weights // 2),
    ]


slip(
    "K alone",
    "The bytes of a token are **half** of what they should be: it leaves a key *and* a value.",
    ("2 * ", ""),
    see=BY_HAND,
)
slip(
    "query heads",
    "The bytes are counted with **Hq** heads. Query heads of a group share one KV head, "
    "and only its k and v are kept: there are Hkv of them.",
    ("* Hkv", "* Hq"),
    see=BY_HAND,
)
slip(
    "the group for the heads",
    "The bytes are counted with **Hq / Hkv** heads. That is how many query heads share a "
    "KV head; what is kept is the k and v of each KV head.",
    ("* Hkv", "* (Hq // Hkv)"),
    see=BY_HAND,
)
slip(
    "heads left out",
    "`Hkv` does not appear: **every KV head** keeps keys and values of its own.",
    (" * Hkv", ""),
    see=BY_HAND,
)
slip(
    "always two bytes",
    "Every number is taken to have **2 bytes**, as in the lesson. Here it has `bytes_each`.",
    ("* bytes_each", "* 2"),
    see=BY_HAND,
)
slip(
    "a user's bytes",
    "The first number is what a **user** takes. The task asks what one token takes.",
    ("return token", "return token * context"),
    see=BY_HAND,
)
slip(
    "weights forgotten",
    "The bytes of a token are right, but the users get **the whole memory**: the weights "
    "are in it as well.",
    ("(memory - weights)", "memory"),
    see=FIT,
)
slip(
    "nine tenths",
    "The users get **90 % of the memory**, as in the lesson's example. Here all of it may be used.",
    ("(memory - weights)", "int(0.9 * memory - weights)"),
    see=FIT,
)
slip(
    "rounded up",
    "The number of users is **rounded up**: the last one has no room for all tokens.",
    ("(memory - weights) // (token * context)", "-((weights - memory) // (token * context))"),
    see=FIT,
)
slip(
    "tokens, not users",
    "The second number is how many **tokens** fit. Each user takes `context` of them.",
    ("(token * context)", "token"),
    see=FIT,
)
slip(
    "fewer than none",
    "Where not even the weights fit, the number of users is **negative**. It should be 0.",
    ("max(0, users)", "users"),
    see=FIT,
)
slip(
    "not whole",
    "The number of users is a **fraction**. Part of a user doesn't fit: divide with //.",
    ("//", "/"),
    see=FIT,
)
slip(
    "layers left out",
    "`layers` does not appear: **every layer** keeps keys and values of its own.",
    ("* layers ", ""),
    see=BY_HAND,
)
slip(
    "D left out",
    "`D` does not appear: a key has **D numbers**.",
    (" * D", ""),
    see=BY_HAND,
)
slip(
    "numbers, not bytes",
    "This counts **numbers**, not bytes: each has `bytes_each`.",
    (" * bytes_each", ""),
    see=BY_HAND,
)
slip(
    "always four bytes",
    "Every number is taken to have **4 bytes**. Here it has `bytes_each`.",
    ("* bytes_each", "* 4"),
    see=BY_HAND,
)
slip(
    "bits",
    "These are **bits**: the size of a number is given in bytes.",
    ("2 * layers", "16 * layers"),
    see=BY_HAND,
)
slip(
    "queries kept as well",
    "The heads of **queries** are counted, too. Only keys and values are kept.",
    ("2 * layers * Hkv", "2 * layers * (Hkv + Hq)"),
    see=BY_HAND,
)
slip(
    "a float",
    "The bytes of a token are right, but a **float**: they are whole.",
    ("return token", "return float(token)"),
    see=BY_HAND,
)
slip(
    "users in floats",
    "The number of users is right, but a **float**: users are whole. Two whole numbers "
    "divided with // give one.",
    ("max(0, users)", "float(max(0, users))"),
    see=FIT,
)
slip(
    "tensors",
    "The numbers are right, but they are **tensors**: two plain whole numbers are asked.",
    (
        "    return token, max(0, users)",
        "    import torch\n\n    return torch.tensor(token), torch.tensor(max(0, users))",
    ),
    see=FIT,
)
slip(
    "weights added",
    "The weights are **added** to the memory. They take some of it.",
    ("memory - weights", "memory + weights"),
    see=FIT,
)
slip(
    "weights for every user",
    "Every user gets **weights of his own**. They are in the memory once.",
    ("(memory - weights) // (token * context)", "memory // (token * context + weights)"),
    see=FIT,
)
slip(
    "rounded to the nearest",
    "The number of users is **rounded to the nearest**: a user who fits by more than half "
    "does not fit.",
    ("(memory - weights) // (token * context)", "round((memory - weights) / (token * context))"),
    see=FIT,
)
slip(
    "the last byte refused",
    "A user who takes **the last byte** is refused. Exactly full is not too full.",
    ("(memory - weights)", "(memory - weights - 1)"),
    see=FIT,
)
slip(
    "one user more",
    "There is **one user too many**: rounding down counts only those who fit, already.",
    ("max(0, users)", "max(0, users + 1)"),
    see=FIT,
)
slip(
    "one user less",
    "There is **one user too few**: nothing has to stay free.",
    ("max(0, users)", "max(0, users - 1)"),
    see=FIT,
)
slip(
    "at least one",
    "Where none fits there is still **one user**. It should be 0.",
    ("max(0", "max(1"),
    see=FIT,
)
slip(
    "a positive remainder",
    "Where not even the weights fit, what is missing is **taken for room**: there are 0 users.",
    ("(memory - weights) //", "abs(memory - weights) //"),
    see=FIT,
)
slip(
    "one token too many",
    "Each user takes **context + 1** tokens. It should be `context`.",
    ("token * context", "token * (context + 1)"),
    see=FIT,
)
slip(
    "one token too few",
    "Each user takes **context - 1** tokens. It should be `context`.",
    ("token * context", "token * (context - 1)"),
    see=FIT,
)

USERS = Exercise.of(
    __name__, "2.3 kv plan", title="How many users fit", section="7 · What the cache takes"
)
