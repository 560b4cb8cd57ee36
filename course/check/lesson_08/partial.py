"""Exercise 8.1: the partial result of one split."""

import math
from dataclasses import replace

import torch

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from reference.flash_decoding import partial_attention

EPS = torch.finfo(torch.float32).eps
SPLIT = "2 · Split"
RAGGED = "6 · Ragged rows, and splits with nothing in them"


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


@holds("scores around +1000 in one row and around −1000 in the other")
def far_from_zero(answer, rng):
    """Too far for fp64, and too far from each other for one maximum."""
    several = []
    for shift in (1000.0, -1000.0):
        q, k, v = inputs(rng, 2, 24)
        q[:, 0], k[:, 0] = math.sqrt(q.shape[1]), shift  # adds `shift` to every score
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


slip(
    "not normalised",
    "o is still the plain weighted sum: it has to be divided by the sum of the weights. lse "
    "says how much this split counts; o must be its mean, or that amount counts twice.",
    (" / torch.where(total == 0, 1.0, total)", ""),
)
slip(
    "lse without max",
    "lse is only the log of the sum, measured from this split's own maximum. Other splits "
    "measure from theirs, so the maximum has to be added back.",
    ("safe + total.log()", "total.log()"),
)
slip(
    "no max",
    "The exponentials are taken without subtracting the maximum first: scores around "
    "1000 overflow, scores around −1000 vanish, in fp64 as well.",
    ("torch.where(m == -torch.inf, 0.0, m)", "torch.zeros_like(m)"),
)
slip(
    "base 2",
    "lse is in base 2. Outside a kernel it is always the natural logarithm.",
    ("(safe + total.log())", "((safe + total.log()) / math.log(2))"),
)
slip("no scale", "The scores are not multiplied by 1/√D.", (" / D**0.5", ""))
slip(
    "whole row",
    "All keys of the row were attended to. This worker owns only the cells from start to "
    "stop; the others belong to other workers.",
    ("    scores = q", "    start, stop = 0, length\n    scores = q"),
    see=SPLIT,
)
slip("1/D", "The scores are divided by D. The scale is 1/√D.", ("D**0.5", "D"))
slip(
    "lse is m",
    "lse is only the largest score. It lacks the logarithm of the sum: lse = m + log l.",
    ("safe + total.log()", "safe"),
)
slip(
    "lse is l",
    "What you return as lse is the sum of the exponentials itself. Take its logarithm, and "
    "add the maximum back.",
    ("safe + total.log()", "total"),
)
slip(
    "stop included",
    "One key too many: the key at `stop` belongs to the next split, where it is counted "
    "a second time. As everywhere in Python, `stop` is excluded.",
    ("[start:stop]", "[start : stop + 1]"),
    ("arange(start, stop)", "arange(start, stop + 1)"),
    see=SPLIT,
)
slip(
    "stop ignored",
    "Your split runs from `start` to the end of the row: it must end at `stop`.",
    ("[start:stop]", "[start:length]"),
    ("arange(start, stop)", "arange(start, length)"),
    see=SPLIT,
)
slip(
    "softmax first",
    "The softmax runs over the whole row, and the split is cut out of it afterwards. A worker "
    "doesn't know the other scores: softmax and lse are taken over its own keys alone.",
    ("k[start:stop]", "k[:length]"),
    ("arange(start, stop)", "arange(length)"),
    ("p @ v", "p[:, start:stop] @ v"),
)
slip(
    "masked, not cut",
    "o is NaN only when cells outside the split are NaN: you gave them weight 0, but that "
    "doesn't save you, since 0 · NaN is NaN. Cut k and v first.",
    ("[start:stop]", ""),
    ("torch.arange(start, stop)", "j"),
    (
        "    if causal:",
        "    j = torch.arange(len(k))\n"
        "    scores = scores.masked_fill((j < start) | (j >= stop), -torch.inf)\n"
        "    if causal:",
    ),
    see=RAGGED,
)
slip(
    "-1e9",
    "Hidden scores are −1e9, not −∞. A query that sees no key in this split then gets the "
    "mean of values it must not see, and reports an lse of −1e9.",
    ("> position, -torch.inf", "> position, -1e9"),
    see=RAGGED,
)
slip(
    "no mask",
    "`causal` makes no difference in your answer: a query may see keys only up to its own "
    "position.",
    ("if causal:", "if False:"),
    see=RAGGED,
)
slip(
    "top left",
    "The mask is aligned top-left: query i is taken to be at position i. It is at length − Lq "
    "+ i, after everything cached before.",
    ("arange(length - Lq, length)", "arange(Lq)"),
    see=RAGGED,
)
slip(
    "split's end",
    "The mask is aligned to the end of the split, as if the last query were at stop − 1. Positions "
    "are counted in the row: the last query is at length − 1, whichever split you are in.",
    ("arange(length - Lq, length)", "arange(stop - Lq, stop)"),
    see=RAGGED,
)
slip(
    "capacity",
    "The mask is aligned to the end of the cache's memory. The row ends at `length`; after "
    "that there are only unused cells.",
    ("arange(length - Lq, length)", "arange(len(k) - Lq, len(k))"),
    see=RAGGED,
)
slip(
    "local index",
    "The keys are numbered from 0 within the split when they are compared with the query's "
    "position. Key j of the split is at position start + j in the row.",
    ("arange(start, stop)", "arange(stop - start)"),
    see=RAGGED,
)
slip(
    "masked row",
    "A query that sees no key in this split gets NaN in o and lse: its maximum is −∞, and −∞ "
    "− (−∞) is not a number. Subtract a safe copy of the maximum.",
    ("torch.where(m == -torch.inf, 0.0, m)", "m"),
    see=RAGGED,
)
slip(
    "0 / 0",
    "A query that sees no key in this split gets NaN in o: its weights sum to 0, and 0 / 0 is "
    "not a number (torch.softmax of a row of −∞ does exactly that). Its o should be 0.",
    ("torch.where(total == 0, 1.0, total)", "total"),
    see=RAGGED,
)
slip(
    "empty lse 0",
    "An empty split has lse = 0 here. That is the log of a sum of 1, so it would count as "
    "much as a key with score 0. Where there are no keys, the sum is 0 and its log −∞.",
    ("torch.full((Lq,), -torch.inf)", "torch.zeros(Lq)"),
    see=RAGGED,
)
slip(
    "empty raises",
    "An empty split (start equal to stop) raises an error in your answer: there is no maximum "
    "of no scores. Handle that case first: return (0, −∞).",
    ("if start == stop:", "if False:"),
    see=RAGGED,
)

PARTIAL = Exercise.of(
    __name__, "8.1 partial", title="One worker's share", section="3 · Local attention"
)
