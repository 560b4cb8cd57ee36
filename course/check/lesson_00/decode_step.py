"""Exercise 0.1: attention for one query."""

import torch

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


def seen(answer, q, k, v):
    wanted = attention(q[None, None, None], k[None, :, None], v[None, :, None])[0, 0, 0]
    return Seen.of(answer, (q, k, v), wanted=wanted)


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


@holds("200 keys, D = 16")
def many_keys(answer, rng):
    return seen(answer, *draw(rng, 200, 16))


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

DECODE_STEP = Exercise.of(
    __name__, "0.1 decode_step", title="One decode step", section="3 · One decode step, two ways"
)
