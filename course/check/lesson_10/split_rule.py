"""Exercise 10.2: a rule for the number of splits, scored by its regret, and how such rules fail."""

import math
from functools import lru_cache

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, right, slip
from course.hardware.regret import RULES, score
from course.hardware.split_curves import modelled, recorded
from course.recorded import load
from kernels.split_rules import SplitShape

BY_HAND = "1 · The U by hand"
FA2 = "3 · FlashAttention-2's rule"
GPUS = ("A10", "A100 80GB SXM", "H100 SXM")
BESIDE = ("FlashAttention-2", "FlashAttention-3", "cost model")
MEDIAN_ROOM, NINETIETH_ROOM = 0.02, 0.05  # above FlashAttention-2's, as a share of the least time


@right
def my_rule(shape):
    def cost(S):
        fullest = math.ceil(shape.programs * S / shape.num_sms)
        merge = 4 if S > 1 else 0  # in blocks, as all of it
        return fullest * (math.ceil(shape.blocks / S) + 0.5) + merge

    most = max(1, min(128, shape.blocks))
    return min(range(1, most + 1), key=cost)


@also_right
def like_fa2(shape):
    slots = 2 * shape.num_sms
    if shape.programs >= 0.8 * slots:
        return 1

    def efficiency(S):
        waves = shape.programs * S / slots
        return waves / math.ceil(waves)

    best = max(map(efficiency, shape.useful()), default=0.0)
    return next((S for S in shape.useful() if efficiency(S) >= 0.85 * best), 1)


@lru_cache(maxsize=1)
def scored_curves():
    """Return the curves of the recorded run, or the model's if there is none."""
    found = recorded(load("splits"))
    return tuple(found or [curve for name in GPUS for curve in modelled(name)])


@lru_cache(maxsize=1)
def scores_beside():
    """Return the scores of the rules shown next to the learner's."""
    return {name: score(name, RULES[name], scored_curves()) for name in BESIDE}


def told(splits):
    more = ", a float: use // or int()" if isinstance(splits, float) else ""
    return f"S = {splits!r}{more}"


def ask(answer, allowed, wanted, programs, blocks, num_sms):
    """Ask about one shape; the wanted answer is in words, since no single number is right."""

    def in_words(shape):
        S = answer(shape)
        whole = not isinstance(S, bool) and isinstance(S, int)
        return wanted if whole and allowed(S) else told(S)

    shape = SplitShape(programs=programs, blocks=blocks, num_sms=num_sms)
    given = f"programs = {programs}, blocks = {blocks}, num_sms = {num_sms}"
    return Seen.of(in_words, (shape,), wanted=wanted, given=given)


@holds("a whole number, from 1 to the number of blocks")
def in_bounds(answer, rng):
    programs = [1, integer(rng, 2, 40), integer(rng, 150, 900)]
    seen = []
    for many, num_sms in zip(programs, (108, 132, 72), strict=True):
        for blocks in (1, integer(rng, 2, 6), integer(rng, 300, 2000)):
            wanted = "S = 1" if blocks == 1 else f"a whole number from 1 to {blocks}"
            call = (many, blocks, num_sms)
            seen.append(ask(answer, lambda S, b=blocks: 1 <= S <= b, wanted, *call))
    return seen


@holds("a cache without any keys")
def no_keys(answer, rng):
    return ask(answer, lambda S: S == 1, "S = 1: nothing to split", integer(rng, 1, 300), 0, 132)


@holds("a quarter of the SMs have work: it must split")
def starved(answer, rng):
    """At most a quarter, and there are enough keys for all."""
    seen = []
    for num_sms in (72, 108, 132):
        programs = integer(rng, 1, num_sms // 4)
        wanted = "programs on at least a third of the SMs"
        call = (programs, integer(rng, 256, 2048), num_sms)
        seen.append(ask(answer, lambda S, p=programs, n=num_sms: 3 * p * S >= n, wanted, *call))
    return seen


@holds("all SMs have equal work: it must not split")
def full(answer, rng):
    """Every slot is taken, in every wave: splitting could only add work."""
    wanted = "S = 1: all SMs have equal work"
    return [
        ask(answer, lambda S: S == 1, wanted, 2 * n * integer(rng, 1, 4), integer(rng, 64, 1024), n)
        for n in (72, 108, 132)
    ]


def clamped(answer, curves):
    """Clamp a choice to what was tried; another property checks the bounds."""
    tried = {curve.shape: (curve.times_us[0][0], curve.times_us[-1][0]) for curve in curves}

    def rule(shape):
        least, most = tried[shape]
        return max(least, min(int(answer(shape)), most))

    return rule


def regret(answer, figure, word, room):
    curves, beside = scored_curves(), scores_beside()
    mine = getattr(score("", clamped(answer, curves), curves), figure)
    most = getattr(beside["FlashAttention-2"], figure) + room
    wanted = f"{word} of at most {100 * most:.1f} %"
    others = ", ".join(f"{name} {100 * getattr(x, figure):.1f} %" for name, x in beside.items())
    sources = " and ".join(sorted({curve.source for curve in curves}))
    return Seen(
        wanted if mine <= most else f"{word} of {100 * mine:.1f} %",
        wanted,
        f"{len(curves)} curves: {sources.replace(' and a model of', ',')}",
        remark=f"yours {100 * mine:.1f} %; {others}",
    )


@holds("at most FlashAttention-2's + 2 percentage points")
def median_regret(answer, rng):
    return regret(answer, "median", "a median", MEDIAN_ROOM)


@holds("at most FlashAttention-2's + 5 percentage points", name="90th percentile")
def ninetieth_percentile(answer, rng):
    return regret(answer, "ninetieth", "a 90th percentile", NINETIETH_ROOM)


@holds("at most FlashAttention-2's + 100 percentage points")
def worst_regret(answer, rng):
    return regret(answer, "worst", "a worst case", 1.0)


CHOICE = "min(range(1, most + 1), key=cost)"

slip(
    "always one",
    "This rule **never splits**: with one user the GPU starves. If it compares costs, is "
    "one of them rounded down to 0, so that not splitting looks free?",
    (CHOICE, "1"),
    see=BY_HAND,
)
slip(
    "always 16",
    "This rule takes **16 splits whatever the shape**, for a cache of one block just as "
    "for a batch that fills the GPU on its own.",
    (CHOICE, "16"),
    see=BY_HAND,
)
slip(
    "always 16, within bounds",
    "This rule takes **16 splits wherever there are enough blocks**: too many for a batch "
    "that fills the GPU, and far too few for one KV head.",
    (CHOICE, "min(16, most)"),
)
slip(
    "no bounds",
    "This is SMs over programs, **without bounds**: 0 where programs outnumber SMs, and "
    "more splits than blocks on short rows. Clamp at both ends.",
    (CHOICE, "shape.num_sms // shape.programs"),
    see=FA2,
)
slip(
    "the costliest",
    "This rule picks the number of splits that costs the **most**: is there a `max` where "
    "a `min` belongs?",
    ("return min(", "return max("),
    see="5 · Ours: write down what a split costs",
)
slip(
    "ignores blocks",
    "Each SM gets a program, but nothing checks whether there are **enough keys**: there "
    "can be no more splits than blocks.",
    (CHOICE, "max(1, shape.num_sms // shape.programs)"),
    see=FA2,
)
slip(
    "rounded down to 0",
    "SMs over programs, rounded down, is **0 where there are more programs than SMs** (as "
    "it is where there are no blocks). There is always at least one split.",
    (CHOICE, "min(shape.blocks, shape.num_sms // shape.programs)"),
    see=FA2,
)
slip(
    "not a whole number",
    "The result is **not a whole number**. Splits come whole: round, and mind the direction.",
    (CHOICE, "max(1.0, min(float(shape.blocks), shape.num_sms / shape.programs))"),
    see=FA2,
)
slip(
    "rounded up",
    "SMs over programs, **rounded up**: where the division leaves a remainder, a few SMs "
    "get a second program, and all the others wait for them. One split fewer would take "
    "half the time.",
    (CHOICE, "max(1, min(shape.blocks, math.ceil(shape.num_sms / shape.programs)))"),
    see="2 · The U of a real GPU",
)

RULE = Exercise.of(
    __name__,
    "10.2 split rule",
    title="Your own rule",
    section="6 · Regret: what a choice loses",
)
