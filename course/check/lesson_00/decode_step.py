"""Exercise 0.1: attention for one query."""

import math

import torch

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from reference.attention import attention


@right
def decode_step(q, k, v):
    scores = (k @ q) / q.shape[0] ** 0.5
    p = torch.softmax(scores, -1)
    return p @ v


@also_right
def sum_over_keys(q, k, v):
    """Broadcasting instead of matrix products, softmax written out."""
    scores = (q * k).sum(-1) * q.numel() ** -0.5
    weights = torch.exp(scores - scores.max())
    return (weights.unsqueeze(-1) * v).sum(0) / weights.sum()


def draw(rng, Lk, D):
    """A query (D,), keys and values (Lk, D); scores spread wide enough to tell scales apart."""
    q = 2 * torch.randn(D, generator=rng)
    return q, *(torch.randn(Lk, D, generator=rng) for _ in "kv")


def seen(answer, q, k, v, **near):
    wanted = attention(q[None, None, None], k[None, :, None], v[None, :, None])[0, 0, 0]
    return Seen.of(answer, (q, k, v), wanted=wanted, **near)


@holds("a single key gets all the weight")
def one_key(answer, rng):
    q, k, v = draw(rng, 1, 4)
    return Seen.of(answer, (q, k, v), wanted=v[0])


@holds("three keys, D = 4")
def a_few_keys(answer, rng):
    return seen(answer, *draw(rng, 3, 4))


@holds("eight of each")
def as_many_keys_as_dims(answer, rng):
    return seen(answer, *draw(rng, 8, 8))


@holds("hundreds of keys; D is no power of two")
def many_keys(answer, rng):
    Lk, D = integer(rng, 150, 300), 2 * integer(rng, 8, 20) + 1
    q, k, v = draw(rng, Lk + 5, 2 * D)
    k[Lk:], v[Lk:] = math.nan, math.nan  # k and v are cut out of a cache
    return [
        seen(answer, q[:D], k[:Lk, :D], v[:Lk, D:]),
        seen(answer, *draw(rng, integer(rng, 2, 9), 1)),
    ]


@holds("scores near 1000, and near -1000")
def large_scores(answer, rng):
    """D = 4, so that the scores are exact in fp32: the first column of k."""
    found = []
    for near in (1000, -1000):
        q, k, v = draw(rng, 5, 4)
        q[0], k[:, 1:] = 2.0, 0.0
        k[:, 0] = near + torch.randint(4, (5,), generator=rng)
        # near 1000 a score, or the lse, is rounded by up to 6e-5: so are the weights, several times
        found.append(seen(answer, q, k, v, atol=1e-3, rtol=1e-3))
    return found


slip(
    "no scale",
    "The scores are **not divided by √D**: the weights come out too uneven.",
    (" / q.shape[0] ** 0.5", ""),
)
slip(
    "divided by D",
    "The scores are divided by **D instead of √D**: the weights come out too even.",
    (" ** 0.5", ""),
)
slip(
    "no softmax",
    "The scores are used as weights **without softmax**: they are not all positive and "
    "do not sum to 1.",
    ("torch.softmax(scores, -1)", "scores"),
)
slip(
    "exponentials not divided by their sum",
    "The weights are exponentials **not divided by their sum**: they don't add up to 1.",
    ("torch.softmax(scores, -1)", "torch.exp(scores)"),
)
slip(
    "keys summed instead of values",
    "The weighted sum runs over the **keys**. Keys are what the query is compared with; "
    "what it reads are the values.",
    ("p @ v", "p @ k"),
)
slip(
    "scaled after softmax",
    "√D divides the **weights**, after the softmax, so they no longer sum to 1. Divide the "
    "scores instead, before it.",
    (" / q.shape[0] ** 0.5", ""),
    ("scores, -1)", "scores, -1) / q.shape[0] ** 0.5"),
)
slip(
    "keys and values swapped",
    "**k and v are swapped**: the query is compared with the keys, the values are summed.",
    ("k @ q", "v @ q"),
    ("p @ v", "p @ k"),
)
slip(
    "√Lk instead of √D",
    "The scores are divided by the root of the **number of keys**; D is the length of a query.",
    ("q.shape[0]", "k.shape[0]"),
)
slip(
    "best key only",
    "The value of the **best key alone** is returned. Softmax gives every key a share.",
    ("p @ v", "v[scores.argmax()]"),
)
slip(
    "plain mean",
    "Every value gets **the same weight**: the query is never used.",
    ("p @ v", "v.mean(0)"),
)
slip(
    "exp as it is",
    "Large scores go into exp **as they are**: above 88 it overflows in fp32, and far below "
    "zero all weights round to 0, which leaves 0 / 0. `torch.softmax` takes care of both.",
    ("torch.softmax(scores, -1)", "torch.exp(scores) / torch.exp(scores).sum()"),
)
slip(
    "divided by their sum, without exp",
    "The scores are divided by **their sum** as they are. Softmax takes the exponential of "
    "each first: weights must be positive.",
    ("torch.softmax(scores, -1)", "scores / scores.sum()"),
)
slip(
    "powers of two",
    "The weights are powers of **2 instead of e**: they come out too even.",
    ("torch.softmax(scores, -1)", f"torch.softmax({math.log(2)} * scores, -1)"),
)
slip(
    "multiplied by √D",
    "The scores are **multiplied** by √D: divide them by it.",
    (" / q.shape", " * q.shape"),
)
for root in (2, 4, 8):
    slip(
        f"√{root**2} for every D",
        f"The scores are divided by **{root}**, whatever D is. D is the length of the query.",
        ("q.shape[0] ** 0.5", str(root)),
    )
slip(
    "q before k",
    "`q @ k` sums over the **keys** instead of the D numbers of a key: it needs k transposed, "
    "or k first.",
    ("k @ q", "q @ k"),
)
for name, kept in (("first", "1:"), ("last", ":-1")):
    slip(
        f"{name} key left out",
        f"The **{name} key** is left out. There is no mask: the query reads every one of the keys.",
        ("    scores =", f"    k, v = k[{kept}], v[{kept}]\n    scores ="),
    )
slip(
    "averaged",
    "The sum is divided by the **number of keys** once more. The weights sum to 1 already.",
    ("p @ v", "p @ v / len(k)"),
)
slip(
    "weights returned",
    "These are the **weights**, one per key. What is asked is their sum over the values.",
    ("p @ v", "p"),
)
slip(
    "one row too many",
    "The numbers are right, but o is a **matrix of one row**. For one query it has shape (D,).",
    ("p @ v", "(p @ v)[None]"),
)
slip(
    "in double",
    "The numbers are right, but in **fp64**: o has the inputs' dtype, fp32.",
    ("p @ v", "(p @ v).double()"),
)

DECODE_STEP = Exercise.of(
    __name__, "0.1 decode_step", title="One decode step", section="3 · One decode step, two ways"
)
