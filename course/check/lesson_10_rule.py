"""Exercise 10.2: a rule for the number of splits, scored by its regret, and how such rules fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from torch import Generator

from course.check.draw import integer
from course.check.spec import Exercise, Mistake, Property, Seen
from course.hardware.regret import RULES, Score, score
from course.hardware.split_curves import Curve, modelled, recorded
from course.recorded import load
from kernels.split_rules import SplitShape, splits_like_fa2

SECTION = "6 · Regret: what a choice loses"
GPUS = ("A10", "A100 80GB SXM", "H100 SXM")
BESIDE = ("FlashAttention-2", "FlashAttention-3", "cost model")
MEDIAN_ROOM, NINETIETH_ROOM = 0.02, 0.05  # above FlashAttention-2's, as a share of the least time
Rule = Callable[[SplitShape], int]


@lru_cache(maxsize=1)
def scored_curves() -> tuple[Curve, ...]:
    """Return the curves of the recorded run, or the model's if there is none."""
    found = recorded(load("splits"))
    return tuple(found or [curve for name in GPUS for curve in modelled(name)])


@lru_cache(maxsize=1)
def scores_beside() -> dict[str, Score]:
    """Return the scores of the rules shown next to the learner's."""
    return {name: score(name, RULES[name], scored_curves()) for name in BESIDE}


def _ask(answer: Rule, programs: int, blocks: int, num_sms: int) -> int:
    shape = SplitShape(programs=programs, blocks=blocks, num_sms=num_sms)
    try:
        return answer(shape)
    except Exception as error:
        error.add_note(_words(shape))
        raise


def _words(shape: SplitShape) -> str:
    return f"programs = {shape.programs}, blocks = {shape.blocks}, num_sms = {shape.num_sms}"


def _told(splits: object) -> str:
    more = ", a float: use // or int()" if isinstance(splits, float) else ""
    return f"S = {splits!r}{more}"


def _seen(answer: Rule, holds: Callable[[int], bool], wanted: str, *call: int) -> Seen:
    """Ask about one shape; the wanted answer is in words, since no single number is right."""
    S = _ask(answer, *call)
    whole = not isinstance(S, bool) and isinstance(S, int)
    return Seen(wanted if whole and holds(S) else _told(S), wanted, _words(SplitShape(*call)))


def _bounds(answer: Rule, rng: Generator) -> list[Seen]:
    programs = [1, integer(rng, 2, 40), integer(rng, 150, 900)]
    seen = []
    for many, num_sms in zip(programs, (108, 132, 72), strict=True):
        for blocks in (1, integer(rng, 2, 6), integer(rng, 300, 2000)):
            wanted = "S = 1" if blocks == 1 else f"a whole number from 1 to {blocks}"
            seen.append(
                _seen(answer, lambda S, b=blocks: 1 <= S <= b, wanted, many, blocks, num_sms)
            )
    return seen


def _no_keys(answer: Rule, rng: Generator) -> Seen:
    return _seen(answer, lambda S: S == 1, "S = 1: nothing to split", integer(rng, 1, 300), 0, 132)


def _starved(answer: Rule, rng: Generator) -> list[Seen]:
    """At most a quarter of the SMs have work, and there are enough keys for all."""
    seen = []
    for num_sms in (72, 108, 132):
        programs = integer(rng, 1, num_sms // 4)
        wanted = "programs on at least a third of the SMs"
        call = (programs, integer(rng, 256, 2048), num_sms)
        seen.append(_seen(answer, lambda S, p=programs, n=num_sms: 3 * p * S >= n, wanted, *call))
    return seen


def _full(answer: Rule, rng: Generator) -> list[Seen]:
    """Every slot is taken, in every wave: splitting could only add work."""
    return [
        _seen(
            answer,
            lambda S: S == 1,
            "S = 1: all SMs have equal work",
            2 * num_sms * integer(rng, 1, 4),
            integer(rng, 64, 1024),
            num_sms,
        )
        for num_sms in (72, 108, 132)
    ]


def _clamped(answer: Rule, curves: tuple[Curve, ...]) -> Rule:
    """Clamp a choice to what was tried; another property checks the bounds."""
    tried = {curve.shape: (curve.times_us[0][0], curve.times_us[-1][0]) for curve in curves}

    def rule(shape: SplitShape) -> int:
        least, most = tried[shape]
        return max(least, min(int(answer(shape)), most))

    return rule


def _regret(answer: Rule, figure: str, word: str, room: float) -> Seen:
    curves, beside = scored_curves(), scores_beside()
    mine = getattr(score("", _clamped(answer, curves), curves), figure)
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


def _median(answer: Rule, rng: Generator) -> Seen:
    return _regret(answer, "median", "a median", MEDIAN_ROOM)


def _ninetieth(answer: Rule, rng: Generator) -> Seen:
    return _regret(answer, "ninetieth", "a 90th percentile", NINETIETH_ROOM)


def _worst(answer: Rule, rng: Generator) -> Seen:
    return _regret(answer, "worst", "a worst case", 1.0)


def _ceil_one(shape: SplitShape) -> int:
    return max(1, min(shape.blocks, math.ceil(shape.num_sms / shape.programs)))


def _costliest(shape: SplitShape) -> int:
    def cost(S: int) -> float:
        fullest = math.ceil(shape.programs * S / shape.num_sms)
        return fullest * (math.ceil(shape.blocks / S) + 0.5) + (4 if S > 1 else 0)

    return max(range(1, max(1, min(128, shape.blocks)) + 1), key=cost)


RULE = Exercise(
    id="10.2",
    name="split rule",
    title="Your own rule",
    section=SECTION,
    solution_name="my_rule",
    properties=(
        Property("in bounds", "a whole number, from 1 to the number of blocks", _bounds),
        Property("no keys", "a cache without any keys", _no_keys),
        Property("starved", "a quarter of the SMs have work: it must split", _starved),
        Property("full", "all SMs have equal work: it must not split", _full),
        Property("median regret", "at most FlashAttention-2's + 2 percentage points", _median),
        Property("90th percentile", "at most FlashAttention-2's + 5 percentage points", _ninetieth),
        Property("worst regret", "at most FlashAttention-2's + 100 percentage points", _worst),
    ),
    mistakes=(
        Mistake(
            "always one",
            "This rule **never splits**: with one user the GPU starves. If it compares costs, is "
            "one of them rounded down to 0, so that not splitting looks free?",
            lambda shape: 1,
            see="1 · The U by hand",
        ),
        Mistake(
            "always 16",
            "This rule takes **16 splits whatever the shape**, for a cache of one block just as "
            "for a batch that fills the GPU on its own.",
            lambda shape: 16,
            see="1 · The U by hand",
        ),
        Mistake(
            "always 16, within bounds",
            "This rule takes **16 splits wherever there are enough blocks**: too many for a batch "
            "that fills the GPU, and far too few for one KV head.",
            lambda shape: max(1, min(16, shape.blocks)),
        ),
        Mistake(
            "no bounds",
            "This is SMs over programs, **without bounds**: 0 where programs outnumber SMs, and "
            "more splits than blocks on short rows. Clamp at both ends.",
            lambda shape: shape.num_sms // shape.programs,
            see="3 · FlashAttention-2's rule",
        ),
        Mistake(
            "the costliest",
            "This rule picks the number of splits that costs the **most**: is there a `max` where "
            "a `min` belongs?",
            _costliest,
            see="5 · Ours: write down what a split costs",
        ),
        Mistake(
            "ignores blocks",
            "Each SM gets a program, but nothing checks whether there are **enough keys**: there "
            "can be no more splits than blocks.",
            lambda shape: max(1, shape.num_sms // shape.programs),
            see="3 · FlashAttention-2's rule",
        ),
        Mistake(
            "rounded down to 0",
            "SMs over programs, rounded down, is **0 where there are more programs than SMs** (as "
            "it is where there are no blocks). There is always at least one split.",
            lambda shape: min(shape.blocks, shape.num_sms // shape.programs),
            see="3 · FlashAttention-2's rule",
        ),
        Mistake(
            "not a whole number",
            "The result is **not a whole number**. Splits come whole: round, and mind the "
            "direction.",
            lambda shape: max(1.0, min(float(shape.blocks), shape.num_sms / shape.programs)),
            see="3 · FlashAttention-2's rule",
        ),
        Mistake(
            "rounded up",
            "SMs over programs, **rounded up**: where the division leaves a remainder, a few SMs "
            "get a second program, and all the others wait for them. One split fewer would take "
            "half the time.",
            _ceil_one,
            see="2 · The U of a real GPU",
        ),
    ),
    alternative=splits_like_fa2,
)
