"""Exercise 8.1: the partial result of one split."""

import math
from dataclasses import replace

import torch

from course.check.draw import integer
from course.check.lesson_08.partial_mistakes import RAGGED, REDUCTION
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right
from reference.flash_decoding import partial_attention

EPS = torch.finfo(torch.float32).eps


@right
def partial(q, k, v, start, stop, length, causal=True):
    Lq, D = q.shape
    if start == stop:
        return torch.zeros_like(q), torch.full((Lq,), -torch.inf)
    scores = q @ k[start:stop].T / D**0.5  # (Lq, stop - start)
    if causal:
        position = torch.arange(length - Lq, length)[:, None]
        scores = scores.masked_fill(torch.arange(start, stop) > position, -torch.inf)
    m = scores.amax(-1, keepdim=True)
    safe = torch.where(m == -torch.inf, 0.0, m)  # -inf - (-inf) would be nan
    p = torch.exp(scores - safe)
    total = p.sum(-1, keepdim=True)
    o = p @ v[start:stop] / torch.where(total == 0, 1.0, total)
    return o, (safe + total.log())[:, 0]


@also_right
def key_by_key(q, k, v, start, stop, length, causal=True):
    """The online softmax of lesson 03, one key at a time."""
    o, lse = torch.zeros(len(q), v.shape[1]), torch.full((len(q),), -math.inf)
    for i in range(len(q)):
        for j in range(start, stop):
            if causal and j > length - len(q) + i:
                break
            score = q[i] @ k[j] / math.sqrt(q.shape[1])
            new = torch.logaddexp(lse[i], score)
            o[i] = torch.exp(lse[i] - new) * o[i] + torch.exp(score - new) * v[j]
            lse[i] = new
    return o, lse


def truth(q, k, v, start, stop, length, causal):
    """Return (o, lse) of one split, computed in fp64."""
    heads = (x.double()[:, None] for x in (q, k, v))  # one head
    o, lse = partial_attention(*heads, start=start, stop=stop, length=length, causal=causal)
    return o[:, 0].float(), lse[:, 0].float()


def seen(answer, q, k, v, start, stop, length, causal=True):
    """Call the answer on one split.

    A score is a sum of D products, and o a sum over the split's keys: each term may be off by
    one rounding, relative to the largest score and value involved.
    """
    scores = k[start:stop] @ q.T / math.sqrt(q.shape[1])
    scores, values = scores[scores.isfinite()].abs(), v[start:stop].abs()
    largest = max([1.0, *scores.flatten().tolist()]) * max([1.0, *values.flatten().tolist()])
    roundings = EPS * (q.shape[1] + stop - start)
    args = q, k, v, start, stop, length, causal
    return Seen.of(
        answer,
        args,
        wanted=truth(*args),
        given=f"Lq = {len(q)}, keys {start} to {stop} of {length}, capacity {len(k)}, "
        f"causal = {causal}",
        atol=roundings * largest,
        rtol=roundings,
        names=("o", "lse"),
        any_dtype=True,
    )


def inputs(rng, Lq, capacity):
    """Return random q (Lq, D) and k, v (capacity, D), of any width D."""
    D = integer(rng, 5, 40)
    return tuple(torch.randn(rows, D, generator=rng) for rows in (Lq, capacity, capacity))


@holds("the lesson's split 1: weights 6, 2, 2, values 1, 3, 9")
def by_hand(answer, rng):
    weights = torch.tensor([1.0, 2, 1, 6, 2, 2, 1, 1])
    values = torch.tensor([0.0, 4, 8, 1, 3, 9, 10, 14])
    return seen(answer, torch.ones(1, 1), weights.log()[:, None], values[:, None], 3, 6, 8)


@holds("the mean of one value is that value, to the last digit")
def one_key(answer, rng):
    """Nothing is summed here, so that even 1e-6 too much in a denominator shows."""
    weights, values = torch.rand(2, 6, 1, generator=rng) + 0.5
    wanted = values[3], weights[3].log()
    saw = seen(answer, torch.ones(1, 1), weights.log(), values, 3, 4, 6)
    return replace(saw, wanted=(wanted[0][None], wanted[1]), atol=1e-7, rtol=4 * EPS)


@holds("a split in the middle of the row")
def one_query(answer, rng):
    length = integer(rng, 20, 30)
    start = integer(rng, 3, 8)
    return seen(answer, *inputs(rng, 1, length + 5), start, start + integer(rng, 5, 9), length)


@holds("all cells outside the split are NaN", see=RAGGED)
def only_its_own(answer, rng):
    start, stop, length = integer(rng, 2, 5), integer(rng, 9, 14), 20
    q, k, v = inputs(rng, 2, 32)
    for x in (k, v):
        x[:start], x[stop:] = math.nan, math.nan
    return seen(answer, q, k, v, start, stop, length, causal=False)


@holds("scores around +1000 and around −1000: by row, then by key", see=REDUCTION)
def far_from_zero(answer, rng):
    """Too far for fp64, and too far from each other for one maximum, or for another key's score."""
    several = []
    alone = torch.where(torch.arange(24) == 9, 1000.0, -1000.0)
    for shift in (torch.full((24,), 1000.0), alone):
        q, k, v = inputs(rng, 2, 24)
        q[:, 0], k[:, 0] = math.sqrt(q.shape[1]), shift  # adds `shift` to the scores
        q[1, 0] *= -1
        several.append(seen(answer, q, k, v, 6, 12, 24))
    return several


@holds("Lq > 1 and causal", see=RAGGED)
def several_queries(answer, rng):
    """A long last split, where keys numbered from 0 show, one that ends early, the whole row."""
    length, Lq = integer(rng, 24, 30), integer(rng, 4, 6)
    ranges = [(integer(rng, 1, 2), length), (integer(rng, 10, 15), length - 2), (0, length)]
    return [seen(answer, *inputs(rng, Lq, length + 7), *ends, length) for ends in ranges]


@holds("the first queries see no key in this split", see=RAGGED)
def sees_nothing(answer, rng):
    length = integer(rng, 20, 30)
    return seen(answer, *inputs(rng, 5, length + 3), length - 3, length, length)


@holds("every query sees the whole split", name="causal=False", see=RAGGED)
def not_causal(answer, rng):
    length = integer(rng, 20, 30)
    return seen(answer, *inputs(rng, 4, length), length - 6, length, length, causal=False)


@holds("start == stop gives (0, −inf)", see=RAGGED)
def empty_split(answer, rng):
    at, Lq = integer(rng, 3, 9), integer(rng, 1, 3)
    cases = [(n, causal) for n in (at, 0) for causal in (True, False)]
    return [seen(answer, *inputs(rng, Lq, 12), n, n, n, causal) for n, causal in cases]


PARTIAL = Exercise.of(
    __name__, "8.1 partial", title="One worker's share", section="3 · Local attention"
)
