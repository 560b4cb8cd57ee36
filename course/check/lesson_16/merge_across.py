"""Exercise 16.1: merge the partial results of several ranks by all-reduce."""

import math
from functools import partial, reduce

import torch

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip
from reference.distributed.collectives import OPERATIONS
from reference.online_softmax import merge_states

BEGINNING = "1 · Send the answer, not the keys"
NEVER = "a message that never comes"
MOST_CALLS = 12  # of collectives, before the check gives up


@right
def merge_across(o, lse, all_reduce):
    largest = all_reduce(lse, "max")
    ruler = torch.where(largest == -torch.inf, 0.0, largest)
    weight = torch.exp(lse - ruler)
    total = all_reduce(weight, "sum")
    merged = all_reduce(weight[..., None] * o, "sum")
    merged = merged / torch.where(total == 0, 1.0, total)[..., None]
    return merged, largest + total.log()


@also_right
def in_one_message(o, lse, all_reduce):
    """The sums and the normaliser travel together."""
    largest = all_reduce(lse, "max")
    weight = torch.exp(lse - largest.clamp(min=torch.finfo(lse.dtype).min))[..., None]
    sums = all_reduce(torch.cat([weight * o, weight], -1), "sum")
    total = sums[..., -1]
    o = (sums[..., :-1] / total[..., None]).masked_fill((total == 0)[..., None], 0.0)
    return o, torch.where(total == 0, -torch.inf, largest + total.log())


def found_by_chance(rng, shape, around=0.0, D=3):
    """What a rank found: o (*shape, D) and lse (*shape) near `around`, fp32."""
    lse = around + torch.randn(shape, generator=rng)
    return torch.randn(*shape, D, generator=rng), lse


def nothing(shape, D=3):
    """What a rank without a key has found."""
    return torch.zeros(*shape, D), torch.full(shape, -torch.inf)


class Waits(BaseException):
    """A rank has called a collective whose result is not known yet: (x, op)."""


def _reduced(results, x, op):
    for result in results:
        return result.clone()
    raise Waits(x, OPERATIONS[op])


def run_together(answer, partials):
    """What every rank returns. Ranks take turns from one collective to the next, without threads.

    Each time, all of them begin anew and are given the results that are known so far. If they do
    not all want the same next, some would wait for ever: then NEVER comes of it, on all ranks.
    """
    known = []
    while len(known) < MOST_CALLS:
        wanted, done = [], []
        for o, lse in partials:
            all_reduce = partial(_reduced, iter(known))
            try:
                done.append(answer(o.clone(), lse.clone(), all_reduce))
            except Waits as call:
                wanted.append(call.args)
        if not wanted:
            return done
        if done or len({(x.shape, op) for x, op in wanted}) > 1:
            break
        known.append(reduce(wanted[0][1], [x for x, _ in wanted]))
    return [NEVER] * len(partials)


def seen(answer, partials, given):
    """Run the answer on as many ranks as there are partials; every rank's result is looked at."""
    got = run_together(answer, partials)
    wanted = merge_states(*zip(*partials, strict=True))
    names = tuple(f"rank {rank}" for rank in range(len(partials)))
    finite = [abs(x) for _, lse in partials for x in lse.flatten().tolist() if math.isfinite(x)]
    # an exp at the distance of two lse, a handful of roundings for each rank; values are below 6
    near = 6 * torch.finfo(torch.float32).eps * len(partials) * (4 + max(finite, default=0.0))
    return Seen(tuple(got), (tuple(wanted),) * len(got), given, atol=near, rtol=0.0, names=names)


def found(o, weight):
    """A partial of one row, D = 1, whose keys weigh e^lse = weight."""
    return torch.tensor([[o]]), torch.tensor([math.log(weight) if weight else -math.inf])


@holds("the table's examples")
def by_hand(answer, rng):
    return [
        seen(answer, [found(4.0, 2), found(5.0, 2)], "o = 4 and 5, e^lse = 2 and 2"),
        seen(answer, [found(4.0, 2), found(5.0, 6)], "o = 4 and 5, e^lse = 2 and 6"),
        seen(answer, [found(4.0, 2), found(5.0, 2), found(0.0, 0)], "the first, and an empty rank"),
    ]


@holds("two ranks, lse within a few units")
def two_ranks(answer, rng):
    return seen(answer, [found_by_chance(rng, (4,)) for _ in range(2)], "two ranks, 4 rows")


@holds("three to six ranks")
def many_ranks(answer, rng):
    ranks = integer(rng, 3, 6)
    return seen(
        answer, [found_by_chance(rng, (5,)) for _ in range(ranks)], f"{ranks} ranks, 5 rows"
    )


@holds("o (B, Lq, Hq, D), as decoding has it")
def four_dimensions(answer, rng):
    parts = [found_by_chance(rng, (2, 3, 4), D=5) for _ in range(3)]
    return seen(answer, parts, "three ranks, o (2, 3, 4, 5)")


@holds("lse near -200, 0 and 200", see=BEGINNING)
def far_apart(answer, rng):
    parts = [found_by_chance(rng, (4,), around) for around in (-200.0, 0.0, 200.0)]
    low = [found_by_chance(rng, (4,), around) for around in (-300.0, -301.0)]
    return [
        seen(answer, parts, "three ranks, lse near -200, 0 and 200"),
        seen(answer, low, "two ranks, lse near -300: e^lse is 0 in fp32"),
    ]


@holds("one rank holds no key", see=BEGINNING)
def an_empty_rank(answer, rng):
    return seen(
        answer,
        [found_by_chance(rng, (4,)), nothing((4,)), found_by_chance(rng, (4,))],
        "rank 1 is empty",
    )


@holds("some rows have no key on any rank: o = 0, lse = -inf", see=BEGINNING)
def an_empty_row(answer, rng):
    parts = [found_by_chance(rng, (4,)) for _ in range(2)]
    for o, lse in parts:
        o[2], lse[2] = 0.0, -torch.inf
    return seen(answer, parts, "two ranks; no rank has a key for row 2")


@holds("an lse of -inf in some rows of a rank, others not", see=BEGINNING)
def rows_of_their_own(answer, rng):
    parts = [found_by_chance(rng, (4,)) for _ in range(3)]
    for rank, (o, lse) in enumerate(parts):
        o[rank], lse[rank] = 0.0, -torch.inf
    return seen(answer, parts, "three ranks; rank r has no key for row r")


SUM_O = 'merged = all_reduce(weight[..., None] * o, "sum")'
RULER = "ruler = torch.where(largest == -torch.inf, 0.0, largest)"

slip(
    "every rank counts alike",
    "The ranks are **averaged** as if each had the same share of the softmax. A rank's share is "
    "e^lse: that is what its lse is for.",
    ("weight = torch.exp(lse - ruler)", "weight = torch.ones_like(lse)"),
)
slip(
    "every full rank counts alike",
    "Each rank that has a key gets **the same weight**. Its share of the softmax is e^lse.",
    ("weight = torch.exp(lse - ruler)", "weight = (lse > -torch.inf).float()"),
)
slip(
    "no common ruler",
    "e^lse is computed **without subtracting the largest lse** of all ranks. It overflows, or "
    "becomes 0 on every rank, where scores are large.",
    (RULER, "ruler = torch.zeros_like(largest)"),
    ("largest + total.log()", "total.log()"),
    see=BEGINNING,
)
slip(
    "a ruler for each rank",
    "Each rank subtracts **its own lse**, so that all weights are 1: the rulers differ, and the "
    "sums must not be added.",
    ('largest = all_reduce(lse, "max")', "largest = lse"),
    see=BEGINNING,
)
slip(
    "weights upside down",
    "The exponent has the **wrong sign**: the rank with the smallest lse gets the largest weight.",
    ("torch.exp(lse - ruler)", "torch.exp(ruler - lse).nan_to_num(0.0, 0.0, 0.0)"),
)
slip(
    "minus infinity from minus infinity",
    "Where **no rank has a key**, -inf - (-inf) is not a number. Subtract something finite there: "
    "e^(-inf - 0) is 0, as it should be.",
    (RULER, "ruler = largest"),
    see=BEGINNING,
)
slip(
    "nothing divided by nothing",
    "Where **no rank has a key**, the sums are 0, and 0 / 0 is not a number. There o must be 0.",
    ("torch.where(total == 0, 1.0, total)[..., None]", "total[..., None]"),
    see=BEGINNING,
)
slip(
    "the largest lse for all",
    "The lse is only the **largest** of the ranks' lse. The others add to it: log of the total.",
    ("largest + total.log()", "largest"),
)
slip(
    "lse on its own ruler",
    "The lse lacks the **largest** one, which was subtracted before the exponentials: add it back.",
    ("largest + total.log()", "total.log()"),
)
slip(
    "lse added up",
    "The lse of the ranks are **added**. It is their exponentials that add.",
    ("largest + total.log()", 'all_reduce(lse, "sum")'),
)
slip(
    "o not weighted",
    "The o of the ranks are added **without their weights**, and then divided by the sum of these.",
    ("weight[..., None] * o", "o"),
)
slip(
    "not normalised",
    "o is not **divided by the total** of the weights: it is a sum, not a mean.",
    ("merged = merged / torch.where(total == 0, 1.0, total)[..., None]", "pass"),
)
slip(
    "own total",
    "Each rank divides by **its own weight** instead of the total of all ranks: the normaliser "
    "has to be reduced, too.",
    ('total = all_reduce(weight, "sum")', "total = weight"),
)
slip(
    "own o",
    "Each rank keeps **its own part** of the weighted sum: it has to be reduced over ranks.",
    (SUM_O, "merged = weight[..., None] * o"),
)
slip(
    "largest of the sums",
    'The weighted o are reduced by **"max"**. They are terms of a sum.',
    (SUM_O, 'merged = all_reduce(weight[..., None] * o, "max")'),
)
slip(
    "largest of the weights",
    'The weights are reduced by **"max"**, so their total is always 1. They are terms of a sum.',
    ('total = all_reduce(weight, "sum")', 'total = all_reduce(weight, "max")'),
)
slip(
    "powers of two",
    "The weights are **powers of 2**, but the lse are natural logarithms.",
    ("torch.exp(lse - ruler)", "torch.exp2(lse - ruler)"),
)
slip(
    "log to base 2",
    "The lse is a logarithm **to base 2**, or in part. It must be natural, as those given are.",
    ("largest + total.log()", "largest + total.log2()"),
)
slip(
    "a little more than the total",
    "Something small is **added to the total** so that it is never 0. That changes every result; "
    "treat the empty rows on their own.",
    ("torch.where(total == 0, 1.0, total)[..., None]", "(total + 1e-3)[..., None]"),
)
slip(
    "the two swapped",
    "The two results are **swapped**: o comes first, then lse.",
    ("return merged, largest + total.log()", "return largest + total.log(), merged"),
)
slip(
    "divided by the number of ranks",
    "The normalised o are **averaged** over the ranks instead of weighted by their shares.",
    (SUM_O, 'merged = all_reduce(o, "sum") * total[..., None] / '
            'all_reduce(torch.ones_like(lse), "sum")[..., None]'),
)  # fmt: skip


@mistake(
    "A rank without a key **returns at once**, and the others wait for its message for ever. All "
    "ranks must take part in every collective: an empty one contributes weights of 0.",
    see=BEGINNING,
)
def an_empty_rank_goes_home(o, lse, all_reduce):
    if (lse == -torch.inf).all():
        return o, lse
    return merge_across(o, lse, all_reduce)


@mistake("Nothing is exchanged: each rank returns **what it has found itself**.")
def each_for_itself(o, lse, all_reduce):
    return o, lse


MERGE_ACROSS = Exercise.of(
    __name__,
    "16.1 merge across",
    title="Merge across ranks",
    section="5 · Three ways to merge, and their bytes",
)
